"""The driver's core: what operators, policies and recorders call (``contract.Driver``), on top of the engine.

Every call that reaches the state machine goes through ``TappedLoop.call`` under the engine's lock, so that a log has
all of them in their order.
"""

from __future__ import annotations

import logging

import numpy as np

from robopolicy.core.errors import RequestRefused
from robopolicy.real_robot.control.observations import NoSnapshot, Snapshot
from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.control.states import ENGAGED, State
from robopolicy.real_robot.control.watchdogs import STOPPED, fault_of, hold_of
from robopolicy.real_robot.driver.contract import Report
from robopolicy.real_robot.driver.inspection import Inspection
from robopolicy.real_robot.driver.preflight import run_preflight
from robopolicy.real_robot.driver.showing import Showing
from robopolicy.real_robot.log.tap import ANSWERED
from robopolicy.real_robot.safety.types import Setpoint
from robopolicy.real_robot.wire.client import LinkState

LOG = logging.getLogger(__name__)
FLUSH = 0.05  # s that the last target may take to leave


class DriverCore(Showing):
    """Every method of ``Driver`` but for the threads that some of them need (``LocalDriver``, or a process)."""

    # -- the operator --------------------------------------------------------------------------------------------------

    def _call(self, name: str, **arguments: str) -> None:
        with self.lock:
            count = len(self.machine.events)
            self.tapped.call(name, self.clock.now(), **arguments)
            for event in self.machine.events[count:]:
                self._follow_event(event.before, event.after)

    def ask_to_arm(self, operator: str) -> None:
        """First step of arming."""
        if self.monitor_only:
            raise RequestRefused("arm: this driver only watches; connect with monitor_only=False")
        self._call("ask_to_arm", operator=operator)

    def confirm_arming(self, operator: str) -> None:
        """Second step: ARMED, where the arm stands.  Targets go out on the link for which preflight was green only."""
        with self.lock:
            self.look()
            # What would hold the arm at the first tick is better told now than made a fault then.
            now = self.clock.now()
            held = hold_of(self._health(now, self._linked, self.commands.age(now)), self.times)
            if held is not None and self.machine.state is State.READY:
                raise RequestRefused(f"arm: {held}")
            self._call("confirm_arming", operator=operator)
            self._armed = self._green
            self.commands.arm()
            self.guard.began(self.commands.session, now)
            self.policy.restart()
            if self.gripper is not None:
                self.gripper.reset()

    def start(self) -> None:
        """ARMED to RUNNING."""
        self._call("start")

    def pause(self, why: str = "paused by the operator") -> None:
        """To HOLD, at once."""
        self._call("pause", why=why)

    def resume(self) -> None:
        """HOLD to RUNNING, if the cause is gone; a goal of the hand that failed is tried again (at most twice).

        To a guard that has stopped the arm it is a new arming by the same operator: it takes no lease of the old one.
        """
        with self.lock:
            hand = self.gripper if self.gripper is not None and self.gripper.problem is not None else None
            self.guard.problem(self.clock.now(), self.client.epoch)
            ended = self.guard.ended
            forgiven = ("gripper",) * (hand is not None and not hand.fault) + ("guard",) * ended
            self.look(*forgiven)
            self._call("resume")
            if ended:
                self.commands.arm()
                self.guard.began(self.commands.session, self.clock.now())
            if hand is not None:
                hand.retry()

    def intervene(self) -> None:
        """RUNNING to HUMAN."""
        with self.lock:
            self._teleop = None
            self._call("intervene")

    def release(self) -> None:
        """HUMAN to HOLD."""
        self._call("release")

    def estop(self) -> None:
        """Latched stop by the program (not safety-rated)."""
        self._call("estop")

    def recover(self, operator: str) -> None:
        """Ask the robot, once, to clear its errors; READY follows when a new preflight is green."""
        if self.monitor_only:
            raise RequestRefused("recover: this driver only watches; connect with monitor_only=False")
        with self.lock:
            self.look()  # the link may be lost since the last tick: that must cost no recovery
            self._call("recover", operator=operator)
            self.policy.restart()
            if self.gripper is not None:
                self.gripper.reset()
            self._again = True

    def heartbeat(self, at: float | None = None) -> None:
        """The operator is there (``at``: local monotonic time, now unless given)."""
        self._operator_at = max(self._operator_at, self.clock.now() if at is None else at)

    def teleop(self, wish: Setpoint, made: float | None = None) -> None:
        """Where the human wants the tool, as of ``made`` (now unless given); counts in HUMAN only."""
        with self.lock:
            self._teleop = wish, self.clock.now() if made is None else made

    def gripper_home(self) -> None:
        """Homing; only from READY."""
        with self.lock:
            if self.gripper is None or self.monitor_only:
                raise RequestRefused("gripper homing: this driver has no hand, or only watches")
            self.gripper.home(self.machine.state)

    # -- preflight -----------------------------------------------------------------------------------------------------

    @property
    def preflight_wanted(self) -> bool:
        """Whether a preflight is to be made again without being asked for: after a reconnect or a recovery."""
        with self.lock:
            record = self.record
            if not self._again or self._green is not None or self.machine.state in (*ENGAGED, State.OFF) or not record:
                return False
            health = self._health(self.clock.now(), self._linked, None)
            return fault_of(health) is None and health.mode != STOPPED

    def preflight(self) -> Report:
        """See ``Driver``; waits for answers.  Refused while the arm is armed, and without a link."""
        with self.lock:
            if self.machine.state in ENGAGED:
                raise RequestRefused(f"preflight: not in state {self.machine.state.value}; disarm first")
            if self.client.state is not LinkState.UP:
                raise RequestRefused(f"preflight: the link is not up ({self.client.reason})")
            epoch, voided = self.client.epoch, self._voided
        report = run_preflight(Inspection(self))
        with self.lock:
            self.report = report
            if not report.green:
                self._green = None  # whatever an earlier one saw
            elif self.client.epoch == epoch and self._voided == voided:
                self._green, self._again = epoch, False
            self.guarded.noted("preflight", self.clock.now(), green=report.green, failures=report.failures())
        self.look()
        return report

    # -- the policy ----------------------------------------------------------------------------------------------------

    def snapshot(self, steps: int = 1, dt: float = 0.1) -> Snapshot | NoSnapshot:
        """See ``Driver``; with what arrived since the last tick."""
        with self.lock:
            now = self.clock.now()
            self.take_in(now)
            if self.sync.trouble is not None:
                return NoSnapshot(self.sync.trouble)
            return self.sources.observer.snapshot(now, steps, dt)

    def submit(self, chunk: Waypoints) -> bool:
        """Leave a chunk for the next tick; false if it is of an old epoch or nothing runs."""
        with self.lock:
            self._dt = float(chunk.dt) if np.isfinite(chunk.dt) and chunk.dt > 0 else self._dt
            return self.tapped.submit(chunk, self.clock.now())

    def policy_began(self) -> None:
        """The policy was asked: its watchdog runs."""
        with self.lock:
            self.policy.began(self.clock.now())

    def policy_answered(self) -> None:
        """It answered."""
        with self.lock:
            now = self.clock.now()
            warning = self.policy.answered(now, self._dt)
            if self.policy.lasted is not None:
                self.guarded.noted(ANSWERED, now, seconds=self.policy.lasted)
            if warning is not None:
                self.guarded.noted("policy", now, warning=warning)

    def policy_failed(self, why: str) -> None:
        """It raised or died: FAULT."""
        with self.lock:
            self.policy.failed(why)

    # -- the end -------------------------------------------------------------------------------------------------------

    def disconnect(self, why: str = "disconnected") -> None:
        """Hold, send the stop target, un-advertise, close; twice does no harm.

        A signal's handler that interrupts a tick of its own thread has it done at that tick's end.
        """
        with self.lock:
            if self.closed:
                return
            if self.ticking:
                self.leaving = why
                return
            self.closed = True
            try:
                self._call("shut_down", why=why)
                super().tick()  # without errands, which may wait for answers
            except Exception:
                # Whatever is broken, the link is closed: the controller then keeps a target within the lead cap.
                LOG.exception("driver: no stop target was sent")
        # A control frame would overtake the last target, so that one must be out first.
        self.client.flush(FLUSH)
        self.close()

    def leave(self) -> None:
        """See ``Engine``."""
        why, self.leaving = self.leaving, ""
        self.disconnect(why)
