"""The table of the arm against the published start pose, robosuite's model and the model that the twin runs."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
import pytest

from robopolicy.core.errors import ConfigError
from robopolicy.real_robot import kinematics as kin
from robopolicy.real_robot.frames import Pose, difference, downward, turned
from robopolicy.sim.panda_model import HOME, Q_MAX, Q_MIN, scene

ANGLES = np.random.default_rng(0).uniform(Q_MIN, Q_MAX, (50, 7))


def test_fk_of_the_start_pose():
    pose = kin.forward(HOME)
    np.testing.assert_allclose(pose.position, (0.3069, 0.0, 0.4869), atol=5e-5)
    np.testing.assert_allclose(pose.quaternion, (1, 0, 0, 0), atol=1e-12)
    np.testing.assert_allclose(kin.forward(HOME, "flange").position, (0.3069, 0.0, 0.4869 + 0.1034), atol=5e-5)
    np.testing.assert_allclose(kin.forward(HOME, "hand").quaternion, (1, 0, 0, 0), atol=1e-12)


def test_joint_7_frame_is_robosuites_to_1e_8_m():
    robosuite = pytest.importorskip("robosuite")
    path = Path(robosuite.__file__).parent / "models/assets/robots/panda/robot.xml"
    model = mujoco.MjModel.from_xml_path(str(path))
    data = mujoco.MjData(model)
    ours = kin.forward(ANGLES, "joint7")
    for i, q in enumerate(ANGLES):
        data.qpos[:7] = q
        mujoco.mj_kinematics(model, data)
        base, last = data.body("link0"), data.body("link7")
        turn = base.xmat.reshape(3, 3).T
        np.testing.assert_allclose(turn @ (last.xpos - base.xpos), ours.position[i], atol=1e-8)
        # Their joint axes are written with fewer digits than their positions.
        np.testing.assert_allclose(turn @ last.xmat.reshape(3, 3), ours.matrix()[i, :3, :3], atol=1e-6)


def test_tool_and_jacobian_are_those_of_the_simulated_arm_to_1e_6():
    model = mujoco.MjModel.from_xml_path(str(scene("panda")))
    data = mujoco.MjData(model)
    site, jac = model.site("tcp").id, np.zeros((6, model.nv))
    for q in ANGLES:
        data.qpos[:7] = q
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_jacSite(model, data, jac[:3], jac[3:], site)
        pose, ours = kin.PANDA.linearise(q)
        np.testing.assert_allclose(pose.position, data.site_xpos[site], atol=1e-6)
        np.testing.assert_allclose(pose.matrix()[:3, :3], data.site_xmat[site].reshape(3, 3), atol=1e-6)
        np.testing.assert_allclose(ours, jac[:, :7], atol=1e-6)


def test_jacobian_is_the_derivative_of_forward():
    h, q = 1e-6, ANGLES[3]
    for frame in ("flange", "tcp"):
        here, moved = kin.forward(q, frame), kin.forward(q + h * np.eye(7), frame)
        linear = (moved.position - here.position).T / h
        angular = difference(np.broadcast_to(here.quaternion, (7, 4)), moved.quaternion).T / h
        np.testing.assert_allclose(kin.jacobian(q, frame), np.concatenate((linear, angular)), atol=1e-5)


def test_leading_axes_give_the_same_as_one_by_one():
    poses, jacobians = kin.PANDA.linearise(ANGLES.reshape(5, 10, 7))
    np.testing.assert_allclose(poses.position[2, 3], kin.forward(ANGLES[23]).position, atol=1e-12)
    np.testing.assert_allclose(jacobians[2, 3], kin.jacobian(ANGLES[23]), atol=1e-12)


def test_damped_steps_reach_a_near_pose():
    start = kin.forward(HOME)
    target = Pose(start.position + np.array((0.02, -0.03, 0.01)), turned(start.quaternion, (0.05, 0.1, -0.1)))
    q = HOME
    for _ in range(8):
        q = q + kin.PANDA.step(q, target)
    reached = kin.forward(q)
    np.testing.assert_allclose(reached.position, target.position, atol=1e-6)
    assert np.linalg.norm(difference(reached.quaternion, target.quaternion)) < 1e-6


def test_damped_step_stays_bounded_where_the_arm_is_stretched_out():
    stretched = np.zeros(7)  # elbow at its end: the tool cannot move along the arm
    jacobian = kin.jacobian(stretched)
    assert kin.smallest_singular_value(jacobian) < 1e-6
    assert kin.smallest_singular_value(kin.jacobian(HOME)) > 0.05
    error = np.array((0.0, 0.0, 0.02, 0, 0, 0))
    assert np.abs(kin.damped_step(jacobian, error, 0.05)).max() <= 0.02 / (2 * 0.05)


def test_another_tool_moves_the_tcp_and_a_matrix_that_is_none_is_refused():
    longer = kin.Kinematics(kin.hand_on_flange(0.15))
    moved = longer.forward(HOME).position - kin.forward(HOME).position
    np.testing.assert_allclose(moved, (0, 0, -(0.15 - 0.1034)), atol=1e-12)
    with pytest.raises(ConfigError, match="F_T_EE"):
        kin.Kinematics(np.ones((4, 4)))


def test_yaw_turns_joint_7():
    q = HOME + np.array((0, 0, 0, 0, 0, 0, 0.3))
    np.testing.assert_allclose(kin.forward(q).quaternion, downward(-0.3), atol=1e-9)


@pytest.mark.parametrize(
    "tool", [np.diag((1.0, 1.0, -1.0, 1.0)), np.diag((1.1, 1.0, 1.0, 1.0)), np.full((4, 4), np.nan)]
)
def test_a_mirrored_stretched_or_broken_tool_is_refused(tool):
    with pytest.raises(ConfigError, match="rigid transform"):
        kin.Kinematics(tool)
