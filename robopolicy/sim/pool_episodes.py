"""What the episode pool is asked for and what it gives back: episodes, batches of observations, results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from robopolicy.core.errors import ConfigError
from robopolicy.core.seeding import episode_seed
from robopolicy.sim.pool_slots import Reply


@dataclass(frozen=True)
class Episode:
    """One entry of the queue: its number and the seed it starts from."""

    index: int
    seed: int


def episode_list(episodes: int, base_seed: int) -> list[Episode]:
    """Episodes 0..n-1 with seeds ``core.seeding.episode_seed(base_seed, i)``."""
    return [Episode(i, episode_seed(base_seed, i)) for i in range(episodes)]


@dataclass(frozen=True)
class Batch:
    """Observations that wait for a chunk, rows in slot order.

    ``observation``: key -> ``(B, n_obs_steps, ...)``; ``episodes``: whose row it is; ``chunks``: number of the chunk
    within its episode, from 0.  Noise keyed by (episode, chunk) is independent of who shares the batch.
    """

    observation: dict[str, np.ndarray]
    episodes: tuple[Episode, ...]
    chunks: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.episodes)


MAX_ATTEMPTS = 2  # an episode whose simulator dies is tried once more, then reported as an error

# -> actions (B, n_action_steps, D), or one (n_action_steps >= 1, D) a row where rows go on for different times
Planner = Callable[[Batch], np.ndarray | Sequence[np.ndarray]]


@dataclass(frozen=True)
class EpisodeResult:
    """Outcome of one episode.

    ``first_success_step`` counts executed actions (the frame of that number in a video shows it; the reset is frame 0).
    ``status`` is ``error`` when the simulator, not the policy, failed; such an episode has no score.  ``wall_s`` is
    simulation time in the worker, ``attempts`` how often it was started.  ``info``: means over the episode's chunks of
    what the policy told about them.
    """

    index: int
    seed: int
    status: Literal["ok", "error"]
    success: bool = False
    first_success_step: int | None = None
    max_reward: float = 0.0
    last_reward: float = 0.0
    sum_reward: float = 0.0
    length: int = 0
    chunks: int = 0
    wall_s: float = 0.0
    attempts: int = 1
    error: str | None = None
    info: dict[str, float] = field(default_factory=dict)


@dataclass
class Running:
    """An episode in a slot, as far as it has come."""

    episode: Episode
    attempt: int
    observation: dict[str, np.ndarray] | None = None
    chunk: int = 0
    rewards: list[float] = field(default_factory=list)
    successes: list[bool] = field(default_factory=list)
    wall_s: float = 0.0

    def add(self, reply: Reply) -> None:
        """Take over what one command brought."""
        self.observation = reply.observation
        self.rewards += reply.rewards
        self.successes += reply.successes
        self.wall_s += reply.seconds

    def result(self) -> EpisodeResult:
        """Scores of the finished episode."""
        success = any(self.successes)
        return EpisodeResult(
            index=self.episode.index,
            seed=self.episode.seed,
            status="ok",
            success=success,
            first_success_step=self.successes.index(True) + 1 if success else None,
            max_reward=max(self.rewards),
            last_reward=self.rewards[-1],
            sum_reward=float(np.sum(self.rewards)),
            length=len(self.rewards),
            chunks=self.chunk,
            wall_s=round(self.wall_s, 4),
            attempts=self.attempt,
        )


class Ledger:
    """The queue of episodes and the book of results; every episode ends in the book exactly once."""

    def __init__(self, episodes: Iterable[Episode], on_finish: Callable[[EpisodeResult], None] | None) -> None:
        self._queue = deque((e, 1) for e in episodes)
        self._results: dict[int, EpisodeResult] = {}
        self._on_finish = on_finish
        if len({e.index for e, _ in self._queue}) != len(self._queue):
            raise ConfigError("episode indices are not unique")

    def __len__(self) -> int:
        """Episodes that wait for a slot."""
        return len(self._queue)

    def next(self) -> Running:
        """The next episode to start."""
        episode, attempt = self._queue.popleft()
        return Running(episode, attempt)

    def take_back(self, run: Running) -> None:
        """Run the episode again through no fault of its own."""
        self._queue.appendleft((run.episode, run.attempt))

    def failed(self, run: Running, why: str) -> None:
        """The simulator failed in this episode: try once more, then report an error (never a failure)."""
        if run.attempt < MAX_ATTEMPTS:
            self._queue.append((run.episode, run.attempt + 1))
            return
        e = run.episode
        wall = round(run.wall_s, 4)
        self.finish(EpisodeResult(e.index, e.seed, "error", attempts=run.attempt, error=why, wall_s=wall))

    def finish(self, result: EpisodeResult) -> None:
        """Enter a result."""
        self._results[result.index] = result
        if self._on_finish is not None:
            self._on_finish(result)

    def results(self, episodes: Sequence[Episode]) -> list[EpisodeResult]:
        """Results in the order of ``episodes``."""
        return [self._results[e.index] for e in episodes]


def stack_batch(rows: Sequence[Running]) -> Batch:
    """One batch from the observations of several episodes (all have one)."""
    observations = [r.observation or {} for r in rows]
    keys = observations[0].keys()
    return Batch(
        observation={k: np.stack([o[k] for o in observations]) for k in keys},
        episodes=tuple(r.episode for r in rows),
        chunks=tuple(r.chunk for r in rows),
    )
