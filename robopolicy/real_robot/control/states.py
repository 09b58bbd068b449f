"""The driver's state machine: what may be published, and how each state is left.

Pure: it is told the time, what the watchdogs see (``Health``) and what the operator does; it does nothing itself.
Rules that hold for every path through it: motion begins only by an operator's ``start`` or ``resume``; every leave of
RUNNING or HUMAN makes a new epoch, so that whatever was computed for the old one is ignored; the robot's own error
recovery is asked for in ``recover`` and nowhere else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from robopolicy.core.errors import RequestRefused
from robopolicy.real_robot.control.watchdogs import GUIDING, STOPPED, Health, deaf_of, fault_of, hold_of
from robopolicy.real_robot.limits import Timeouts

CONFIRM_WITHIN = 10.0  # s between the two steps of arming
RELEASE_HOLD = 0.3  # s of holding after a human let go, before a run may go on
RAMP, RAMP_AFTER_HUMAN = 1.0, 0.5  # s of slow start
RECOVERIES, RECOVERY_WINDOW = 3, 600.0  # recoveries within so many seconds, after which only a restart helps


class State(str, Enum):
    """Where the driver is."""

    OFF = "off"
    LINKED = "linked"
    READY = "ready"
    ARMED = "armed"
    RUNNING = "running"
    HUMAN = "human"
    HOLD = "hold"
    FAULT = "fault"
    ESTOP = "estop"


class Output(str, Enum):
    """What may be published at this tick."""

    NOTHING = "nothing"
    STILL = "still"  # the pose that the filter stands at: at first the measured one, after a hold the stop target
    MOTION = "motion"  # what the filter makes of the plan, or of the human's hand


MOVING = (State.RUNNING, State.HUMAN)
ENGAGED = (State.ARMED, State.RUNNING, State.HUMAN, State.HOLD)


@dataclass(frozen=True)
class Event:
    """One change of state, for the record."""

    at: float
    before: State
    after: State
    why: str


@dataclass
class StateMachine:
    """The driver's state; ``recovery`` is called, at most once per ``recover``, to ask the robot to clear its
    errors."""

    timeouts: Timeouts
    recovery: Callable[[], None] = field(default=lambda: None)
    state: State = field(default=State.OFF, init=False)
    why: str = field(default="", init=False)
    epoch: int = field(default=0, init=False)
    events: list[Event] = field(default_factory=list, init=False)
    operator: str = field(default="", init=False)
    _asked: tuple[str, float] | None = field(default=None, init=False)
    _recovering: float | None = field(default=None, init=False)
    _recovered: deque[float] = field(default_factory=deque, init=False)
    _since: float = field(default=0.0, init=False)
    _was_human: bool = field(default=False, init=False)
    _rest: float = field(default=0.0, init=False)
    _link_only: bool = field(default=False, init=False)
    _mute: bool = field(default=False, init=False)
    _health: Health = field(default_factory=Health, init=False)

    # -- what follows from the state -----------------------------------------------------------------------------------

    @property
    def output(self) -> Output:
        """What may be published."""
        if self.state in MOVING:
            return Output.MOTION
        if self.state in (State.ARMED, State.HOLD):
            return Output.STILL
        # In a fault the stop target goes on being sent; but not after the link was lost, or while somebody guides the
        # arm by hand: then nothing is, until the arm is armed again where it stands by then.
        return Output.STILL if self.state is State.FAULT and not self._mute else Output.NOTHING

    @property
    def ramp(self) -> float:
        """Seconds of slow start that the present run began with."""
        return RAMP_AFTER_HUMAN if self._was_human else RAMP

    # -- time goes on --------------------------------------------------------------------------------------------------

    def tick(self, now: float, health: Health) -> Event | None:
        """Look at the watchdogs; the change of state, if there was one.  Call at every control tick, and at once when
        the link closes or the robot's mode changes."""
        self._health = health
        self._mute |= not health.link or health.mode in (GUIDING, STOPPED)
        count = len(self.events)
        self._look(now, health)
        return self.events[-1] if len(self.events) > count else None

    def _look(self, now: float, h: Health) -> None:
        if h.link and h.mode == STOPPED and self.state is not State.OFF:
            self._recovering = None  # asked for before the stop was pressed: that is no release of it
            if self.state is not State.ESTOP:
                self._to(State.ESTOP, now, "the robot's stop is pressed")
            return
        if self.state is State.ESTOP:
            self._await_recovery(now, h)
        elif self.state in ENGAGED:
            self._look_engaged(now, h)
        elif self.state is State.FAULT:
            self._await_recovery(now, h)
        elif not h.link:
            if self.state is not State.OFF:
                self._to(State.OFF, now, "link lost")
        elif self.state is State.OFF:
            self._to(State.LINKED, now, "link up")
        elif self.state is State.LINKED and h.preflight and fault_of(h) is None:
            self._to(State.READY, now, "preflight green")
        elif self.state is State.READY and (not h.preflight or fault_of(h) is not None):
            self._to(State.LINKED, now, fault_of(h) or "preflight no longer green")

    def _look_engaged(self, now: float, h: Health) -> None:
        if (why := fault_of(h)) is not None:
            self._to(State.FAULT, now, why)
            # Only a link that was lost and nothing else mends itself, and then only as far as READY.
            self._link_only = not h.link
            return
        if self.state is State.ARMED:
            if (why := hold_of(h, self.timeouts)) is not None and why != h.filter_hold:
                self._to(State.FAULT, now, why)
        elif self.state in MOVING:
            why = hold_of(h, self.timeouts) or deaf_of(h)
            if why is None and self.state is State.RUNNING and h.starved > self.timeouts.starvation:
                why = f"no new plan for {h.starved:.1f} s"
            if why is not None:
                self._to(State.HOLD, now, why)

    def _await_recovery(self, now: float, h: Health) -> None:
        if self.state is State.FAULT and self._link_only:
            if h.link and h.preflight and fault_of(h) is None:
                self._to(State.READY, now, "link and preflight are back; arm again")
            return
        if self._recovering is None:
            return
        if h.link and h.preflight and fault_of(h) is None:
            self._recovering = None
            self._to(State.READY, now, "recovered")
        elif now - self._recovering > self.timeouts.recovery:
            self._recovering = None
            self.why = (
                f"recovery had no effect within {self.timeouts.recovery:g} s: {fault_of(h) or 'preflight not green'}"
            )
            self.events.append(Event(now, self.state, self.state, self.why))

    def _to(self, after: State, now: float, why: str) -> None:
        before, self.state, self.why, self._since = self.state, after, why, now
        if before in MOVING:
            self.epoch += 1
            self._was_human = before is State.HUMAN
            self._rest = RELEASE_HOLD if self._was_human else 0.0
        self._asked = None
        if after not in (State.FAULT, State.ESTOP):
            self._recovering, self._link_only = None, False
        self.events.append(Event(now, before, after, why))

    # -- what the operator does ----------------------------------------------------------------------------------------

    def ask_to_arm(self, operator: str, now: float) -> None:
        """First step of arming."""
        self._need("arm", State.READY)
        if not operator.strip():
            raise RequestRefused("arm: an operator must be named; the record says who armed the arm")
        self._asked = (operator.strip(), now)

    def confirm_arming(self, operator: str, now: float) -> None:
        """Second step, by the same operator within 10 s: ARMED."""
        self._need("arm", State.READY)
        if self._asked is None or self._asked[0] != operator.strip() or now - self._asked[1] > CONFIRM_WITHIN:
            raise RequestRefused(f"arm: ask first, then confirm within {CONFIRM_WITHIN:g} s, as the same operator")
        self.operator = operator.strip()
        self._was_human = self._mute = False
        self._to(State.ARMED, now, f"armed by {self.operator}")

    def start(self, now: float) -> None:
        """ARMED to RUNNING."""
        self._need("start", State.ARMED)
        if (why := deaf_of(self._health)) is not None:
            raise RequestRefused(f"start: {why}")
        self._to(State.RUNNING, now, "started")

    def pause(self, now: float, why: str = "paused by the operator") -> None:
        """RUNNING, HUMAN or ARMED to HOLD; nothing where nothing moves."""
        if self.state in (*MOVING, State.ARMED):
            self._to(State.HOLD, now, why)

    def intervene(self, now: float) -> None:
        """RUNNING to HUMAN: the hand on the teleoperation device wins at once."""
        self._need("intervene", State.RUNNING)
        self._to(State.HUMAN, now, "a human took over")

    def release(self, now: float) -> None:
        """HUMAN to HOLD."""
        self._need("release", State.HUMAN)
        self._to(State.HOLD, now, "the human let go")

    def resume(self, now: float) -> None:
        """HOLD to RUNNING; refused while the cause is still there."""
        self._need("resume", State.HOLD)
        h = self._health
        held = hold_of(Health(**{**vars(h), "filter_hold": None}), self.timeouts)
        if (why := fault_of(h) or held or deaf_of(h)) is not None:
            raise RequestRefused(f"resume: {why}")
        if now - self._since < self._rest:
            raise RequestRefused(f"resume: a hold of {self._rest:g} s follows a human's release; wait")
        self._to(State.RUNNING, now, "resumed")

    def estop(self, now: float) -> None:
        """Software stop, latched.  Not safety-rated: the stop device in the operator's hand is."""
        if self.state not in (State.OFF, State.ESTOP):
            self._to(State.ESTOP, now, "stopped by the program")

    def recover(self, operator: str, now: float) -> None:
        """Ask the robot, once, to clear its errors; READY follows when everything is green again.

        Refused, and not counted, while the link is down."""
        if self.state not in (State.FAULT, State.ESTOP):
            raise RequestRefused(f"recover: nothing to recover from in state {self.state.value}")
        if not operator.strip():
            raise RequestRefused("recover: an operator must be named")
        if not self._health.link:
            raise RequestRefused("recover: the link is down, so the robot cannot be asked; wait until it is back")
        if self.state is State.ESTOP and self._health.mode == STOPPED:
            raise RequestRefused("recover: the robot's stop is still pressed; release it first")
        if self._recovering is not None:
            raise RequestRefused("recover: a recovery is already under way")
        while self._recovered and self._recovered[0] < now - RECOVERY_WINDOW:
            self._recovered.popleft()
        if len(self._recovered) >= RECOVERIES:
            raise RequestRefused(
                f"recover: {RECOVERIES} recoveries within {RECOVERY_WINDOW / 60:g} minutes; find the cause, then "
                "restart the driver"
            )
        self._recovered.append(now)
        self._recovering, self._link_only = now, False
        try:
            self.recovery()
        except Exception as e:  # the robot's answer must never take the control process down
            self._recovering = None
            self._recovered.pop()  # it was not asked: that costs nothing
            self.why = f"recovery failed: {e}"
            self.events.append(Event(now, self.state, self.state, self.why))

    def shut_down(self, now: float, why: str) -> None:
        """Ctrl-C, SIGTERM, an exception: hold at once; the caller then sends the stop target and takes the link
        down."""
        self.pause(now, why)

    def _need(self, what: str, *states: State) -> None:
        if self.state not in states:
            allowed = " or ".join(s.value for s in states)
            raise RequestRefused(
                f"{what}: not in state {self.state.value} ({self.why or 'no reason given'}); only in {allowed}"
            )
