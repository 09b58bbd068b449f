"""Chunk transitions: what critics learn from, as arrays of a batch; whole episodes of them, as they are collected.

Source: the project's policy interface, section 5.  Observations and actions are physical; rewards are summed over the
steps really executed.  A batch is a mapping with the observation keys, the same keys under ``next.``, ``action``
``(B, k, D)``, and the arrays of ``ChunkTransition``, ``(B,)`` each; online also ``latent`` ``(B, *latent_shape)`` for
methods that act through latents.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from robopolicy.core.errors import ConfigError
from robopolicy.rl.returns import StepRewards, chunks, monte_carlo

NEXT, LATENT = "next.", "latent"
REWARD, DISCOUNT, MC_RETURN, STEPS = "reward", "discount", "mc_return", "n"


@dataclass(frozen=True)
class ChunkTransitions:
    """Numbers of ``N`` transitions, ``(N,)`` each.

    ``reward``: sum of ``gamma^i r_i`` over the ``n`` steps executed (fewer than ``k`` at an end); ``discount``:
    ``gamma^n``, 0 where the future ended (a time limit does not end it); ``mc_return``: discounted rewards to the end
    of the episode; ``success``: outcome of the episode.  Float32, ``n`` int64, the rest bool.
    """

    reward: np.ndarray
    discount: np.ndarray
    n: np.ndarray
    mc_return: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    success: np.ndarray

    def __len__(self) -> int:
        return len(self.reward)

    def rows(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Batch entries of ``rows`` ``(B,)``."""
        return {f.name: getattr(self, f.name)[rows] for f in fields(self)}

    @staticmethod
    def joined(parts: Sequence[ChunkTransitions]) -> ChunkTransitions:
        """One after the other."""
        columns: dict[str, Any] = {
            f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(ChunkTransitions)
        }
        return ChunkTransitions(**columns)

    @staticmethod
    def of(
        steps: StepRewards, gamma: float, k: int, success: bool, truncated: bool, stride: int = 1
    ) -> ChunkTransitions:
        """Transitions of one episode that begin at every ``stride``-th step (1: sliding chunks; ``k``: decisions).

        ``success`` and ``truncated`` say how the episode ended; a transition is truncated if the time limit cut it.
        """
        size = len(steps.reward)
        chunk = chunks(steps, gamma, k)
        ended, begin = chunk.discount == 0, slice(None, None, stride)
        cut = (np.arange(size) + k >= size) & ~ended & truncated
        return ChunkTransitions(
            reward=chunk.reward[begin].astype(np.float32),
            discount=chunk.discount[begin].astype(np.float32),
            n=chunk.n[begin],
            mc_return=monte_carlo(steps, gamma)[begin].astype(np.float32),
            terminated=ended[begin],
            truncated=cut[begin],
            success=np.full(size, success)[begin],
        )


@dataclass(frozen=True)
class EpisodeChunks:
    """One finished episode as it was executed: ``T`` decisions of ``k`` actions, ``L`` environment steps.

    ``observations``: key -> ``(T + 1, n_obs_steps, ...)``, what was seen at each decision and at the end; ``action``
    ``(T, k, D)`` float32, physical, within the bounds, the last repeated where the episode ended inside a chunk;
    ``latent`` ``(T, *latent_shape)`` or None; ``step_rewards`` and ``step_successes`` ``(L,)``, one a step.
    ``terminated``: the task ended it; ``truncated``: the time limit did.  ``env_steps`` is what it cost to collect,
    steps that were cut off included.  ``(round, index)`` names the episode.
    """

    index: int
    seed: int
    observations: Mapping[str, np.ndarray]
    action: np.ndarray
    latent: np.ndarray | None
    step_rewards: np.ndarray
    step_successes: np.ndarray
    terminated: bool
    truncated: bool
    env_steps: int
    round: int = 0

    def __post_init__(self) -> None:
        decisions, steps = len(self.action), len(self.step_rewards)
        if not decisions or -(-steps // self.action.shape[1]) != decisions or len(self.step_successes) != steps:
            raise ConfigError(
                f"episode {self.index}: {decisions} decisions of {self.action.shape[1]} actions do not make "
                f"{steps} rewards and {len(self.step_successes)} success flags"
            )
        for key, values in self.observations.items():
            if len(values) != decisions + 1:
                raise ConfigError(
                    f"episode {self.index}: '{key}' has {len(values)} observations, expected one for each of "
                    f"{decisions} decisions and one for the end"
                )
        if self.latent is not None and len(self.latent) != decisions:
            raise ConfigError(f"episode {self.index}: {len(self.latent)} latents for {decisions} decisions")

    def __len__(self) -> int:
        """Decisions, which are transitions."""
        return len(self.action)

    @property
    def success(self) -> bool:
        """Whether the task was solved at any step."""
        return bool(np.any(self.step_successes))

    def until_success(self) -> EpisodeChunks:
        """The episode up to its first success, which terminates it; itself without one."""
        if not self.success:
            return self
        steps = int(np.argmax(self.step_successes)) + 1
        k = self.action.shape[1]
        decisions = -(-steps // k)
        action = self.action[:decisions].copy()
        action[-1] = repeat_last(action[-1], steps - (decisions - 1) * k)
        return dataclasses.replace(
            self,
            observations={key: values[: decisions + 1] for key, values in self.observations.items()},
            action=action,
            latent=None if self.latent is None else self.latent[:decisions],
            step_rewards=self.step_rewards[:steps],
            step_successes=self.step_successes[:steps],
            terminated=True,
            truncated=False,
        )


def repeat_last(action: np.ndarray, executed: int) -> np.ndarray:
    """Actions ``(k, D)`` of which ``executed`` >= 1 happened: the others become copies of the last that did."""
    out = action.copy()
    out[executed:] = out[executed - 1]
    return out
