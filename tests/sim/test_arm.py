"""Inverse kinematics and the bounded tool control of the simulated arm."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.sim.arm import ACTION_SPACE, ANGULAR_SPEED, HIGH, LINEAR_SPEED, LOW
from robopolicy.sim.ik import DownwardIK
from robopolicy.sim.panda_model import HOME, Q_MAX, Q_MIN, QD_MAX, TORQUE_MAX, downward, forward_kinematics
from robopolicy.sim.tasks.lift import PandaLift

DT = 0.05


@pytest.fixture(scope="module")
def env() -> PandaLift:
    return PandaLift(cameras=())


def action(env: PandaLift, **changes: float) -> np.ndarray:
    now = dict(zip(("x", "y", "z", "yaw"), env.arm.setpoint, strict=True)) | {"gripper": 1.0} | changes
    return np.array([now[name] for name in ACTION_SPACE.names or ()])


def test_ik_reaches_the_whole_workspace_within_limits():
    ik, rng = DownwardIK(), np.random.default_rng(1)
    for pose in rng.uniform(LOW[:4], HIGH[:4], (60, 4)):
        q = ik.solve(HOME, pose, iterations=80, tolerance=1e-6)
        tool = forward_kinematics(q)
        np.testing.assert_allclose(tool[:3, 3], pose[:3], atol=1e-4)
        np.testing.assert_allclose(tool[:3, :3], downward(pose[3]), atol=1e-4)
        assert (q >= Q_MIN).all()
        assert (q <= Q_MAX).all()


def test_tool_arrives_at_a_held_target(env):
    env.reset(0)
    target = np.array((0.55, -0.12, 0.15, 0.6, 1.0))
    for _ in range(40):
        env.step(target)
    np.testing.assert_allclose(env.arm.state()[:4], target[:4], atol=2e-3)


def test_gripper_action_is_its_opening(env):
    env.reset(0)
    for share in (1.0, 0.5, 0.0):
        for _ in range(25):
            env.step(action(env, gripper=share))
        assert env.arm.width == pytest.approx(0.08 * share, abs=1.5e-3)


def test_no_action_moves_the_arm_faster_than_the_limits(env):
    env.reset(3)
    rng = np.random.default_rng(0)
    qpos = env.data.qpos[:7].copy()
    for _ in range(60):
        before = env.arm.setpoint.copy()
        env.step(rng.uniform(-1e3, 1e3, 5))
        moved = env.arm.setpoint - before
        assert np.linalg.norm(moved[:3]) <= LINEAR_SPEED * DT + 1e-12
        assert abs(moved[3]) <= ANGULAR_SPEED * DT + 1e-12
        assert (env.arm.setpoint >= LOW[:4] - 1e-9).all()
        assert (env.arm.setpoint <= HIGH[:4] + 1e-9).all()
        assert (np.abs(env.data.qpos[:7] - qpos) <= 1.5 * QD_MAX * DT).all()
        assert (np.abs(env.data.actuator_force[:7]) <= TORQUE_MAX + 1e-9).all()
        qpos = env.data.qpos[:7].copy()


def test_fingers_stay_above_the_table(env):
    env.reset(0)
    for _ in range(60):
        env.step(np.array((0.6, 0.25, -1.0, 0.0, 0.0)))
    tips = [env.data.geom(name).xpos[2] - 0.0115 for name in ("left_pad", "right_pad")]
    assert min(tips) > 0.0
