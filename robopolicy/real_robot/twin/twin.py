"""The twin itself: scene, arm, hand and cameras under one count of milliseconds, with or without ROS around it.

Source: our own design.  ``Twin.step`` is the only place where anything moves, in whichever thread calls it; others hand
in what they want with ``post``.  With ``lock_step`` a run is a function of the seed and of what was asked of it when.

    twin = Twin(TwinConfig(task="panda_lift", lock_step=True))
    twin.aim(Pose((0.45, 0.0, 0.2), downward(0.0)))
    twin.step(1000)
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from robopolicy.core.errors import ConfigError
from robopolicy.real_robot.clock import Clock, VirtualClock
from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.twin.arm import FrankaArm, Mode
from robopolicy.real_robot.twin.cameras import TwinCameras
from robopolicy.real_robot.twin.clock import RobotClock
from robopolicy.real_robot.twin.config import TwinConfig
from robopolicy.real_robot.twin.faults import FaultPort
from robopolicy.real_robot.twin.hand import Hand
from robopolicy.real_robot.twin.impedance import ImpedanceGains
from robopolicy.real_robot.twin.scene import TICK, make_scene
from robopolicy.real_robot.twin.schedule import Schedule
from robopolicy.sim.protocol import StepResult

if TYPE_CHECKING:
    from robopolicy.real_robot.twin.ros import RosFace
    from robopolicy.real_robot.wire.bus import Bus


class Twin:
    """A simulated Franka.

    Args:
        config: what to load and how; the empty table unless told otherwise.
        clock: time of the machine it runs on; in lock-step a ``VirtualClock``, which the twin then drives.

    ``clock`` (a ``RobotClock``) is the clock of the robot's side: give it to the bus.
    """

    def __init__(self, config: TwinConfig | None = None, clock: Clock | None = None) -> None:
        self.config = config or TwinConfig()
        if self.config.lock_step and not isinstance(clock, VirtualClock | None):
            raise ConfigError("lock-step drives the time itself: give no clock, or a VirtualClock")
        self.clock = RobotClock(clock or (VirtualClock() if self.config.lock_step else None))
        self.scene = make_scene(self.config.task, self.config.options)
        model, data = self.scene.model, self.scene.data
        self.scene.reset(self.config.seed)
        self.arm = FrankaArm(model, data, ImpedanceGains.preset(self.config.controller))
        self.hand = Hand(model, data)
        config_ = self.config
        self.cameras = TwinCameras(
            self.scene.cameras, config_.cameras, config_.image_size, config_.jpeg_quality, config_.seed
        )
        self.schedule = Schedule()
        self.faults = FaultPort(self)
        self.lock = threading.RLock()
        self._inbox: deque[Callable[[], None]] = deque()
        self.face: RosFace | None = None
        self.result: StepResult | None = None
        self.succeeded = False
        self.schedule.every("judge", self.scene.fps, self._judge)

    @property
    def ticks(self) -> int:
        """Milliseconds of physics since the twin was made."""
        return self.schedule.now

    @property
    def time(self) -> float:
        """Seconds of physics since the twin was made."""
        return self.schedule.now * TICK

    @property
    def pose(self) -> Pose:
        """Measured pose of the tool."""
        return self.arm.pose

    def aim(self, pose: Pose) -> None:
        """A new equilibrium pose, as a message on the command topic; nothing about it is checked, as on the robot."""
        self.arm.aim(pose.position, pose.quaternion)

    def post(self, action: Callable[[], None]) -> None:
        """Have ``action`` done before the next tick (any thread)."""
        self._inbox.append(action)

    def reset(self, seed: int) -> None:
        """Another scene: arm at its start, objects where ``seed`` puts them, no errors; faults stay as they are."""
        with self.lock:
            self.scene.reset(seed)
            self.arm.restart()
            self.hand.restart()
            self.result, self.succeeded = None, False
            if self.face is not None:
                self.face.forget_goals()

    def step(self, ticks: int = 1) -> None:
        """Advance by ``ticks`` milliseconds; publishes what falls due."""
        # A target of NaN is let through on purpose, up to the torque; NumPy need not say so on the way.
        with self.lock, np.errstate(invalid="ignore", over="ignore"):
            end = self.schedule.now + ticks
            while self.schedule.now < end:
                while self._inbox:
                    self._inbox.popleft()()
                n = min(end - self.schedule.now, self.schedule.until_next())
                for _ in range(n):
                    self.hand.tick()
                    self.arm.tick()
                if self.config.lock_step:
                    self.clock.advance(n * TICK)
                self.schedule.advance(n)

    def _judge(self) -> None:
        if self.arm.crashed and not np.isfinite(self.scene.data.qpos).all():
            return
        self.result = self.scene.judge()
        self.succeeded = self.succeeded or self.result.success

    def bind(self, bus: Bus) -> RosFace:
        """Publish and serve the robot's ROS interface on ``bus``, whose clock should be this twin's ``clock``."""
        from robopolicy.real_robot.twin.ros import RosFace

        if self.face is not None:
            raise ConfigError("this twin is on a bus already; make another twin")
        self.face = RosFace(self, bus)
        return self.face

    @property
    def status(self) -> dict[str, object]:
        """What an operator wants to know, JSON ready."""
        return {
            "time": round(self.time, 3),
            "mode": self.arm.mode.name.lower(),
            "errors": sorted(self.arm.errors),
            "crashed": self.arm.crashed,
            "succeeded": self.succeeded,
            "max_reward": float(self.result.info["max_reward"]) if self.result else 0.0,
            "width": round(self.hand.width, 4),
            "position": [round(float(v), 4) for v in self.arm.pose.position],
            "faults": self.faults.active,
        }

    def close(self) -> None:
        """Free the GL context."""
        self.scene.close()


__all__ = ["Mode", "Twin"]
