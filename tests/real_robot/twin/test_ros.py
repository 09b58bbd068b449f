"""The twin on a bus: what the robot publishes, hears and serves, on ROS 1 and ROS 2."""

from __future__ import annotations

import json
import math

import cv2
import numpy as np
import pytest

from robopolicy.core.errors import ConfigError, ServiceFailed
from robopolicy.real_robot.frames import Pose, downward
from robopolicy.real_robot.kinematics import hand_on_flange
from robopolicy.real_robot.twin.arm import Mode
from robopolicy.real_robot.twin.config import TwinConfig
from robopolicy.real_robot.twin.messages import error_names, of_column_major, pose_message
from robopolicy.real_robot.twin.twin import Twin
from robopolicy.real_robot.wire.bus import Bus
from robopolicy.real_robot.wire.messages import header, seconds_of, zeros


class Rig:
    """A twin on a bus, with everything it publishes kept."""

    def __init__(self, **options):
        self.twin = Twin(TwinConfig(lock_step=True, **{"cameras": (), **options}))
        self.ros = self.twin.config.ros
        self.bus = Bus(self.ros, self.twin.clock)
        self.twin.bind(self.bus)
        self.names = self.twin.config.interface()
        self.heard = {}
        for topic, kind in self.bus.topics().items():
            self.bus.subscribe(topic, kind, lambda m, t=topic: self.heard.setdefault(t, []).append(m), "/test")
        self.bus.advertise(self.names.command, "geometry_msgs/PoseStamped", "/driver")
        self.step = self.twin.step

    def command(self, pose):
        stamp = header(self.twin.clock.wall(), self.names.base_frame, self.ros)
        self.bus.publish(self.names.command, {"header": stamp, "pose": pose_message(pose)}, "/driver")

    def goal(self, action, kind, name="g1", **values):
        self.bus.advertise(f"{action}/goal", f"{kind}ActionGoal", "/driver")
        self.bus.publish(f"{action}/goal", {"goal_id": {"id": name}, "goal": values}, "/driver")

    def result(self, action, seconds=4.0):
        for _ in range(int(seconds * 100)):
            if f"{action}/result" in self.heard:
                return self.heard.pop(f"{action}/result")[-1]
            self.step(10)
        raise AssertionError("no result")

    def last(self, topic=None):
        return self.heard[topic or self.names.state][-1]


@pytest.fixture(scope="module")
def _rigs():
    made = {"ros1": Rig(), "ros2": Rig(ros="ros2")}
    yield made
    for rig in made.values():
        rig.twin.close()


@pytest.fixture
def rig(_rigs):
    return fresh(_rigs["ros1"])


@pytest.fixture
def rig2(_rigs):
    return fresh(_rigs["ros2"])


def fresh(rig):
    rig.twin.faults.clear()
    rig.twin.reset(0)
    rig.step(20)
    rig.heard.clear()
    return rig


def test_rates_are_100_hz_of_state_and_30_hz_of_fingers_read_at_10(rig):
    rig.twin.hand.move(0.0, 0.1)
    rig.step(1000)
    states = rig.heard["/franka_state_controller/franka_states"]
    assert len(states) == len(rig.heard["/franka_state_controller/joint_states"]) == 100
    stamps = np.array([seconds_of(m["header"]["stamp"]) for m in states])
    np.testing.assert_allclose(np.diff(stamps), 0.01, atol=1e-6)
    fingers = [m["position"][0] for m in rig.heard["/franka_gripper/joint_states"]]
    assert len(fingers) == 30
    assert 6 <= len(np.unique(fingers)) <= 11  # the hand is read ten times a second


def test_franka_state_tells_the_pose_joints_and_tool(rig):
    rig.command(Pose(rig.twin.pose.position + np.array((0.05, 0, 0)), downward(0.2)))
    rig.step(700)
    state, arm = rig.last(), rig.twin.arm
    pose = of_column_major(state["O_T_EE"])
    np.testing.assert_allclose(pose, arm.matrix, atol=1e-12)
    assert state["O_T_EE"][12] > 0.34  # the translation is at 12, 13, 14
    np.testing.assert_allclose(state["q"], arm.q, atol=1e-12)
    np.testing.assert_allclose(of_column_major(state["F_T_EE"]), hand_on_flange(), atol=1e-12)
    assert (state["robot_mode"], state["control_command_success_rate"]) == (2, 1.0)
    assert not any(state["current_errors"].values())
    assert len(state["current_errors"]) == len(error_names("ros1")) == 41
    assert rig.last(rig.names.joint_states)["name"][0] == "panda_joint1"


def test_ros2_state_has_the_same_numbers(rig2):
    rig2.command(Pose(rig2.twin.pose.position + np.array((0.05, 0, 0)), downward(0.0)))
    rig2.step(500)
    state = rig2.last()
    assert rig2.names.command == "/target_pose"
    np.testing.assert_allclose(state["o_t_ee"]["pose"]["position"]["x"], rig2.twin.pose.position[0], atol=1e-12)
    assert state["o_t_ee"]["pose"]["position"]["x"] > 0.33
    np.testing.assert_allclose(state["measured_joint_state"]["position"], rig2.twin.arm.q, atol=1e-12)
    assert state["f_t_ee"]["pose"]["position"]["z"] == pytest.approx(0.1034)
    assert len(state["current_errors"]) == 36
    rig2.step(10)
    assert rig2.heard["/franka_robot_state_broadcaster/current_pose"]


def test_a_command_is_followed_whatever_its_stamp_and_frame(rig):
    pose = Pose(rig.twin.pose.position + np.array((0, 0.05, 0)), downward(0.0))
    message = {"header": header(1.0, "nowhere", "ros1"), "pose": pose_message(pose)}
    rig.bus.publish(rig.names.command, message, "/driver")
    rig.step(1500)
    np.testing.assert_allclose(rig.twin.pose.position, pose.position, atol=5e-3)


def test_nan_on_the_wire_crashes_the_node_all_its_topics_stop_and_it_leaves_the_graph(rig):
    message = {"header": header(0.0, "", "ros1"), "pose": pose_message(Pose(np.full(3, math.nan), np.ones(4)))}
    rig.bus.deliver(rig.names.command, message, "/driver")  # as the gateway does when it imitates rosbridge
    rig.step(100)
    rig.heard.clear()
    rig.step(500)
    assert rig.names.state not in rig.heard
    assert rig.names.joint_states not in rig.heard
    assert not rig.bus.publishers(rig.names.state)
    assert "/cartesian_controller" not in rig.bus.subscribers(rig.names.command)
    assert rig.heard["/franka_gripper/joint_states"]  # the hand is a node of its own
    with pytest.raises(ServiceFailed, match="gone"):
        rig.bus.call("/franka_control/connect")
    rig.twin.faults.inject("restart")
    rig.step(50)
    assert rig.last()["robot_mode"] == Mode.REFLEX
    assert rig.last()["current_errors"]["communication_constraints_violation"]


def test_F26_user_stop_shows_as_mode_5_within_one_state_period(rig):
    rig.step(3)
    rig.heard.clear()
    rig.twin.arm.press_stop()
    rig.step(10)
    assert rig.last()["robot_mode"] == 5
    assert rig.last()["control_command_success_rate"] == 0.0


def test_error_recovery_action_clears_a_reflex(rig):
    rig.twin.faults.inject("reflex", "joint_reflex")
    rig.step(20)
    assert rig.last()["current_errors"]["joint_reflex"]
    rig.goal("/franka_control/error_recovery", "franka_msgs/ErrorRecovery")
    assert rig.result("/franka_control/error_recovery")["status"]["status"] == 3
    rig.step(20)
    assert rig.last()["robot_mode"] == 2
    assert not rig.last()["current_errors"]["joint_reflex"]
    assert rig.last()["last_motion_errors"]["joint_reflex"]


def test_F28_recovery_that_fails_is_aborted_with_a_reason(rig):
    rig.twin.faults.inject("recovery_fails")
    rig.twin.faults.inject("reflex")
    rig.goal("/franka_control/error_recovery", "franka_msgs/ErrorRecovery", "g2")
    end = rig.result("/franka_control/error_recovery")
    assert end["status"]["status"] == 4
    assert "failed" in end["status"]["text"]
    assert rig.twin.arm.mode is Mode.REFLEX


def test_gripper_actions_answer_with_success_and_error(rig):
    rig.goal("/franka_gripper/move", "franka_gripper/Move", "m", width=0.03, speed=0.1)
    assert rig.result("/franka_gripper/move")["result"] == {"success": True, "error": ""}
    rig.goal(
        "/franka_gripper/grasp",
        "franka_gripper/Grasp",
        "n",
        width=0.02,
        epsilon={"inner": 0.005, "outer": 0.005},
        speed=0.1,
        force=20.0,
    )
    end = rig.result("/franka_gripper/grasp")
    assert (end["status"]["status"], end["result"]["success"]) == (4, False)
    assert "stopped at" in end["result"]["error"]
    rig.goal(
        "/franka_gripper/gripper_action",
        "control_msgs/GripperCommand",
        "o",
        command={"position": 0.03, "max_effort": 0.0},
    )
    end = rig.result("/franka_gripper/gripper_action")["result"]
    assert end["reached_goal"]
    assert end["position"] == pytest.approx(0.03, abs=1e-3)  # per finger: the width is twice that
    assert rig.twin.hand.width == pytest.approx(0.06, abs=1e-3)
    rig.goal(
        "/franka_gripper/gripper_action",
        "control_msgs/GripperCommand",
        "p",
        command={"position": 0.08, "max_effort": 0.0},
    )
    assert rig.result("/franka_gripper/gripper_action")["status"]["status"] == 4


def test_a_stopped_move_is_aborted_or_preempted(rig):
    rig.goal("/franka_gripper/move", "franka_gripper/Move", "s", width=0.0, speed=0.05)
    rig.step(100)
    rig.goal("/franka_gripper/stop", "franka_gripper/Stop", "t")
    assert rig.result("/franka_gripper/stop")["result"]["success"]
    assert rig.result("/franka_gripper/move")["status"]["status"] == 4
    rig.goal("/franka_gripper/move", "franka_gripper/Move", "u", width=0.0, speed=0.05)
    rig.step(100)
    rig.bus.actions["/franka_gripper/move"].cancel("u")
    assert rig.result("/franka_gripper/move")["status"]["status"] == 2


def test_services_set_thresholds_and_tool_and_refuse_nonsense(rig):
    request = zeros("franka_msgs/SetForceTorqueCollisionBehaviorRequest", "ros1")
    name = "/franka_control/set_force_torque_collision_behavior"
    assert not rig.bus.call(name, request)["success"]
    request |= {"upper_torque_thresholds_nominal": [5.0] * 7, "upper_force_thresholds_nominal": [6.0] * 6}
    assert rig.bus.call(name, request)["success"]
    np.testing.assert_array_equal(rig.twin.arm.collision_force, 6.0)
    longer = np.eye(4)
    longer[2, 3] = 0.02
    assert rig.bus.call("/franka_control/set_EE_frame", {"NE_T_EE": longer.T.ravel().tolist()})["success"]
    rig.step(20)
    assert rig.last()["F_T_EE"][14] == pytest.approx(0.1234)
    assert not rig.bus.call("/franka_control/set_EE_frame", {"NE_T_EE": [1.0] * 16})["success"]


def test_twin_services_step_reset_fault_status(rig):
    before = rig.twin.ticks
    assert rig.bus.call("/twin/step", {"ticks": 25})["success"]
    assert rig.twin.ticks == before + 25
    assert not rig.bus.call("/twin/step", {"ticks": 0})["success"]

    def text(service, data):
        return rig.bus.call(f"/twin/{service}", {"data": data})

    assert text("fault", json.dumps({"name": "user_stop", "seconds": 0.1}))["message"] == "user_stop"
    assert json.loads(rig.bus.call("/twin/status")["message"])["mode"] == "user_stopped"
    rig.step(150)
    assert rig.twin.arm.mode is Mode.IDLE
    assert rig.bus.call("/twin/recover")["success"]
    assert text("reset", '{"seed": 4}')["success"]
    assert rig.twin.arm.mode is Mode.MOVE
    for service, data in (("fault", "{"), ("fault", "[]"), ("reset", '{"seed": -1}'), ("reset", '{"sead": 1}')):
        answer = text(service, data)
        assert not answer["success"]
        assert answer["message"]


@pytest.mark.render
def test_pictures_are_jpeg_of_the_scene_at_their_rate():
    rig = Rig(task="panda_lift", cameras=("front",), image_size=(64, 80), camera_rate=20.0)
    try:
        rig.step(500)
        pictures = rig.heard["/cam_front/color/image_raw/compressed"]
        assert len(pictures) == 10
        assert pictures[0]["format"] == "jpeg"
        whole = len(pictures[-1]["data"])
        bgr = cv2.imdecode(np.frombuffer(pictures[-1]["data"], np.uint8), cv2.IMREAD_COLOR)
        assert bgr.shape == (64, 80, 3)
        true = rig.twin.cameras.picture("front")
        assert np.abs(bgr[..., ::-1].astype(int) - true).mean() < 6  # not the other colour order
        assert np.abs(bgr.astype(int) - true).mean() > 6
        for kind, check in {
            "blank": lambda m: not decoded(m).any(),
            "size": lambda m: decoded(m).shape == (32, 40, 3),
            "encoding": lambda m: m["format"] == "png",
            "corrupt": lambda m: len(m["data"]) < 0.6 * whole,
        }.items():
            rig.twin.faults.inject(f"camera_{kind}", "front", seconds=0.2)
            rig.step(100)
            assert check(rig.last("/cam_front/color/image_raw/compressed")), kind
            rig.step(200)
        rig.twin.faults.inject("camera_freeze")
        rig.heard.clear()
        rig.twin.aim(Pose(rig.twin.pose.position + np.array((0, 0, 0.1)), rig.twin.pose.quaternion))
        rig.step(500)
        frozen = rig.heard["/cam_front/color/image_raw/compressed"]
        assert len({m["data"] for m in frozen}) == 1
        assert len({seconds_of(m["header"]["stamp"]) for m in frozen}) == 10
        rig.twin.faults.inject("camera_stop")
        rig.heard.clear()
        rig.step(300)
        assert "/cam_front/color/image_raw/compressed" not in rig.heard
    finally:
        rig.twin.close()


def decoded(message):
    return cv2.imdecode(np.frombuffer(message["data"], np.uint8), cv2.IMREAD_COLOR)


def test_a_bus_of_the_other_flavour_and_a_second_bus_are_refused(rig):
    other = Twin(TwinConfig(lock_step=True, cameras=()))
    with pytest.raises(ConfigError, match="bus speaks ros2"):
        other.bind(Bus("ros2", other.clock))
    with pytest.raises(ConfigError, match="on a bus already"):
        rig.twin.bind(rig.bus)
    other.close()


@pytest.mark.render
def test_F14_a_camera_before_a_scene_at_rest_is_not_taken_for_a_frozen_one():
    from robopolicy.real_robot.control.observations import Frame, Observer
    from robopolicy.real_robot.limits import Timeouts

    twins = [Twin(TwinConfig(lock_step=True, cameras=("front",))) for _ in range(2)]
    seen = Observer(("front",), Timeouts(), hand=False)
    for k in range(12):
        data = {twin.cameras.compressed("front")[1] for twin in twins}
        assert len(data) == 1  # a run is a function of its seed, noise and all
        seen.frame("front", Frame(0.1 * k, data.pop()))
    assert seen.camera_age(1.1) == pytest.approx(0)
    for twin in twins:
        twin.cameras.faults["front"] = "freeze"
    for k in range(12, 24):
        seen.frame("front", Frame(0.1 * k, twins[0].cameras.compressed("front")[1]))
    assert seen.camera_age(2.3) > 1
    for twin in twins:
        twin.close()


def test_a_tracker_says_where_the_objects_are_with_the_stamp_of_the_state():
    rig = Rig(task="panda_lift", seed=3)
    rig.step(50)
    objects, state = rig.last("/twin/objects"), rig.last()
    assert objects["header"]["stamp"] == state["header"]["stamp"]
    cube = rig.twin.scene.data.body("cube").xpos
    found = dict(zip(objects["name"], objects["position"], strict=True))
    assert [found[f"cube_{axis}"] for axis in "xyz"] == pytest.approx(cube, abs=1e-6)
    tool = of_column_major(state["O_T_EE"])[:3, 3]
    assert [found[f"to_cube_{axis}"] for axis in "xyz"] == pytest.approx(cube - tool, abs=1e-6)
    assert "/twin/objects" not in Rig().bus.topics()  # nothing lies on the empty table
