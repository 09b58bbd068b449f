"""Policies whose success rate is known beforehand, for tests of evaluation (no torch, no learning).

All keep the part of the policy contract that evaluation uses: ``act``, ``reset``, ``observation_spec``,
``action_spec``.  The reaching ones are made for ``robopolicy.testing.envs.PointReach``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np

from robopolicy.core.chunk import ActionChunk
from robopolicy.core.errors import ConfigError
from robopolicy.core.seeding import generator
from robopolicy.core.specs import ENVIRONMENT_STATE, STATE, ActionSpace, ActionSpec, ObservationSpec
from robopolicy.testing.envs import PointReach

Keys = Sequence[Sequence[int]]


class KnownAnswerPolicy(ABC):
    """Holds the specs of an environment and turns one executed action a row into a whole chunk.

    ``space``, ``fps`` and ``observation_spec`` are those of the environment (or of its ``Description``).
    """

    def __init__(
        self,
        space: ActionSpace,
        observation_spec: ObservationSpec,
        fps: float,
        horizon: int = 8,
        n_obs_steps: int = 2,
        n_action_steps: int = 4,
    ) -> None:
        self.action_spec = ActionSpec(space, horizon, n_obs_steps, n_action_steps, 1.0 / fps)
        self.observation_spec = observation_spec
        self.resets = 0

    @classmethod
    def for_point_reach(cls, image: bool = False, **kwargs: int) -> KnownAnswerPolicy:
        """The policy with the specs of ``PointReach``."""
        env = PointReach(image=image)
        return cls(env.action_space, env.observation_spec, env.fps, **kwargs)

    @abstractmethod
    def target(self, obs: Mapping[str, np.ndarray], keys: Keys) -> np.ndarray:
        """One action a row, ``(B, D)``, from the newest observation."""

    def act(
        self, obs: Mapping[str, np.ndarray], noise_keys: Keys | None = None, observed_at: float = 0.0
    ) -> ActionChunk:
        """Chunk that repeats ``target`` over the horizon; ``obs`` values are ``(B, n_obs_steps, ...)``."""
        rows = len(next(iter(obs.values())))
        keys = noise_keys if noise_keys is not None else [(0, i, 0) for i in range(rows)]
        newest = {k: np.asarray(v)[:, -1] for k, v in obs.items()}
        repeated = np.repeat(self.target(newest, keys)[:, None], self.action_spec.horizon, axis=1)
        return ActionChunk.stamped(repeated, self.action_spec, observed_at)

    def reset(self) -> None:
        """Count the calls; there is nothing to forget."""
        self.resets += 1


class GoalPolicy(KnownAnswerPolicy):
    """Goes straight to the goal: succeeds in every episode of ``PointReach`` at full speed."""

    def target(self, obs: Mapping[str, np.ndarray], keys: Keys) -> np.ndarray:
        """The goal's place."""
        return obs[ENVIRONMENT_STATE]


class StillPolicy(KnownAnswerPolicy):
    """Stays where it is: fails, except where an episode begins at its goal."""

    def target(self, obs: Mapping[str, np.ndarray], keys: Keys) -> np.ndarray:
        """The point's own place."""
        return obs[STATE]


class ConstantPolicy(KnownAnswerPolicy):
    """Always the same action (zeros unless ``value`` is set), in any environment."""

    value: Sequence[float] | None = None

    def target(self, obs: Mapping[str, np.ndarray], keys: Keys) -> np.ndarray:
        """``value`` for every row."""
        if self.value is not None and len(self.value) != self.action_spec.dim:
            raise ConfigError(f"constant action has {len(self.value)} entries, expected {self.action_spec.dim}")
        row = np.zeros(self.action_spec.dim) if self.value is None else np.asarray(self.value, float)
        return np.tile(row, (len(keys), 1))


class CoinPolicy(KnownAnswerPolicy):
    """Goes to the goal in a share ``probability`` of episodes, drawn from the (base seed, episode) of the noise key."""

    probability = 0.5

    def target(self, obs: Mapping[str, np.ndarray], keys: Keys) -> np.ndarray:
        """Goal or own place, the same for all chunks of an episode."""
        heads = np.array([generator("policy", *key[:2]).random() < self.probability for key in keys])
        return np.where(heads[:, None], obs[ENVIRONMENT_STATE], obs[STATE])


class NoisyGoalPolicy(KnownAnswerPolicy):
    """Goes to the goal with Gaussian noise of ``scale`` from the noise key: stochastic, yet reproducible."""

    scale = 0.3

    def target(self, obs: Mapping[str, np.ndarray], keys: Keys) -> np.ndarray:
        """The goal's place with noise keyed by (base seed, episode, chunk)."""
        noise = np.stack([generator("policy", *key).standard_normal(self.action_spec.dim) for key in keys])
        return obs[ENVIRONMENT_STATE] + self.scale * noise
