"""``PolicyRunner``: the loop that looks, asks the policy when its executor says so, and hands its chunks to the driver.

Source: asynchronous inference with dated chunks as in Diffusion Policy (arXiv 2303.04137) and real-time chunking (arXiv
2506.07339).  Differs: one class for real time and for lock-step; an injected latency passes on the driver's clock, so a
slow policy can be studied in virtual time, where equal seeds give equal runs.  Policy and executor are handed in and
may be anything that keeps ``protocols``: this room knows no networks.

    runner = PolicyRunner(driver, policy, executor, adapter)
    runner.run(until=lambda status: status.state is State.HOLD)      # in real time
    runner.poll()                                                    # in lock-step, before every tick
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from robopolicy.core.chunk import ActionChunk
from robopolicy.core.errors import InvalidChunk
from robopolicy.core.latency import LatencyTracker
from robopolicy.core.seeding import generator
from robopolicy.real_robot.clock import Clock
from robopolicy.real_robot.control.observations import NoSnapshot, Snapshot
from robopolicy.real_robot.control.plan import SLACK, Waypoints
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.deploy.adapters import Adapter
from robopolicy.real_robot.deploy.protocols import ActingPolicy, ChunkExecutor
from robopolicy.real_robot.driver.contract import Driver, Status
from robopolicy.real_robot.frames import Pose, difference
from robopolicy.real_robot.limits import SafetyLimits
from robopolicy.real_robot.safety.limiter import CRUISE

LOG = logging.getLogger(__name__)
PERIOD = 0.002  # s between two looks in real time
REST = 0.1  # s after the end of a plan at which the arm counts as standing
KEPT = 10_000  # answers remembered
TINY = 1e-6  # s by which an action is handed over before it would be late: equality counts as late, and sums round


@dataclass(frozen=True)
class Slowness:
    """A latency that the policy does not have by itself: ``seconds``, and up to ``jitter`` more, drawn evenly."""

    seconds: float = 0.0
    jitter: float = 0.0


@dataclass(frozen=True)
class Answer:
    """One question and what became of it; local monotonic seconds.

    ``seen``: time of the newest observation.  ``submitted``: whether the driver took the chunk.  ``info``: what the
    policy told about its chunk.
    """

    number: int
    seen: float
    began: float
    ended: float
    submitted: bool
    info: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Flight:
    """A chunk that is made and, as far as the robot is concerned, not there yet."""

    chunk: ActionChunk
    snapshot: Snapshot
    began: float
    ready: float
    number: int
    epoch: int
    standing: bool


def hand_over(arm_latency: float, follows: float, period: float) -> float:
    """``lead`` of an executor: seconds before an action's date by which it must be with the driver.

    The plan passes an action ``arm_latency`` before the tool shall be there, which is ``follows`` after its date, and
    the control loop fetches chunks once a ``period`` (``Timeouts.tick``): an action handed over right after a tick must
    still be in time at the next one.
    """
    return max(0.0, arm_latency - follows + SLACK + period + TINY)


class PolicyRunner:
    """See the module.

    Args:
        driver: connected; who arms and starts it is not the runner's business.
        policy: asked for one observation at a time, in the thread that calls ``poll`` or ``run``.
        executor: made for ``policy.action_spec`` with ``lead=hand_over(...)``.
        adapter: between the two.
        clock: the driver's unless given.
        slowness: injected latency.
        lead: seconds before its date by which an action must be with the driver, the executor's own (``hand_over``).
        limits: the driver's, from which the time for the way to a first action is taken; none is allowed for without.
        usual: seconds that an answer is expected to take before any was measured.
        seed: of the policy's noise and of the injected latency.

    ``counters``: asked, submitted, stale (the driver had stopped), blind (no observation to be had), refused (a chunk
    that was not finite).  ``answers``: the last ten thousand.
    """

    def __init__(
        self,
        driver: Driver,
        policy: ActingPolicy,
        executor: ChunkExecutor,
        adapter: Adapter,
        clock: Clock | None = None,
        *,
        slowness: Slowness | None = None,
        lead: float = 0.0,
        limits: SafetyLimits | None = None,
        usual: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.driver, self.policy, self.executor, self.adapter = driver, policy, executor, adapter
        self.clock = clock or driver.clock
        self.slowness, self.lead, self.limits = slowness or Slowness(), lead, limits
        self.counters: Counter[str] = Counter()
        self.answers: deque[Answer] = deque(maxlen=KEPT)
        self.latency = LatencyTracker()
        self.why_blind = ""
        self._usual, self._seed = usual, seed
        self._random = generator("latency", seed)
        self._flight: _Flight | None = None
        self._number = 0
        self._epoch: int | None = None
        self._fresh = True  # nothing was submitted in this run: the arm stands, however young its empty plan is
        self._stop = False

    # -- time ----------------------------------------------------------------------------------------------------------

    def run(
        self,
        seconds: float | None = None,
        until: Callable[[Status], bool] | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> Status:
        """Poll until ``until`` says so, ``seconds`` have passed or ``stop`` was called; the last status."""
        end = None if seconds is None else self.clock.now() + seconds
        self._stop = False
        while True:
            status = self.poll()
            if self._stop or (until is not None and until(status)) or (end is not None and self.clock.now() >= end):
                return status
            pause(PERIOD)

    def stop(self) -> None:
        """End ``run`` (any thread)."""
        self._stop = True

    def poll(self) -> Status:
        """Do what is due now: deliver an answer, ask again.

        Raises what the policy raises, after telling the driver, which makes it a fault.
        """
        status = self.driver.status()
        if status.state is not State.RUNNING or status.epoch != self._epoch:
            self._begin(status.epoch)
        if status.state is not State.RUNNING:
            return status
        if self._flight is not None:
            self._deliver()
        now = self.clock.now()
        if self._flight is None and self.executor.wants(now, status.plan_end, self.usual):
            self._ask(status.epoch, self._fresh or status.plan_end is None or status.plan_end < now - REST)
            self._deliver()
        return status

    @property
    def usual(self) -> float:
        """Seconds from what was seen to the answer, 95th percentile: the age of observations is part of it."""
        measured = self.latency.usual
        return self._usual if measured is None else measured

    # -- one question --------------------------------------------------------------------------------------------------

    def _begin(self, epoch: int) -> None:
        """A new run, or none: what was thought of the last one is void."""
        if self._flight is not None:
            self._flight = None
            self.driver.policy_answered()
        self._epoch, self._fresh = epoch, True
        self.executor.reset()

    def _ask(self, epoch: int, standing: bool) -> None:
        spec = self.policy.action_spec
        snapshot = self.driver.snapshot(self.adapter.steps, spec.dt)
        if isinstance(snapshot, NoSnapshot):
            self.counters["blind"] += 1
            self.why_blind = snapshot.why
            return
        self.counters["asked"] += 1
        self._number += 1
        began = self.clock.now()
        self.driver.policy_began()
        try:
            chunk = self._chunk(snapshot)
        except InvalidChunk as e:
            self.driver.policy_answered()
            self._refuse(str(e), snapshot, epoch)
            return
        except Exception as e:
            self.driver.policy_failed(f"the policy raised {type(e).__name__}: {e}")
            raise
        extra = self.slowness.seconds + self.slowness.jitter * float(self._random.random())
        ready = max(self.clock.now(), began + extra)
        self._flight = _Flight(chunk, snapshot, began, ready, self._number, epoch, standing)

    def _chunk(self, snapshot: Snapshot) -> ActionChunk:
        how: dict[str, Any] = {"guide": self.executor.guide(snapshot.time)} if self.executor.guides else {}
        return self.policy.act(
            self.adapter.observation(snapshot),
            noise_keys=self._keys(),
            observed_at=snapshot.time,
            episodes=[(self._seed, self._epoch)],
            **how,
        )

    def _keys(self) -> Sequence[tuple[int, int]]:
        return [(self._seed, self._number)]

    def _deliver(self) -> None:
        flight = self._flight
        if flight is None or self.clock.now() < flight.ready:
            return
        self._flight, ended = None, self.clock.now()
        self.driver.policy_answered()
        if (leap := self.latency.add(ended - flight.snapshot.time, self.policy.action_spec.dt)) is not None:
            LOG.warning("%s", leap)
        chunk = self.executor.took(self._dated(flight, ended), flight.began, ended)
        waypoints = self.adapter.waypoints(chunk, flight.snapshot, flight.epoch, flight.number)
        taken = self.driver.submit(waypoints)
        self._fresh = self._fresh and not taken
        self.counters["submitted" if taken else "stale"] += 1
        info = {key: float(values[0]) for key, values in flight.chunk.info.items()}
        self.answers.append(Answer(flight.number, flight.snapshot.time, flight.began, ended, taken, info))

    def _dated(self, flight: _Flight, ended: float) -> ActionChunk:
        """The chunk; one that was asked for by an arm that stood still begins when it is there, as the arm waited.

        Else its first steps would be late and dropped, and the first of the others a jump away.  It is given the time
        that the way to its first action takes at the limits, or the plan would find that too fast.
        """
        chunk, start = flight.chunk, flight.chunk.spec.exec_start
        if not flight.standing:
            return chunk
        behind = ended + self.lead + self._approach(flight) - float(chunk.stamps[0, start])
        return dataclasses.replace(chunk, stamps=chunk.stamps + max(0.0, behind))

    def _approach(self, flight: _Flight) -> float:
        if self.limits is None:
            return 0.0
        first = self.adapter.waypoints(flight.chunk, flight.snapshot, flight.epoch).track
        poses = flight.snapshot.poses
        way = float(np.linalg.norm(first.position[0] - poses.position[-1]))
        turn = float(np.linalg.norm(difference(poses.quaternion[-1], first.quaternion[0])))
        return max(way / self.limits.speed, turn / self.limits.turn_speed) / CRUISE

    def _refuse(self, why: str, snapshot: Snapshot, epoch: int) -> None:
        """The driver is told of a chunk that is not finite by one that is not: it counts, stops, and may fault."""
        self.counters["refused"] += 1
        LOG.warning("chunk %d refused: %s", self._number, why)
        nowhere = Pose(np.full((1, 3), np.nan), np.full((1, 4), np.nan))
        dt = self.policy.action_spec.dt
        self.driver.submit(Waypoints(nowhere, np.array((snapshot.time,)), dt, epoch, None, self._number))
