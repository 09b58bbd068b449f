"""Modes, reflexes, brakes, recovery: what stops the arm, what holds it, and what it takes to go on."""

from __future__ import annotations

import math

import mujoco
import numpy as np
import pytest

from robopolicy.real_robot.frames import Pose, difference, interpolate
from robopolicy.real_robot.kinematics import PANDA, forward, hand_on_flange
from robopolicy.real_robot.twin.arm import Mode
from robopolicy.real_robot.twin.impedance import ImpedanceGains
from robopolicy.sim.panda_model import HOME


def move(twin, offset, ticks, turn=None):
    here = twin.pose
    twin.aim(Pose(here.position + np.array(offset), here.quaternion if turn is None else turn))
    twin.step(ticks)


def put(twin, q):
    """The arm at rest with joint angles ``q``."""
    twin.scene.data.qpos[:7] = q
    mujoco.mj_forward(twin.scene.model, twin.scene.data)
    twin.arm.restart()


def above_table(twin, height=0.05):
    """The tool at rest ``height`` above the table; the finger tips are 9 mm lower."""
    q, start = HOME, forward(HOME)
    target = Pose(np.array((0.5, 0, height)), start.quaternion)
    for share in (*np.linspace(0.1, 1, 10), 1.0):
        q = q + PANDA.step(q, interpolate(start, target, share))
    put(twin, q)
    np.testing.assert_allclose(twin.pose.position, target.position, atol=1e-4)


def until_stopped(twin, offset, ticks=3000):
    """Targets ``offset`` ahead of the measured pose, with a spring that can push, until the arm leaves move."""
    twin.arm.law.retune(ImpedanceGains(2000, 150))
    for _ in range(ticks // 10):
        twin.aim(Pose(twin.pose.position + np.array(offset), twin.pose.quaternion))
        twin.step(10)
        if twin.arm.mode is not Mode.MOVE:
            return
    raise AssertionError("nothing stopped the arm")


def test_pose_jacobian_and_twist_are_those_of_the_table(twin):
    np.testing.assert_allclose(twin.arm.q, HOME, atol=1e-12)
    move(twin, (0.03, 0.05, -0.04), 400)
    q, dq = twin.arm.q, twin.arm.dq
    pose = forward(q)
    np.testing.assert_allclose(twin.pose.position, pose.position, atol=1e-6)
    assert np.linalg.norm(difference(twin.pose.quaternion, pose.quaternion)) < 1e-6
    h = 1e-6
    np.testing.assert_allclose((forward(q + h * dq).position - pose.position) / h, twin.arm.twist[:3], atol=1e-5)


def test_an_arm_without_targets_stays_where_it_is(twin):
    start = twin.pose
    twin.step(1000)
    np.testing.assert_allclose(twin.pose.position, start.position, atol=1e-4)
    assert twin.arm.mode is Mode.MOVE


def test_F27_contact_above_the_threshold_is_a_reflex_and_the_arm_stands(twin):
    above_table(twin)
    until_stopped(twin, (0, 0, -0.10))
    assert twin.arm.mode is Mode.REFLEX
    assert twin.arm.errors & {"cartesian_reflex", "joint_reflex"}
    assert np.abs(twin.arm.external_force[2]) > 15  # the table pushes back, upwards
    assert twin.arm.external_force[2] > 0
    twin.step(300)
    held = twin.pose.position
    twin.aim(Pose(held + np.array((0.2, 0, 0.2)), twin.pose.quaternion))
    twin.step(500)
    np.testing.assert_allclose(twin.pose.position, held, atol=1e-3)
    assert np.linalg.norm(twin.arm.twist[:3]) < 1e-3


def test_touching_below_the_threshold_is_no_reflex(twin):
    above_table(twin, 0.02)
    for _ in range(4):
        move(twin, (0, 0, -0.012), 300)
    assert twin.pose.position[2] < 0.012
    assert 1.0 < twin.arm.external_force[2] < 20.0
    assert twin.arm.mode is Mode.MOVE


def test_recovery_clears_the_error_and_starts_from_where_the_arm_is(twin):
    twin.arm.reflex("joint_reflex")
    twin.step(100)
    here = twin.pose
    assert twin.arm.recover() == ""
    assert twin.arm.mode is Mode.RECOVERING
    twin.step(250)
    assert twin.arm.mode is Mode.MOVE
    assert not twin.arm.errors
    assert twin.arm.last_errors == {"joint_reflex"}
    twin.step(500)
    np.testing.assert_allclose(twin.pose.position, here.position, atol=1e-3)  # the old target is forgotten
    move(twin, (0.03, 0, 0), 1500)
    assert twin.pose.position[0] - here.position[0] > 0.02


def test_F26_user_stop_brakes_a_moving_arm_within_millimetres(twin):
    for _ in range(100):
        twin.aim(Pose(twin.pose.position + np.array((0.05, 0, 0)), twin.pose.quaternion))
        twin.step(10)
    assert np.linalg.norm(twin.arm.twist[:3]) > 0.08
    here = twin.pose.position
    twin.arm.press_stop()
    assert twin.arm.mode is Mode.USER_STOPPED
    twin.step(300)
    assert np.linalg.norm(twin.pose.position - here) < 0.015
    assert np.linalg.norm(twin.arm.twist[:3]) < 0.01
    assert "pressed" in twin.arm.recover()
    twin.arm.release_stop()
    assert twin.arm.mode is Mode.IDLE
    move(twin, (0.1, 0, 0), 300)
    assert np.linalg.norm(twin.pose.position - here) < 0.015  # released is not recovered
    twin.arm.recover()
    twin.step(250)
    assert twin.arm.mode is Mode.MOVE


def test_a_reflex_under_the_user_stop_is_still_there_after_its_release(twin):
    twin.arm.press_stop()
    twin.arm.reflex()
    assert twin.arm.mode is Mode.USER_STOPPED
    twin.arm.release_stop()
    assert twin.arm.mode is Mode.REFLEX


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_target_crashes_the_node_and_the_arm_stops(twin, value):
    here = twin.pose.position
    twin.aim(Pose(np.full(3, value), twin.pose.quaternion))
    twin.step(10)
    assert twin.arm.crashed
    assert twin.arm.errors == {"communication_constraints_violation"}
    twin.step(500)
    assert np.isfinite(twin.scene.data.qpos).all()
    np.testing.assert_allclose(twin.pose.position, here, atol=2e-3)
    assert "restart" in twin.arm.recover()
    twin.arm.restart_node()
    assert twin.arm.recover() == ""
    twin.step(300)
    assert twin.arm.mode is Mode.MOVE


def test_leaving_a_joints_range_is_an_error(twin):
    until_stopped(twin, (0, 0, -0.10))  # straight down from the start pose folds the elbow
    assert twin.arm.errors == {"joint_position_limits_violation"}
    assert twin.arm.q[3] < -3.0718


def test_a_wild_target_jump_trips_a_speed_limit(twin):
    twin.arm.law.retune(ImpedanceGains(2000, 150))
    move(twin, (0.2, 0.6, 0.2), 600)
    assert twin.arm.mode is Mode.REFLEX
    assert twin.arm.errors & {"joint_velocity_violation", "cartesian_velocity_violation", "joint_reflex"}


def test_F29_a_guided_arm_ignores_targets_and_can_be_pushed(twin):
    twin.arm.guide(True)
    assert twin.arm.mode is Mode.GUIDING
    here = twin.pose.position
    move(twin, (0.1, 0, 0), 300)
    np.testing.assert_allclose(twin.pose.position, here, atol=1e-3)
    hand = twin.scene.model.body("hand").id
    twin.scene.data.xfrc_applied[hand, :3] = (0, 10.0, 0)
    twin.step(300)
    twin.scene.data.xfrc_applied[hand] = 0
    assert twin.pose.position[1] - here[1] > 0.02
    twin.arm.guide(False)
    assert twin.arm.mode is Mode.IDLE


def test_external_force_is_what_pushes_on_the_arm(twin):
    """Only contacts count: gravity, springs and dampers leave the estimate at zero."""
    move(twin, (0.05, 0, 0), 300)
    assert np.abs(twin.arm.external_force).max() < 1e-6


def test_F36_another_tool_moves_the_measured_pose_and_is_told(twin):
    before = twin.pose.position
    twin.arm.set_tool(hand_on_flange(0.1134))
    twin.step(5)
    np.testing.assert_allclose(twin.pose.position - before, (0, 0, -0.010), atol=1e-4)
    twin.step(300)
    assert twin.arm.mode is Mode.MOVE


def test_a_turned_tool_is_controlled_in_its_own_frame(twin):
    turned_tool = hand_on_flange()
    turned_tool[:3, :3] = np.eye(3)
    twin.arm.set_tool(turned_tool)
    twin.arm.recover()
    twin.arm.press_stop()
    twin.arm.release_stop()
    twin.arm.recover()
    twin.step(700)
    assert twin.arm.mode is Mode.MOVE
    assert np.linalg.norm(twin.arm.twist) < 1e-2
    assert np.linalg.norm(difference(twin.pose.quaternion, forward(twin.arm.q, "flange").quaternion)) < 1e-6


def test_links_touch_the_table_but_not_each_other(twin):
    model = twin.scene.model
    kinds = {model.geom(i).name: (model.geom_contype[i], model.geom_conaffinity[i]) for i in range(model.ngeom)}
    assert kinds["table"] == (1, 5)
    assert kinds["left_pad"] == (1, 1)
    twin.step(1)
    assert twin.scene.data.ncon == 0
    assert model.opt.timestep == 0.001
    assert model.actuator_biastype[model.actuator("joint1").id] == mujoco.mjtBias.mjBIAS_NONE.value


def test_an_arm_recovered_while_a_hand_leads_it_is_held_where_it_was_led_to(twin):
    twin.arm.guide(True)
    twin.scene.data.qvel[1] = 1.0
    twin.step(200)
    led = twin.arm.q
    assert np.abs(led - HOME).max() > 0.05
    assert twin.arm.recover() == ""
    twin.step(150)
    assert twin.arm.mode is Mode.RECOVERING
    assert np.abs(twin.arm.q - led).max() < 0.03
    # and nobody leads an arm whose user stop is pressed
    twin.arm.press_stop()
    twin.arm.guide(True)
    assert twin.arm.mode is Mode.USER_STOPPED
