"""One tick of control: measured state, plan, safety filter, state machine, and what may be published.

It is given everything and does nothing by itself: whoever owns the socket calls ``tick`` on a 100 Hz grid, hands it
what arrived, and publishes what it returns.  So a run can be replayed from its inputs, bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from robopolicy.real_robot.control.plan import Merge, Plan, Waypoints
from robopolicy.real_robot.control.states import ENGAGED, MOVING, Event, Output, State, StateMachine
from robopolicy.real_robot.control.watchdogs import Health
from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.limits import Timeouts
from robopolicy.real_robot.safety.filter import SafetyFilter
from robopolicy.real_robot.safety.types import Emitted, Link, Measured, SafetyFlag, Setpoint
from robopolicy.real_robot.safety.validity import STRIKE_WINDOW, Strikes, checked_sample

TELEOP_AGE = 0.10  # s after which a human's last wish no longer counts


@dataclass(frozen=True, eq=False)
class Inputs:
    """What is known at a tick.

    ``measured``: the newest state.  ``health``: what the watchdogs see; the loop itself fills in lateness, starvation,
    and what filter and chunks say.  ``loopback_at``, ``operator_at``: see ``Link``.  ``teleop``: a human's wish and
    when it was made, or ``None``.
    """

    measured: Measured
    health: Health
    loopback_at: float | None = None
    operator_at: float | None = None
    teleop: tuple[Setpoint, float] | None = None


@dataclass(frozen=True, eq=False)
class TickRecord:
    """What a tick decided.

    ``publish``: pose to send now, or ``None`` for nothing.  ``gripper``: width to ask of the hand, m, or ``None``.
    ``emitted``: the filter's answer, ``None`` while it is not in use.  ``merge``: what became of a chunk, if one came.
    ``events``: changes of state.  ``flags``: for the record.  ``wish``: where plan or human wanted the tool, what the
    filter was asked for.
    """

    at: float
    state: State
    epoch: int
    publish: Pose | None
    gripper: float | None
    emitted: Emitted | None
    merge: Merge | None
    events: tuple[Event, ...]
    flags: SafetyFlag = SafetyFlag.NONE
    wish: Setpoint | None = None


@dataclass
class Counters:
    """What is counted over the loop's life."""

    ticks: int = 0
    late: int = 0
    starved: int = 0
    over_budget: int = 0
    refused: int = 0
    jumps: int = 0
    stale: int = 0


@dataclass
class ControlLoop:
    """Plan, filter and state machine of one arm."""

    filter: SafetyFilter
    plan: Plan
    machine: StateMachine
    counters: Counters = field(default_factory=Counters)
    _mail: Waypoints | None = field(default=None, init=False)
    _last: float | None = field(default=None, init=False)
    _seen: tuple[State, int] = field(default=(State.OFF, 0), init=False)
    _strikes: Strikes = field(default_factory=Strikes, init=False)
    _broken: str | None = field(default=None, init=False)
    _hungry: bool = field(default=False, init=False)
    _standing: bool = field(default=False, init=False)

    @property
    def timeouts(self) -> Timeouts:
        """Those of the filter."""
        return self.filter.timeouts

    def submit(self, chunk: Waypoints) -> bool:
        """Leave a chunk for the next tick; the newest wins.  False, and it is ignored, if it is of an old epoch or
        nothing runs."""
        if self.machine.state is not State.RUNNING or chunk.epoch != self.machine.epoch:
            self.counters.stale += 1
            return False
        self._mail = chunk
        return True

    def tick(self, now: float, inputs: Inputs) -> TickRecord:
        """One tick at local monotonic ``now``."""
        count = len(self.machine.events)
        dt = now - self._last if self._last is not None else self.timeouts.tick
        self._last = now
        self.counters.ticks += 1
        self.counters.late += dt > self.timeouts.tick_late
        starved = self._starved(now)
        health = replace(inputs.health, late=max(dt, inputs.health.late), starved=starved)
        self.machine.tick(now, health)
        self._follow_state(now, inputs.measured)
        merge = self._merge(now)
        if self._broken is not None:
            self.machine.tick(now, replace(health, filter_hold=self._broken, filter_fault=True))
            self._broken = None
            self._follow_state(now, inputs.measured)
        wish = self._wish(now, inputs)
        emitted = self._filtered(wish, now, dt, inputs)
        if emitted is not None and emitted.hold is not None and self.machine.state in MOVING:
            # The filter has already stopped; the state follows within the same tick.
            self.machine.tick(now, replace(health, filter_hold=emitted.hold, filter_fault=emitted.fault))
            self._follow_state(now, inputs.measured)
        may = self.machine.output is not Output.NOTHING and emitted is not None
        return TickRecord(
            at=now,
            state=self.machine.state,
            epoch=self.machine.epoch,
            publish=emitted.pose if may and emitted is not None else None,
            gripper=emitted.gripper if emitted is not None and self.machine.output is Output.MOTION else None,
            emitted=emitted,
            merge=merge,
            events=tuple(self.machine.events[count:]),
            flags=emitted.flags if emitted is not None else SafetyFlag.NONE,
            wish=wish,
        )

    def _starved(self, now: float) -> float:
        """Seconds since the plan ended, counted once a time."""
        end = self.plan.end if self.machine.state is State.RUNNING and self.machine.epoch == self.plan.epoch else None
        starved = max(0.0, now - end) if end is not None else 0.0
        self.counters.starved += starved > 0 and not self._hungry
        self._hungry = starved > 0
        return starved

    def _follow_state(self, now: float, measured: Measured) -> None:
        """Bring filter and plan to where the state machine is; operators' requests arrive between ticks."""
        state, epoch = self.machine.state, self.machine.epoch
        before, old = self._seen
        if (state, epoch) == (before, old):
            return
        self._seen = (state, epoch)
        if before in MOVING and (epoch != old or state not in MOVING):
            self._mail = None
            self.plan.clear(epoch)
            # RUNNING to HUMAN goes on moving from the last emitted setpoint; every other leave stops.
            if state is not State.HUMAN:
                self.filter.hold(self.machine.why, now)
        # Arming and starting may both lie between two ticks: a run never begins where some earlier one ended.
        if state in ENGAGED and (state is State.ARMED or before not in ENGAGED):
            self._standing = self._stand(measured, now)
        if not self._standing:
            return
        if state is State.RUNNING:
            self.filter.go(now, self.machine.ramp)
            assert self.filter.pose is not None
            self.plan.start(self.filter.pose, now, epoch)
        elif state is State.HUMAN:
            self.filter.go(now, self.machine.ramp)

    def _stand(self, measured: Measured, now: float) -> bool:
        """Stand where the arm is; false, and a fault follows, if that is not known."""
        sample = checked_sample(measured)
        if sample is None or not abs(now - sample.at) <= self.timeouts.state_soft:
            self._broken = "there is no fresh, finite measured pose to stand at; look at the state topic"
            return False
        self.filter.stand(Pose(np.array(sample.position), np.array(sample.quaternion)), "armed")
        return True

    def _merge(self, now: float) -> Merge | None:
        chunk, self._mail = self._mail, None
        if chunk is None or self._broken is not None or self.machine.state is not State.RUNNING:
            return None
        merge = self.plan.merge(chunk, now)
        self.counters.over_budget += merge.over_budget
        self.counters.stale += merge.stale
        if merge.refused is not None:
            self.counters.refused += 1
            if self._strikes.second(now):
                self._broken = f"second refused chunk within {STRIKE_WINDOW:g} s: {merge.refused}"
        if merge.jump is not None:
            self.counters.jumps += 1
            if self.filter.note_jump():
                self._broken = "the policy's actions jumped too often in one run"
        return merge

    def _filtered(self, wish: Setpoint | None, now: float, dt: float, inputs: Inputs) -> Emitted | None:
        # Where the arm could not be found, the place of an earlier run is no target.
        if not self._standing or self.machine.state in (State.OFF, State.LINKED, State.READY):
            return None
        link = Link(self.machine.epoch, inputs.loopback_at, inputs.operator_at)
        return self.filter.step(wish, inputs.measured, dt, now, link)

    def _wish(self, now: float, inputs: Inputs) -> Setpoint | None:
        if self.machine.state is State.RUNNING:
            return self.plan.at(now)
        if self.machine.state is State.HUMAN and inputs.teleop is not None:
            wish, made = inputs.teleop
            if math.isfinite(made) and -TELEOP_AGE <= now - made <= TELEOP_AGE:
                return replace(wish, epoch=self.machine.epoch)
        return None
