"""A driver on the twin, and a hand that grasps a cube with it; as a program it records until it is killed."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.limits import SafetyLimits
from robopolicy.real_robot.log.settings import LoopSettings
from robopolicy.real_robot.recording.features import demonstration_features
from robopolicy.real_robot.recording.recorder import Recorder
from robopolicy.real_robot.teleop.device import Reading

BRISK = SafetyLimits(speed=0.2, turn_speed=0.6, acceleration=2.0, lead=0.1, turn_lead=0.4)
SIZE = (48, 64)


def make_driver(cameras=(), task=None, seed=0, limits=BRISK, **more):
    from robopolicy.real_robot.twin.config import TwinConfig
    from robopolicy.testing.twin_driver import TwinDriver

    config = TwinConfig(task=task, lock_step=True, cameras=cameras, image_size=SIZE, seed=seed)
    return TwinDriver(config, LoopSettings(limits=limits), **more)


class Desk:
    """A driver and a recorder of it; ``step`` is 20 ms."""

    def __init__(self, root, cameras=(), task=None, tap=None, **recorder):
        self.driver = make_driver(cameras, task, tap=tap)
        features = demonstration_features(dict.fromkeys(cameras, SIZE))
        self.recorder = Recorder(self.driver, root, recorder.pop("fps", 10), features, **recorder)
        self.number = 0

    def step(self, n=1):
        for _ in range(n):
            self.recorder.tick()
            self.driver.tick(2)

    def run(self):
        self.driver.arm()
        self.driver.start()
        self.step()

    def line(self, way, seconds=1.0, dt=0.1, first=0.3):
        n = round(seconds / dt)
        start = self.driver.status().emitted
        shares = np.arange(1, n + 1)[:, None] / n
        track = Pose(start.position + shares * np.asarray(way, float), np.tile(start.quaternion, (n, 1)))
        stamps = self.driver.clock.now() + first + dt * np.arange(n)
        self.number += 1
        return Waypoints(track, stamps, dt, self.driver.machine.epoch, np.full(n, 0.06), self.number)

    def close(self):
        self.recorder.close()
        self.driver.disconnect()


@pytest.fixture
def desk(tmp_path):
    pytest.importorskip("mujoco")
    made = []

    def make(**more):
        made.append(Desk(tmp_path / "set", **more))
        return made[-1]

    yield make
    for each in made:
        each.close()


class Grasper:
    """A script for ``ScriptedDevice``: takes the arm, grasps the cube, lifts it, judges; as often as it is read."""

    def __init__(self, driver, limits=BRISK, share=0.8):
        self.driver, self.limits, self.share = driver, limits, share
        self.phase, self.since, self.asked = "begin", 0.0, 0

    def __call__(self, now):
        driver, phase = self.driver, self.phase
        names, values = driver.twin.scene.objects()
        seen = dict(zip(names, values, strict=True))
        cube = np.array([seen["cube_x"], seen["cube_y"], seen["cube_z"]])
        emitted, tool = driver.status().emitted, driver.twin.pose.position
        if phase == "begin" or emitted is None:
            self._next("above", now)
            return Reading(held=True, gripper=1.0, commands=("begin",))
        goals = {"above": cube + np.array((0, 0, 0.10)), "down": cube, "close": tool}
        goals["put"] = np.array((cube[0], cube[1], 0.03))
        goal = goals.get(phase, np.array((cube[0], cube[1], 0.22)))
        error = goal - emitted.position
        near = np.linalg.norm(error) < 0.004 and np.linalg.norm(tool - goal) < 0.006
        if phase in ("above", "down") and near:
            self._next({"above": "down", "down": "close"}[phase], now)
        elif phase == "close" and now - self.since > 1.0:
            self._next("up", now)
        elif phase == "up" and (driver.twin.succeeded or now - self.since > 4.0):
            self._next("put", now)
            return Reading(held=True, commands=("success" if driver.twin.succeeded else "failure",))
        elif phase == "put" and now - self.since > 2.0:
            self.driver.twin.succeeded = False
            self._next("begin", now)
        speed = self.share * self.limits.speed
        move = np.zeros(3) if phase == "close" else np.clip(4 * error / speed, -1, 1)
        turn = float(np.clip(4 * seen["to_cube_yaw"] / (self.share * self.limits.turn_speed), -1, 1))
        closed = phase in ("close", "up", "put")
        return Reading(tuple(move), (0.0, 0.0, turn * (phase == "above")), 0.0 if closed else 1.0, held=True)

    def _next(self, phase, now):
        self.phase, self.since = phase, now


@pytest.fixture
def rig():
    pytest.importorskip("mujoco")
    return Desk


@pytest.fixture
def grasper():
    return Grasper


def _endless(root):
    desk = Desk(root, cameras=("front",), image_storage="png")
    desk.run()
    while True:
        desk.recorder.begin("go to and fro")
        for k in range(2):
            desk.recorder.submit(desk.line((0.05 * (-1) ** k, 0, 0), 0.8))
            desk.step(30)
        if desk.recorder.episodes == 2:
            sys.stdout.write(f"in the middle of episode {desk.recorder.episodes + 1}\n")
            sys.stdout.flush()
        desk.recorder.end(True)
        desk.recorder.flush()


if __name__ == "__main__":
    _endless(sys.argv[1])
