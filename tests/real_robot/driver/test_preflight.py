"""Every item of the preflight, green on a twin as it should be, and red for the one thing that is wrong."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("mujoco")
pytest.importorskip("websockets", reason="the extra [robot] is not installed: pip install 'robopolicy[robot]'")
pytest.importorskip("cbor2", reason="the extra [robot] is not installed: pip install 'robopolicy[robot]'")

from robopolicy.core.errors import ServiceFailed
from robopolicy.core.specs import STATE, ActionSpace, ActionSpec, FeatureKind, FeatureSpec, ObservationSpec
from robopolicy.real_robot.control.checks import feature_differences
from robopolicy.real_robot.control.clocks import OffsetEstimator
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.driver.config import FrankaBridgeConfig
from robopolicy.real_robot.driver.contract import Check, Report, Status
from robopolicy.real_robot.driver.preflight import run_preflight
from robopolicy.real_robot.driver.preflight_robot import policy_checks
from robopolicy.real_robot.driver.state_messages import arm_state, finger_width
from robopolicy.real_robot.safety.types import SafetyFlag
from robopolicy.real_robot.twin.config import TwinConfig
from robopolicy.real_robot.twin.runner import running_twin
from robopolicy.real_robot.wire.client import RosbridgeClient
from robopolicy.real_robot.wire.client_config import ClientConfig
from robopolicy.real_robot.wire.gateway_config import GatewayConfig

POSE = "geometry_msgs/PoseStamped"
PATIENT = {"ping_timeout": 20.0, "service_timeout": 20.0, "handshake_timeout": 20.0, "send_deadline": 5.0}
SIZE = (48, 64)


class Core:
    """As much of a driver as the preflight looks at, on a twin in lock-step: pausing advances the twin."""

    def __init__(self, stack, ros="ros1", cameras=("front",), **changes):
        twin_config = TwinConfig(
            ros=ros, lock_step=True, cameras=cameras, image_size=SIZE, state_rate=changes.pop("twin_rate", 100.0)
        )
        self.runner, self.gateway = stack.enter_context(running_twin(twin_config, GatewayConfig(port=0)))
        self.twin, self.clock = self.runner.twin, self.runner.twin.clock
        self.config = FrankaBridgeConfig(
            **{
                "url": self.gateway.url,
                "ros": ros,
                "cameras": {n: {"size": SIZE, "fps": 10.0} for n in cameras},
                **changes,
            }
        )
        names = self.names = self.config.interface()
        self.client = RosbridgeClient(ClientConfig(url=self.gateway.url, **PATIENT)).connect(timeout=30)
        stack.callback(self.client.close)
        self.commanding, self.paused, self.on_pause = False, 0.0, lambda seconds: None
        self.heard = {"state": names.state, "gripper": names.gripper_states}
        self.heard |= {f"camera.{name}": topic for name, topic in names.cameras.items()}
        self.slots = {key: self.client.subscribe(topic, self.kind(key)) for key, topic in self.heard.items()}
        self.estimator = OffsetEstimator()
        self.counts = {}
        for _ in range(20):
            now = self.clock.now()
            self.estimator.add(now, self.clock.wall(), now + 0.001, self.clock.wall())

    def kind(self, key):
        if key == "state":
            return self.names.state_type
        return "sensor_msgs/JointState" if key == "gripper" else "sensor_msgs/CompressedImage"

    @property
    def offset(self):
        return self.estimator.measured

    def pause(self, seconds):
        self.paused += seconds
        for _ in range(round(seconds * 100)):
            self.runner.advance(10)
            self.client.server_time()  # what was sent before has arrived
        self.on_pause(seconds)

    def settle(self):
        """One second, over which rates are measured."""
        before, start = {k: s.received for k, s in self.slots.items()}, self.clock.now()
        self.pause(1.0)
        self.counts = {k: (s.received - before[k]) / (self.clock.now() - start) for k, s in self.slots.items()}
        return self

    def status(self):
        sample, hand = self.slots["state"].newest(), self.slots["gripper"].newest()
        state = arm_state(sample.message, self.config.ros, "panda")
        now = self.clock.wall()
        return Status(
            now=self.clock.now(),
            state=State.LINKED,
            why="",
            epoch=0,
            link=True,
            plan_end=None,
            starved=0.0,
            measured=state.pose,
            q=tuple(state.q),
            width=finger_width(hand.message, "panda") if hand else None,
            force=0.0,
            emitted=None,
            emitted_gripper=None,
            flags=SafetyFlag.NONE,
            mode=state.mode,
            errors=state.errors,
            ages={k: now - s.newest().stamp for k, s in self.slots.items() if s.newest() is not None},
            rates=self.counts,
            clock_offset=0.0,
            late_p50=0.0,
            late_p99=0.0,
            counters={},
        )


@pytest.fixture
def core():
    with contextlib.ExitStack() as stack:
        yield lambda *args, **kwargs: Core(stack, *args, **kwargs)


def failed(report):
    assert not report.green
    return {c.name for c in report.checks if not c.passed and not c.warning}


@pytest.mark.parametrize("ros", ["ros1", "ros2"])
def test_a_twin_as_it_should_be_is_green_and_every_item_was_looked_at(core, ros):
    c = core(ros).settle()
    heard = []
    c.twin.aim = heard.append
    report = run_preflight(c)
    c.pause(0.05)
    assert report.failures() == []
    assert report.green
    found = {check.name: check.found for check in report.checks}
    assert found["server flavour"] == ros
    assert found["tool (F_T_EE)"].startswith("0.00 mm and 0.00 deg")
    assert 97 < float(found["rate of state"].removesuffix(" Hz")) < 103
    names = [check.name for check in report.checks]
    for wanted in (
        *("link", "server flavour", "clock offset", "clock spread", "robot mode", "robot errors", "tool (F_T_EE)"),
        *("joints", "tool place", "command topic", "round trip", "gripper state", "pictures of front"),
        *("rate of state", "rate of camera.front", f"type of {c.names.state}", f"data on {c.names.state}"),
        *(f"type of {c.names.gripper_states}", f"data on {c.names.cameras['front']}"),
    ):
        assert wanted in names
    assert heard == []  # the probe is not the command topic
    assert not [t for t in c.runner.twin.face.bus.topics() if "probe" in t]


def test_F18_a_state_slower_than_25_hz_and_a_camera_below_80_percent_are_refused(core):
    c = core(twin_rate=24.0).settle()
    report = run_preflight(c)
    assert failed(report) == {"rate of state"}
    assert "24.0 Hz, expected 25 Hz or more; raise publish_rate" in report.failures()[0]
    c = core(cameras=("front",)).settle()
    c.config = replace(c.config, cameras={"front": {"size": SIZE, "fps": 12.6}})
    assert failed(run_preflight(c)) == {"rate of camera.front"}
    c.config = replace(c.config, cameras={"front": {"size": SIZE, "fps": 12.0}})
    assert run_preflight(c).green


def test_F33_nobody_or_two_hear_the_command_topic_or_it_is_of_another_type(core):
    c = core(cameras=()).settle()
    bus = c.twin.face.bus
    deaf = bus.subscribe(c.names.command, POSE, print, "/second_controller")
    report = run_preflight(c)
    assert failed(report) == {"command topic"}
    assert "2 nodes hear" in report.failures()[0]
    deaf()
    assert run_preflight(c).green
    c.twin.face._deaf()
    report = run_preflight(c)
    assert failed(report) == {"command topic"}
    assert "nobody subscribes to" in report.failures()[0]
    assert "start exactly one controller" in report.failures()[0]
    bus.subscribe("/spoken", "std_msgs/String", print, "/controller")
    c.config = replace(c.config, controller="/spoken")
    report = run_preflight(c)
    assert "carries std_msgs/String, not geometry_msgs/PoseStamped" in report.failures()[0]
    assert c.paused < 5  # none of this is waited for


def test_F32_another_publisher_is_refused_after_12_s_and_a_ghost_is_waited_for(core):
    c = core(cameras=()).settle()
    bus = c.twin.face.bus
    bus.advertise(c.names.command, POSE, "/other")
    c.paused = 0.0
    report = run_preflight(c)
    assert failed(report) == {"command topic"}
    assert "/other already publishes" in report.failures()[0]
    assert 12.0 <= c.paused <= 14.0

    def leave(seconds):  # rosbridge takes back the publisher of a lost client after 10 s
        if c.paused >= 10:
            bus.unadvertise(c.names.command, "/other")

    c.paused, c.on_pause = 0.0, leave
    assert run_preflight(c).green
    assert 10 <= c.paused <= 11


def test_our_own_publisher_and_ear_are_not_counted_when_we_command_already(core):
    c = core(cameras=()).settle()
    c.client.advertise(c.names.command, POSE)
    c.client.watch_loopback(c.names.command, POSE)
    c.client.server_time()
    assert failed(run_preflight(c)) == {"command topic"}
    c.commanding = True
    assert run_preflight(c).green


@pytest.mark.parametrize(("off", "fine"), [(0.0009, True), (0.0011, False), (-0.05, False)])
def test_F36_a_tool_other_than_configured_is_refused_above_a_millimetre(core, off, fine):
    c = core(cameras=())
    c.twin.faults.inject("tool", off)
    c.settle()
    report = run_preflight(c)
    assert report.green is fine
    if not fine:
        assert "tool (F_T_EE)" in failed(report)
        assert f"{abs(1e3 * off):.2f} mm and 0.00 deg off the configured tool" in report.failures()[0]


@pytest.mark.parametrize(("degrees", "fine"), [(0.45, True), (0.55, False)])
def test_F36_a_turned_tool_is_refused_above_half_a_degree(core, degrees, fine):
    c = core(cameras=())
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[:2, :2] = ((np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle)))
    c.twin.arm.set_tool(c.twin.arm.tool @ turn)
    c.settle()
    assert run_preflight(c).green is fine


def test_F29_F26_F27_modes_and_errors_that_forbid_arming(core):
    c = core(cameras=()).settle()
    for begin, end, item, says in (
        (lambda: c.twin.arm.guide(True), lambda: c.twin.arm.guide(False), {"robot mode"}, "3 (guiding)"),
        (c.twin.arm.press_stop, c.twin.arm.release_stop, {"robot mode"}, "5 (user stopped)"),
        (c.twin.arm.reflex, lambda: None, {"robot mode", "robot errors"}, "4 (reflex)"),
    ):
        begin()
        c.settle()
        report = run_preflight(c)
        assert failed(report) == item
        assert says in report.failures()[0]
        end()
        c.twin.arm.recover()
        c.settle()


def test_a_robot_whose_commands_do_not_arrive_in_time_is_refused(core):
    c = core(cameras=()).settle()
    real = c.twin.face.messages.state
    c.twin.face.messages.state = lambda wall, t: real(wall, t) | {"robot_mode": 2, "control_command_success_rate": 0.94}
    c.settle()
    assert failed(run_preflight(c)) == {"command success rate"}


def test_joints_near_their_end_and_a_tool_outside_the_workspace_are_refused(core):
    c = core(cameras=(), limits="first-run").settle()
    report = run_preflight(c)
    assert failed(report) == {"tool place"}  # the start pose is nearer than the first hours allow
    assert "mm outside" in report.failures()[0]
    c = core(cameras=()).settle()
    q = np.array(c.config.hardware().q_max)
    real = c.twin.face.messages.state
    near = c.twin.arm.q.copy()
    near[0] = q[0] - 0.09
    c.twin.face.messages.state = lambda wall, t: real(wall, t) | {"q": near.tolist()}
    c.settle()
    assert failed(run_preflight(c)) == {"joints"}
    assert "joint 1 is 0.090 rad from its end" in run_preflight(c).failures()[0]


def test_F44_subscriptions_that_bring_nothing_are_told_after_2_s(core):
    c = core(cameras=(), objects="/twin/objects_of_nobody").settle()
    c.client.subscribe("/twin/objects_of_nobody", "sensor_msgs/JointState")
    c.paused = 0.0
    report = run_preflight(c)
    topic = "/twin/objects_of_nobody"
    assert failed(report) == {f"data on {topic}"}
    assert "nothing came, expected a message within 2 s; is the node up?" in report.failures()[0]
    assert 2.0 <= c.paused < 4.5


def test_F16_a_picture_of_another_size_is_refused(core):
    c = core().settle()
    c.config = replace(c.config, cameras={"front": {"size": (64, 48), "fps": 10.0}})
    report = run_preflight(c)
    assert failed(report) == {"pictures of front"}
    assert "48 x 64, expected 64 x 48" in report.failures()[0]


def test_F19_a_clock_that_is_off_by_more_than_half_a_second_is_refused(core):
    c = core(cameras=()).settle()
    c.estimator = OffsetEstimator()
    report = run_preflight(c)
    assert failed(report) == {"clock offset"}
    for skew, fine in ((0.49, True), (-0.51, False), (2.0, False)):
        c.estimator = OffsetEstimator()
        for _ in range(20):
            now = c.clock.now()
            c.estimator.add(now, c.clock.wall() + skew, now + 1e-4, c.clock.wall())
        assert run_preflight(c).green is fine
    c.estimator = OffsetEstimator()
    for i in range(20):
        now = c.clock.now()
        c.estimator.add(now, c.clock.wall() + 0.003 * i, now + 1e-3 * i, c.clock.wall())
    assert failed(run_preflight(c)) == {"clock spread"}


def test_a_hand_that_is_not_read_is_refused_unless_there_is_none(core):
    c = core(cameras=()).settle()
    c.twin.schedule.cancel("fingers")
    c.pause(0.6)
    assert failed(run_preflight(c)) == {"gripper state"}
    c.config = replace(c.config, gripper=None)
    assert run_preflight(c).green


def test_a_slow_bridge_fails_the_round_trip_and_a_dead_one_everything(core):
    c = core(cameras=()).settle()
    c.gateway.faults.set(delay=0.06)
    report = run_preflight(c)
    assert failed(report) == {"round trip"}
    assert "of 100" in report.failures()[0]
    c.gateway.faults.clear()
    c.client.close()
    report = run_preflight(c)
    assert [x.name for x in report.checks] == ["link"]
    assert not report.green


def test_a_question_without_an_answer_is_a_failed_item_and_no_exception(core):
    c = core(cameras=()).settle()

    def refuse(*args):
        raise ServiceFailed("/rosapi/topic_type: no such service")

    c.client.topic_type = refuse
    report = run_preflight(c, [lambda: [Check("mine", True, "fine")]])
    assert failed(report) == {"topic types", "probe"}
    assert report.checks[-1].name == "mine"


def test_F37_features_that_differ_from_the_checkpoint_are_refused_and_shown():
    space = ActionSpace(3, ("x", "y", "z"), None, "absolute", "base", unit="m")
    state = FeatureSpec(STATE, (3,), FeatureKind.STATE, ("x", "y", "z"), "m")
    wanted = ObservationSpec((replace(state, unit="mm"),))
    found = feature_differences(wanted, ObservationSpec((state,)), ActionSpec(space, 8, 1, 4, 0.1), space, 20.0)
    [features, latency] = policy_checks(found, 0.2, 0.1, 8)
    assert not features.passed
    assert "unit: policy mm, robot m; action rate: policy 10 Hz, robot 20 Hz" in features.found
    assert latency.passed


def test_F37_latency_leaves_two_actions_of_a_chunk_or_is_refused():
    for seconds, left, fine in ((0.0, 8, True), (0.6, 2, True), (0.601, 1, False), (2.0, -12, False)):
        [features, latency] = policy_checks([], seconds, 0.1, 8)
        assert features.passed
        assert latency.passed is fine
        assert f"leaves {left} of 8" in latency.found
    [_, latency] = policy_checks([], 0.4, 0.1, 8, lead=0.21)  # actions must be there before their dates
    assert not latency.passed
    assert latency.found == "p95 400 ms and 210 ms ahead leaves 1 of 8 actions of 100 ms"


def test_a_report_without_items_is_not_green():
    assert not Report().green
    assert Report((Check("a", False, "x", warning=True),)).green
