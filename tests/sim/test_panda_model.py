"""The primitive Panda is the published arm: frames, limits, torques, start pose."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import mujoco
import numpy as np
import pytest

from robopolicy.sim import panda_model as panda

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def arm() -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = mujoco.MjModel.from_xml_path(str(panda.scene("panda")))
    return model, mujoco.MjData(model)


def pose_of(data: mujoco.MjData, body: str) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = data.body(body).xmat.reshape(3, 3), data.body(body).xpos
    return pose


def test_frames_are_those_of_the_kinematic_table(arm):
    model, data = arm
    for q in RNG.uniform(panda.Q_MIN, panda.Q_MAX, (50, 7)):
        data.qpos[:7] = q
        mujoco.mj_kinematics(model, data)
        table = panda.joint_frames(q)
        for i in range(7):
            np.testing.assert_allclose(pose_of(data, f"link{i + 1}"), table[i], atol=1e-9)
        tool = panda.forward_kinematics(q)
        np.testing.assert_allclose(data.site("tcp").xpos, tool[:3, 3], atol=1e-9)
        np.testing.assert_allclose(data.site("tcp").xmat.reshape(3, 3), tool[:3, :3], atol=1e-9)


def test_joint_7_frame_agrees_with_the_independent_robosuite_model():
    robosuite = pytest.importorskip("robosuite")
    path = Path(robosuite.__file__).parent / "models/assets/robots/panda/robot.xml"
    model = mujoco.MjModel.from_xml_path(str(path))
    data = mujoco.MjData(model)
    base = model.body("link0").id
    for q in RNG.uniform(panda.Q_MIN, panda.Q_MAX, (50, 7)):
        data.qpos[:7] = q
        mujoco.mj_kinematics(model, data)
        in_base = np.linalg.inv(pose_of(data, model.body(base).name)) @ pose_of(data, "link7")
        np.testing.assert_allclose(in_base, panda.joint_frames(q)[-1], atol=1e-6)


def test_start_pose():
    tool = panda.forward_kinematics(panda.HOME)
    np.testing.assert_allclose(tool[:3, 3], (0.3069, 0.0, 0.4869), atol=1e-4)
    np.testing.assert_allclose(tool[:3, :3], np.diag((1.0, -1.0, -1.0)), atol=1e-12)


def test_limits_and_torques_are_the_published_ones(arm):
    model, _ = arm
    for i, name in enumerate(panda.JOINTS):
        np.testing.assert_allclose(model.joint(name).range, (panda.Q_MIN[i], panda.Q_MAX[i]))
        np.testing.assert_allclose(model.actuator(name).forcerange, (-panda.TORQUE_MAX[i], panda.TORQUE_MAX[i]))
        np.testing.assert_allclose(model.actuator(name).ctrlrange, (panda.Q_MIN[i], panda.Q_MAX[i]))
    opening = sum(model.joint(name).range[1] for name in panda.FINGERS)
    assert opening == pytest.approx(panda.WIDTH_MAX)


@pytest.mark.parametrize("name", ["panda", "table", "lift", "push", "stack"])
def test_scenes_are_primitives_without_meshes_or_files(name):
    tree = ElementTree.parse(panda.scene(name))
    assert not list(tree.iter("mesh"))
    assert not [e for e in tree.iter() if "file" in e.attrib and e.tag != "include"]


def test_arm_stays_put_under_gravity(arm):
    model, data = arm
    mujoco.mj_resetData(model, data)
    data.qpos[:7] = data.ctrl[:7] = panda.HOME
    mujoco.mj_step(model, data, nstep=400)
    np.testing.assert_allclose(data.qpos[:7], panda.HOME, atol=1e-3)
