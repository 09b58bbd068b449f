"""Episode pool: a queue of seeded episodes over simulated environments, one batched policy, deterministic rounds.

Differs from vectorised environments with autoreset (gymnasium, LeRobot): the queue owns the seeds and every listed
episode is scored exactly once; whole chunks travel, not steps; and the schedule is a function of episode lengths
alone.  Environments live in ``slots``; how many processes carry the slots changes nothing but the speed.

The slots form two halves that take turns: while one half simulates, the policy plans for the other.  A half's round
ends when all its slots have answered; then every row that waits is planned in one batch, in slot order, and finished
slots take the next episodes in slot order (their reset runs beside the others' chunks, so it costs no extra wait).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from robopolicy.core.errors import ConfigError, EnvUnavailable
from robopolicy.sim.pool_episodes import (
    Batch,
    Episode,
    EpisodeResult,
    Ledger,
    Planner,
    Running,
    episode_list,
    stack_batch,
)
from robopolicy.sim.pool_links import Link, LocalLink, ProcessLink, WorkerLost, wait_for_any
from robopolicy.sim.pool_slots import Advance, Describe, Description, Reply, Reset, Watch
from robopolicy.sim.ray_links import ray_links
from robopolicy.sim.ray_session import RaySession
from robopolicy.sim.registry import EnvConfig, interpreter

__all__ = [
    "Batch",
    "Description",
    "Episode",
    "EpisodePool",
    "EpisodeResult",
    "Film",
    "Planner",
    "Watch",
    "episode_list",
]

log = logging.getLogger(__name__)

OnReply = Callable[[Episode, Reply], None]


@dataclass(frozen=True)
class Film:
    """Which episodes are filmed, at which (height, width), and who takes the frames.

    ``take(episode, reply)`` gets one frame with each reset (a second reset begins the film anew) and one each step.
    """

    episodes: frozenset[int] = frozenset()
    size: tuple[int, int] = (256, 256)
    take: Callable[[Episode, Reply], None] = lambda episode, reply: None


class EpisodePool:
    """Runs episodes of one environment; a context manager, reusable for several runs.

    ``workers`` = 0 runs everything in this process (no timeouts, a crash is the caller's), except where the environment
    has an interpreter of its own: that is one worker.  Results are the same for every number.  ``slots`` environments
    are alive at once and decide the batch size of the policy.  ``timeout_s`` bounds the simulation of one chunk.
    ``ray``: the workers live on that Ray cluster (``robopolicy.sim.ray_session``).

    Raises:
        ConfigError: impossible numbers.
        EnvUnavailable: the environment cannot be built here; Ray cannot be reached.
    """

    def __init__(
        self,
        env: EnvConfig,
        workers: int = 2,
        slots: int = 16,
        n_obs_steps: int = 1,
        obs_keys: Collection[str] = (),
        lazy: bool = True,
        timeout_s: float = 120.0,
        startup_timeout_s: float = 300.0,
        ray: str = "",
    ) -> None:
        if slots < 1 or workers < 0:
            raise ConfigError(f"expected slots >= 1 and workers >= 0, got {slots} and {workers}")
        self.env, self.slots = env, slots
        self.watch = Watch(n_obs_steps, tuple(obs_keys), lazy)
        self._links: list[Link] = [LocalLink(env)]
        if workers or interpreter(env.name):
            count = min(max(workers, 1), slots)
            self._links = [ProcessLink(env, timeout_s, startup_timeout_s, i) for i in range(count)]
        self._session: RaySession | None = None
        if ray:
            self._session = RaySession(ray, min(workers, slots))
            self._links = ray_links(env, self._session, min(workers, slots), timeout_s, startup_timeout_s)
        self._runs: list[Running | None] = [None] * slots
        self._answers: dict[int, Reply] = {}
        self._film = Film()
        self._on_reply: OnReply | None = None

    def describe(self) -> Description:
        """Specs of the environment, asked of the first worker."""
        link = self._links[0]
        link.send(Describe())
        replies: list[Reply] = []
        try:
            while not replies:
                wait_for_any([link])
                replies = link.receive()
        except WorkerLost as e:
            link.close()
            raise EnvUnavailable(f"environment '{self.env.name}' cannot start: {e}; see its messages above") from e
        reply = replies[0]
        if reply.raised is not None:
            raise reply.raised
        if reply.description is None:
            raise EnvUnavailable(f"environment '{self.env.name}' cannot start: {reply.error}")
        return reply.description

    def run(
        self,
        episodes: Sequence[Episode],
        plan: Planner,
        on_finish: Callable[[EpisodeResult], None] | None = None,
        film: Film | None = None,
        on_reply: OnReply | None = None,
    ) -> list[EpisodeResult]:
        """Run every episode once; returns the results in the order of ``episodes``.

        ``plan`` maps a ``Batch`` to actions ``(B, n_action_steps, D)``, or to a list of ``(n_action_steps, D)``, one a
        row, of any lengths >= 1; ``on_finish`` sees each result as it comes.
        ``on_reply`` sees what every command brought: of an episode first its reset (again if it is tried again), then
        chunk by chunk, the last one before its result.
        """
        ledger = Ledger(episodes, on_finish)
        self._film, self._on_reply = film or Film(), on_reply
        halves = self._halves(min(self.slots, len(episodes)))
        try:
            for half in halves:
                self._dispatch(half, ledger)
            while len(ledger) or any(self._runs):
                for half in halves:
                    self._collect(half, ledger)
                    self._advance(half, plan)
                    self._dispatch(half, ledger)
        except BaseException:
            self.close()
            raise
        return ledger.results(episodes)

    @staticmethod
    def _halves(used: int) -> list[range]:
        first = (used + 1) // 2
        return [h for h in (range(first), range(first, used)) if len(h)]

    def _link(self, slot: int) -> Link:
        return self._links[slot % len(self._links)]

    def _collect(self, half: range, ledger: Ledger) -> None:
        """Wait until every busy slot of this half has answered or was lost, then settle them in slot order."""
        while busy := [s for s in half if self._runs[s] is not None and s not in self._answers]:
            links = list({id(self._link(s)): self._link(s) for s in busy}.values())
            wait_for_any(links)
            for link in links:
                try:
                    self._answers.update((reply.slot, reply) for reply in link.receive())
                except WorkerLost as e:
                    self._lost(link, str(e), ledger)
        for slot in half:
            run = self._runs[slot]
            if run is not None and self._settle(run, self._answers.pop(slot), ledger):
                self._runs[slot] = None

    def _settle(self, run: Running, reply: Reply, ledger: Ledger) -> bool:
        """Enter what a command brought; whether the slot is free now."""
        if isinstance(reply.raised, EnvUnavailable):  # a missing part of this machine fails every episode
            raise reply.raised
        if reply.error is not None:
            ledger.failed(run, reply.error)
            return True
        run.add(reply)
        if run.episode.index in self._film.episodes:
            self._film.take(run.episode, reply)
        if self._on_reply is not None:
            self._on_reply(run.episode, reply)
        if reply.done:
            ledger.finish(run.result())
        return reply.done

    def _advance(self, half: range, plan: Planner) -> None:
        """Plan for all rows of this half that wait, in one batch, and send the chunks."""
        rows = [(s, r) for s in half if (r := self._runs[s]) is not None]
        if not rows:
            return
        planned = plan(stack_batch([r for _, r in rows]))
        actions = [np.asarray(chunk) for chunk in planned]
        shapes = [a.shape for a in actions]
        if len(actions) != len(rows) or any(len(shape) != 2 or not shape[0] for shape in shapes):
            told = getattr(planned, "shape", shapes)
            raise ConfigError(f"the planner returned {told}, expected ({len(rows)}, n_action_steps >= 1, D)")
        for (slot, run), chunk in zip(rows, actions, strict=True):
            run.chunk += 1
            self._link(slot).send(Advance(slot, chunk))

    def _dispatch(self, half: range, ledger: Ledger) -> None:
        """Give the next episodes to the free slots of this half."""
        for slot in half:
            if self._runs[slot] is None and len(ledger):
                run = self._runs[slot] = ledger.next()
                size = self._film.size if run.episode.index in self._film.episodes else None
                self._link(slot).send(Reset(slot, run.episode.seed, self.watch, size))

    def _lost(self, link: Link, why: str, ledger: Ledger) -> None:
        """A worker is gone: charge the episode it was working on, take back its others free of charge."""
        guilty = link.pending[0].slot
        log.warning("%s; its running episodes start again in a new one", why)
        link.close()
        for slot, run in enumerate(self._runs):
            if run is None or self._link(slot) is not link or self._ended(slot):
                continue
            self._answers.pop(slot, None)
            self._runs[slot] = None
            if slot == guilty:
                ledger.failed(run, why)
            else:
                ledger.take_back(run)

    def _ended(self, slot: int) -> bool:
        """Whether the slot's episode ended before its worker did."""
        reply = self._answers.get(slot)
        return reply is not None and (reply.done or reply.error is not None)

    def close(self) -> None:
        """End the workers and release the environments; a later run starts new ones."""
        for link in self._links:
            link.close()
        if self._session is not None:
            self._session.close()
        self._runs = [None] * self.slots
        self._answers.clear()

    def __enter__(self) -> EpisodePool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
