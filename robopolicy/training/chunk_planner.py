"""Policies and explorers as planners of the episode pool: batches in, chunks out, noise keyed by seed and chunk.

What happens in an episode is then a function of its seed and its key, whatever the number of workers and whoever shares
the batch (the number of rows decides the last bits of a network's arithmetic).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from robopolicy.core.chunk import ActionChunk
from robopolicy.core.improver import Explorer
from robopolicy.core.specs import GOAL, FeatureKind
from robopolicy.sim.pool import Batch


def observed_keys(policy: Any) -> tuple[str, ...]:
    """Keys that the environment must observe for this policy (language is not observed, it is given)."""
    return tuple(f.key for f in policy.observation_spec.features if f.kind is not FeatureKind.LANGUAGE)


def language_keys(policy: Any) -> tuple[str, ...]:
    """Keys that carry the task's text."""
    return tuple(f.key for f in policy.observation_spec.of_kind(FeatureKind.LANGUAGE))


def percentiles(seconds: list[float]) -> dict[str, float]:
    """``p50``, ``p95`` and ``p99`` in milliseconds; empty for no times."""
    ms = np.array(seconds) * 1000
    return {f"p{q}": round(float(np.percentile(ms, q)), 3) for q in (50, 95, 99)} if len(ms) else {}


class BatchedPolicy:
    """A policy as the pool's planner: adds noise keys and the task's text, and times the calls."""

    def __init__(self, policy: Any, base_seed: int, task: str) -> None:
        self._policy, self._base_seed, self._task = policy, base_seed, task
        self._keys, self._language = frozenset(observed_keys(policy)), language_keys(policy)
        self._recurrent = bool(getattr(policy, "recurrent", False))
        self.seconds: list[float] = []
        self.rows: list[int] = []
        self.told: dict[int, list[dict[str, float]]] = {}  # by episode: the info of its chunks
        self._example: dict[str, Any] = {}

    def __call__(self, batch: Batch) -> np.ndarray | Sequence[np.ndarray]:
        """Actions ``(B, n_action_steps, D)`` for the rows that wait."""
        actions: np.ndarray = self.plan(batch).executable
        return actions

    def plan(self, batch: Batch) -> ActionChunk:
        """Whole chunks for the rows that wait, timed and noted."""
        start = time.perf_counter()
        obs = self.observation(batch)
        if not self._example:
            self._example = {k: v[:1] for k, v in obs.items()}
        keys: list[tuple[int, ...]] = [
            (self._base_seed, e.index, c) for e, c in zip(batch.episodes, batch.chunks, strict=True)
        ]
        carried = self._carried(batch)
        chunk = self._act(batch, obs, keys, carried)
        self.seconds.append(time.perf_counter() - start)
        self.rows.append(len(batch))
        self._note(batch, chunk.info)
        return chunk

    def _act(
        self, batch: Batch, obs: dict[str, Any], keys: list[tuple[int, ...]], carried: dict[str, Any]
    ) -> ActionChunk:
        """A chunk for every row of ``batch``."""
        chunk: ActionChunk = self._policy.act(obs, noise_keys=keys, **carried)
        return chunk

    def observation(self, batch: Batch) -> dict[str, Any]:
        """What the policy is shown of what was observed: its own keys and steps, one step of every goal, the task."""
        steps = self._policy.action_spec.n_obs_steps
        obs: dict[str, Any] = {
            k: v[:, -1:] if k.startswith(GOAL) else v[:, -steps:]
            for k, v in batch.observation.items()
            if k in self._keys
        }
        for key in self._language:
            obs[key] = [[self._task] * steps for _ in range(len(batch))]
        return obs

    def _note(self, batch: Batch, info: Mapping[str, np.ndarray]) -> None:
        for row, (episode, number) in enumerate(zip(batch.episodes, batch.chunks, strict=True)):
            told = self.told.setdefault(episode.index, [])
            del told[number:]  # an episode that is tried again begins anew
            told.append({key: float(values[row]) for key, values in info.items()})

    def info(self, episode: int) -> dict[str, float]:
        """What the policy told about an episode's chunks, averaged."""
        told = self.told.get(episode) or [{}]
        return {key: float(np.mean([t[key] for t in told])) for key in told[0]}

    def _carried(self, batch: Batch) -> dict[str, Any]:
        """Whose memory each row reads and writes; an episode begins, or is tried again, at chunk 0."""
        if not self._recurrent:
            return {}
        names = [e.index for e in batch.episodes]
        self._policy.reset([name for name, chunk in zip(names, batch.chunks, strict=True) if chunk == 0])
        return {"episodes": names}

    def forget(self, episode: int) -> None:
        """A finished episode needs its memory no longer."""
        if self._recurrent:
            self._policy.reset([episode])

    def _alone(self, key: tuple[int, ...]) -> ActionChunk:
        """A chunk for the first observation alone, asked for as in an episode."""
        chunk: ActionChunk = self._policy.act(self._example, noise_keys=[key])
        return chunk

    def single_ms(self, calls: int = 50, seconds: float = 3.0) -> dict[str, float]:
        """Percentiles of ``act`` on the first observation alone, in milliseconds: ``calls`` calls or ``seconds``."""
        self._policy.reset()
        times: list[float] = []
        begin = time.perf_counter()
        while len(times) < calls + 2 and (time.perf_counter() - begin < seconds or len(times) < 5):
            start = time.perf_counter()
            self._alone((self._base_seed, len(times)))
            times.append(time.perf_counter() - start)
        self._policy.reset()
        return percentiles(times[2:])


@dataclass(frozen=True)
class Decision:
    """One chunk of an episode: the actions to execute ``(k, D)`` and the latent that they were decoded from."""

    action: np.ndarray
    latent: np.ndarray | None


class ExploringPlanner(BatchedPolicy):
    """An explorer as the pool's planner; it remembers what was decided in every episode."""

    def __init__(self, explorer: Explorer, base_seed: int, task: str) -> None:
        super().__init__(explorer, base_seed, task)
        self._decisions: dict[int, list[Decision]] = {}

    def decisions(self, episode: int) -> list[Decision]:
        """What was decided in an episode, chunk by chunk."""
        return self._decisions.get(episode, [])

    def forget(self, episode: int) -> None:
        """A finished episode needs neither memory nor decisions any longer."""
        super().forget(episode)
        self._decisions.pop(episode, None)

    def _act(
        self, batch: Batch, obs: dict[str, Any], keys: list[tuple[int, ...]], carried: dict[str, Any]
    ) -> ActionChunk:
        explored = self._policy.explore(obs, keys, **carried)
        actions = explored.chunk.executable
        for row, (episode, number) in enumerate(zip(batch.episodes, batch.chunks, strict=True)):
            made = self._decisions.setdefault(episode.index, [])
            del made[number:]  # an episode that is tried again begins anew
            made.append(Decision(actions[row], None if explored.latent is None else explored.latent[row]))
        chunk: ActionChunk = explored.chunk
        return chunk
