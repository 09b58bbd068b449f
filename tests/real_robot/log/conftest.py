"""A loop on the twin in lock-step, with a log of it; as a program it runs until it is killed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from robopolicy.real_robot.clock import VirtualClock
from robopolicy.real_robot.control.loop import Inputs
from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.control.watchdogs import Health
from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.limits import SafetyLimits
from robopolicy.real_robot.log.runlog import RunLog
from robopolicy.real_robot.log.settings import LoopSettings
from robopolicy.real_robot.log.tapped import TappedLoop
from robopolicy.real_robot.safety.types import Measured, Setpoint


class LoggedRig:
    """Armed and standing in front of the base; ``close`` ends the log."""

    def __init__(self, folder, settings=None, recovery=lambda: None, **log):
        from robopolicy.real_robot.twin.config import TwinConfig
        from robopolicy.real_robot.twin.twin import Twin

        self.twin = Twin(TwinConfig(lock_step=True, cameras=()))
        self.clock = VirtualClock(1000.0)
        self.settings = settings or LoopSettings()
        self.log = RunLog(folder, self.settings, self.clock, {"operator": "Ada"}, **log)
        self.loop = TappedLoop(self.settings.build(recovery), self.log)
        self.health, self.records = Health(), []
        here = self.twin.pose
        self.twin.aim(Pose(np.array((0.45, 0.0, 0.35)), here.quaternion))
        self.twin.step(2000)
        self.tick(3)
        self.call("ask_to_arm", operator="Ada")
        self.call("confirm_arming", operator="Ada")
        self.tick(2)

    @property
    def machine(self):
        return self.loop.loop.machine

    @property
    def filter(self):
        return self.loop.loop.filter

    def call(self, name, **arguments):
        self.loop.call(name, self.clock.now(), **arguments)

    def measured(self):
        arm = self.twin.arm
        return Measured(
            self.clock.now() - 0.004, arm.pose.position, arm.pose.quaternion, np.array(arm.twist), np.array(arm.q)
        )

    def tick(self, n=1, wish=None, dt=0.01):
        for _ in range(n):
            self.clock.advance(dt)
            teleop = (wish, self.clock.now()) if wish is not None else None
            # One age that no float32 and no rounding would keep.
            inputs = Inputs(self.measured(), self.health, self.clock.now() - 0.1 / 3, None, teleop)
            record = self.loop.tick(self.clock.now(), inputs)
            if record.publish is not None:
                self.twin.aim(record.publish)
            self.twin.step(10)
            self.records.append(record)
        return record

    def line(self, way, seconds=0.8, dt=0.1, chunk=0):
        n = round(seconds / dt)
        start = self.filter.pose
        shares = np.arange(1, n + 1)[:, None] / n
        track = Pose(start.position + shares * np.asarray(way, float), np.tile(start.quaternion, (n, 1)))
        stamps = self.clock.now() + 0.3 + dt * np.arange(n)
        return Waypoints(track, stamps, dt, self.machine.epoch, np.linspace(0.07, 0.02, n), chunk)

    def submit(self, chunk):
        return self.loop.submit(chunk, self.clock.now())

    def here(self, way=(0, 0, 0)):
        pose = self.filter.pose
        return Setpoint(pose.position + np.asarray(way, float), pose.quaternion, 0.05)


@pytest.fixture(scope="session")
def rig_class():
    pytest.importorskip("mujoco")
    return LoggedRig


@pytest.fixture
def rig(tmp_path):
    pytest.importorskip("mujoco")
    rigs = []

    def make(**more):
        rigs.append(LoggedRig(tmp_path / "log", **more))
        return rigs[-1]

    yield make
    for made in rigs:
        made.log.close()
        made.twin.close()


def _endless(folder):
    rig = LoggedRig(folder, LoopSettings(limits=SafetyLimits.first_run()))
    rig.call("start")
    k = 0
    while True:
        rig.submit(rig.line((0.02 * (-1) ** k, 0, 0), chunk=k))
        rig.tick(60)
        k += 1
        sys.stdout.write(f"{len(rig.records)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _endless(Path(sys.argv[1]))
