"""Rows of the hand and of the preflight through the whole driver, on the twin in lock-step."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.core.errors import RequestRefused
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.safety.types import SafetyFlag

MOVES = {"gripper": {"expect_object": False}}


def closing(r, width, seconds=3.0):
    """A line of 2 cm with the hand told to go to ``width``."""
    return r.line(way=(0.02, 0.0, 0.0), seconds=seconds, gripper=np.full(round(seconds / 0.1), width))


def test_F30_a_failing_hand_holds_the_arm_twice_and_is_a_fault_the_third_time(rig):
    r = rig(**MOVES).running()
    r.fault("gripper_fail", 3)
    for failure in range(3):
        assert r.driver.submit(closing(r, 0.03))
        seconds = r.until(State.FAULT if failure == 2 else State.HOLD, 150)
        assert seconds < 1.5
        assert "gripper: move to 30 mm: aborted: move: command failed" in r.why
        stood = r.twin.pose.position
        r.step(60)
        assert np.linalg.norm(r.twin.pose.position - stood) < 0.01  # the arm holds meanwhile
        assert r.twin.hand.width > 0.075
        if failure < 2:
            r.driver.resume()
            assert r.step().state is State.RUNNING
    with pytest.raises(RequestRefused, match="not in state fault"):
        r.driver.resume()
    r.driver.recover("Ada")
    r.until(State.READY, 300)
    assert r.driver.status().extra["gripper_problem"] is None


def test_F30_a_goal_that_is_tried_again_and_works_ends_the_matter(rig):
    r = rig(**MOVES).running()
    r.fault("gripper_fail", 1)
    assert r.driver.submit(closing(r, 0.03))
    r.until(State.HOLD, 150)
    r.driver.resume()
    assert r.driver.submit(closing(r, 0.03))
    assert r.step(130).state is State.RUNNING
    assert r.twin.hand.width == pytest.approx(0.03, abs=1e-3)
    assert r.driver.status().counters["gripper.moves"] == 2


@pytest.mark.slow
def test_F30_the_arm_goes_on_at_its_pace_while_a_slow_hand_is_waited_for(rig):
    r = rig(**MOVES).running()
    r.fault("gripper_slow", 20)
    assert r.driver.submit(closing(r, 0.0, seconds=6.0))
    start = r.driver.status().emitted.position
    r.step(250)
    assert r.state is State.RUNNING
    assert r.driver.gripper.busy
    assert np.linalg.norm(r.driver.status().emitted.position - start) > 0.005  # 2 of 6 s of 20 mm
    r.until(State.HOLD, 220)
    assert "not done within 4 s" in r.why


@pytest.mark.slow
def test_F30_a_lost_cube_holds_the_arm(rig):
    r = rig(twin={"task": "panda_lift", "seed": 3})
    with r.twin.lock:
        scene = r.twin.scene
        scene.arm.reset(np.array((*scene.data.body("cube").xpos, scene._environment_state()[3])))
        r.twin.arm.restart()
        r.twin.hand.restart()
    r.running()
    assert r.driver.submit(r.line(way=(0.0, 0.0, 0.0), seconds=1.5, gripper=np.zeros(15)))
    r.step(130)
    assert r.driver.submit(r.line(way=(0.0, 0.0, 0.04), seconds=1.2, gripper=np.zeros(12)))
    r.step(120)
    assert r.state is State.RUNNING, r.why
    assert r.twin.scene.data.body("cube").xpos[2] > 0.035
    assert r.driver.status().extra["gripper_holding"]
    assert r.driver.status().width == pytest.approx(0.04, abs=3e-3)
    r.fault("gripper_lost")
    assert r.until(State.HOLD, 100) < 1.0
    assert "gripper: grasp to 0 mm: the object was lost" in r.why


def test_F31_what_a_policy_asks_of_the_hand_is_clamped_flagged_and_never_sent_beyond_its_range(rig):
    r = rig(**MOVES).running()
    flags = SafetyFlag.NONE
    for width in (0.5, -0.4):
        assert r.driver.submit(closing(r, width, 1.2))
        for _ in range(100):
            flags |= r.step().flags
        assert r.state is State.RUNNING
    assert SafetyFlag.GRIPPER in flags
    goals = [m["goal"]["width"] for topic, _, m in r.bus.said if topic == "/franka_gripper/move/goal"]
    assert goals[-1] == 0.0
    assert min(goals) >= 0.0
    assert max(goals) <= 0.079


def test_F33_without_a_controller_there_is_no_arming(rig):
    r = rig()
    r.face._deaf()
    r.step(12)
    report = r.driver.preflight()
    assert [f for f in report.failures() if f.startswith("command topic: nobody subscribes to")]
    assert r.state is State.LINKED
    with pytest.raises(RequestRefused):
        r.driver.ask_to_arm("Ada")


def test_F36_another_tool_than_configured_forbids_arming(rig):
    r = rig()
    r.fault("tool", 0.002)
    r.step(12)
    report = r.driver.preflight()
    assert [f for f in report.failures() if f.startswith("tool (F_T_EE): 2.00 mm")]
    assert r.state is State.LINKED
    r.twin.faults.clear("tool")
    r.step(12)
    assert r.driver.preflight().green
    assert r.state is State.READY


def test_homing_is_done_from_ready_and_refused_while_the_arm_is_armed(rig):
    r = rig().ready()
    r.driver.gripper_home()
    r.step(20)
    assert r.driver.gripper.busy
    while r.driver.gripper.busy:
        r.step(10)
    assert r.driver.gripper.problem is None
    r = rig().armed()
    with pytest.raises(RequestRefused, match="only in ready"):
        r.driver.gripper_home()


@pytest.mark.parametrize("how", ["program", "button"])
@pytest.mark.parametrize("ros", ["ros1", "ros2"])
def test_F26_a_stop_ends_what_the_fingers_are_doing(rig, how, ros):
    r = rig(ros=ros, **MOVES).running()
    assert r.driver.submit(closing(r, 0.0))
    while not (r.driver.gripper.busy and r.twin.hand.width < 0.06):
        r.step()
    if how == "program":
        r.driver.estop()
    else:
        r.fault("user_stop")
    r.until(State.ESTOP, 5)
    r.step(5)
    assert not r.driver.gripper.busy
    width = r.twin.hand.width
    assert width > 0.03
    r.step(100)
    assert r.twin.hand.width == pytest.approx(width, abs=2e-3)  # else they would be closed by now
    assert r.driver.gripper.events[-1].what == "stopped"
    assert r.driver.status().extra["gripper_problem"] is None


def test_F26_a_stop_leaves_a_hand_alone_that_does_nothing(rig):
    r = rig(**MOVES).running()
    said = len(r.bus.said)
    r.driver.estop()
    r.step(20)
    assert [topic for topic, *_ in r.bus.said[said:] if topic.startswith("/franka_gripper")] == []
