"""A ``Driver`` on the twin without a wire between them, in lock-step: fast, for tests of what uses a driver.

The loop, the filter and the state machine are the real ones; connection, preflight and the hand's worker are not there.
Tests of those use ``LocalDriver``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from robopolicy.core.errors import RequestRefused
from robopolicy.real_robot.clock import VirtualClock
from robopolicy.real_robot.control.loop import Inputs, TickRecord
from robopolicy.real_robot.control.observations import Frame, NoSnapshot, Observer, Snapshot, StateSample
from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.control.states import State, StateMachine
from robopolicy.real_robot.control.watchdogs import Health
from robopolicy.real_robot.driver.contract import Report, Status
from robopolicy.real_robot.driver.operator_calls import OperatorCalls
from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.log.settings import LoopSettings
from robopolicy.real_robot.log.tap import Tap
from robopolicy.real_robot.log.tapped import TappedLoop
from robopolicy.real_robot.safety.types import Measured, SafetyFlag, Setpoint
from robopolicy.real_robot.twin.config import TwinConfig
from robopolicy.real_robot.twin.twin import Twin

NEAR = 0.004  # m between two wishes for the hand that are one


class TwinDriver(OperatorCalls):
    """Linked, ready, and with the arm in front of the base; ``tick`` is one hundredth of a second."""

    def __init__(
        self, config: TwinConfig, settings: LoopSettings | None = None, tap: Tap | None = None, dead_man: bool = False
    ) -> None:
        self.clock = VirtualClock(100.0)
        self.twin = Twin(config, self.clock)
        self.settings = settings or LoopSettings()
        self.tapped = TappedLoop(self.settings.build(), tap)
        self.observer = Observer(config.cameras, self.settings.timeouts)
        self.health, self.ticks = Health(), 0
        self.record: TickRecord | None = None
        self._every = round(100 / config.camera_rate)
        self._teleop: tuple[Setpoint, float] | None = None
        self._dead_man, self._operator = dead_man, self.clock.now()
        self._goal: float | None = None
        self.twin.aim(Pose(np.array((0.45, 0.0, 0.30)), self.twin.pose.quaternion))
        self.twin.step(900)
        self.tick(25)

    @property
    def machine(self) -> StateMachine:
        """The loop's state machine."""
        return self.tapped.loop.machine

    # -- time ----------------------------------------------------------------------------------------------------------

    def tick(self, count: int = 1) -> TickRecord:
        """The arm moves on by 10 ms, then the loop decides."""
        for _ in range(count):
            self.twin.step(10)
            self.ticks += 1
            now, arm = self.clock.now(), self.twin.arm
            pose, q = arm.pose, np.array(arm.q)
            self.observer.state(StateSample(now, pose, q, np.zeros(7), np.zeros(3)))
            self.observer.gripper(now, self.twin.hand.reading)
            if self.ticks % self._every == 0:
                for name in self.twin.cameras.names:
                    if (picture := self.twin.cameras.compressed(name)) is not None:
                        self.observer.frame(name, Frame(now, picture[1]))
            measured = Measured(now, pose.position, pose.quaternion, np.array(arm.twist), q, width=self.twin.hand.width)
            operator = self._operator if self._dead_man else None
            inputs = Inputs(measured, self.health, None, operator, self._teleop)
            self.record = self.tapped.tick(now, inputs)
            if self.record.publish is not None:
                self.twin.aim(self.record.publish)
            self._grip(self.record.gripper)
        assert self.record is not None
        return self.record

    def _grip(self, width: float | None) -> None:
        if width is None or (self._goal is not None and abs(width - self._goal) <= NEAR):
            return
        closing, self._goal = self._goal is None or width < self._goal, width
        if closing and width < 0.01:
            self.twin.hand.grasp(width, inner=0.08, outer=0.08, speed=0.1, force=20.0)
        else:
            self.twin.hand.move(width)

    # -- the contract --------------------------------------------------------------------------------------------------

    def _call(self, name: str, /, **arguments: Any) -> None:
        self.tapped.call(name, self.clock.now(), **arguments)

    def connect(self, monitor_only: bool = True) -> None:
        """Always connected."""

    def preflight(self) -> Report:
        """Nothing to look at."""
        return Report()

    def arm(self) -> None:
        """Both steps, and two ticks."""
        self.ask_to_arm("Ada")
        self.confirm_arming("Ada")
        self.tick(2)

    def heartbeat(self) -> None:
        """See ``Driver``."""
        self._operator = self.clock.now()

    def teleop(self, wish: Setpoint) -> None:
        """See ``Driver``."""
        self._teleop = wish, self.clock.now()

    def snapshot(self, steps: int = 1, dt: float = 0.1) -> Snapshot | NoSnapshot:
        """See ``Driver``."""
        return self.observer.snapshot(self.clock.now(), steps, dt)

    def submit(self, chunk: Waypoints) -> bool:
        """See ``Driver``."""
        return self.tapped.submit(chunk, self.clock.now())

    def policy_began(self) -> None:
        """Not watched."""

    def policy_answered(self) -> None:
        """Not watched."""

    def policy_failed(self, why: str) -> None:
        """See ``Driver``."""
        self.health = Health(policy=why)

    def gripper_home(self) -> None:
        """Only from READY."""
        if self.machine.state is not State.READY:
            raise RequestRefused("home: only from READY")
        self.twin.hand.homing()

    def status(self) -> Status:
        """See ``Driver``."""
        record, machine, now = self.record, self.machine, self.clock.now()
        emitted = record.emitted if record is not None else None
        return Status(
            now=now,
            state=machine.state,
            why=machine.why,
            epoch=machine.epoch,
            link=True,
            plan_end=self.tapped.loop.plan.end,
            starved=0.0,
            measured=self.twin.pose,
            q=tuple(self.twin.arm.q),
            width=self.twin.hand.width,
            force=0.0,
            emitted=emitted.pose if emitted is not None else None,
            emitted_gripper=emitted.gripper if emitted is not None else None,
            flags=record.flags if record is not None else SafetyFlag.NONE,
            mode=2,
            errors=(),
            ages={},
            rates={},
            clock_offset=0.0,
            late_p50=0.0,
            late_p99=0.0,
            counters={},
        )

    def disconnect(self) -> None:
        """Frees the twin."""
        self.pause("disconnected")
        self.twin.close()
