"""The fault port: every fault begins, is seen from outside, and ends."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.core.errors import ConfigError
from robopolicy.real_robot.twin.arm import Mode
from robopolicy.real_robot.twin.config import TwinConfig
from robopolicy.real_robot.twin.faults import FAULTS, KNOBS
from robopolicy.real_robot.twin.twin import Twin
from robopolicy.real_robot.wire.bus import Bus
from robopolicy.real_robot.wire.faults import WireFaults
from robopolicy.real_robot.wire.messages import seconds_of

STATE = "/franka_state_controller/franka_states"


class FakeWire:
    """A gateway's faults, without the gateway."""

    def __init__(self):
        self.faults, self.drops, self.frozen = WireFaults(), 0, []

    def drop_clients(self):
        self.drops += 1

    def freeze(self, seconds):
        self.frozen.append(seconds)


@pytest.fixture(scope="module")
def _bound():
    twin = Twin(TwinConfig(lock_step=True, cameras=()))
    bus = Bus("ros1", twin.clock)
    twin.bind(bus)
    states = []
    bus.subscribe(STATE, "franka_msgs/FrankaState", states.append, "/test")
    yield twin, bus, states
    twin.close()


@pytest.fixture
def bound(_bound):
    twin, bus, states = _bound
    twin.faults.clear()
    twin.reset(0)
    twin.step(20)
    states.clear()
    return twin, bus, states


def test_state_stop_freeze_and_rate(bound):
    twin, _, states = bound
    twin.faults.inject("state_stop", seconds=0.5)
    twin.step(400)
    assert not states
    twin.step(200)
    assert 9 <= len(states) <= 11
    states.clear()
    twin.faults.inject("state_freeze")
    twin.step(100)
    assert len(states) == 10
    assert len({seconds_of(m["header"]["stamp"]) for m in states}) == 1
    twin.faults.clear("state_freeze")
    twin.faults.inject("state_rate", 30)
    states.clear()
    twin.step(1000)
    assert len(states) == 30


def test_clock_skew_shifts_stamps_and_the_time_of_day_but_no_ages(bound):
    twin, _, states = bound
    twin.step(10)
    before, now = seconds_of(states[-1]["header"]["stamp"]), twin.clock.now()
    twin.faults.inject("clock_skew", 2.0)
    twin.step(10)
    assert seconds_of(states[-1]["header"]["stamp"]) - before == pytest.approx(2.01, abs=1e-6)
    assert twin.clock.now() - now == pytest.approx(0.01, abs=1e-9)
    twin.faults.clear("clock_skew")
    assert twin.clock.skew == 0.0


def test_F32_second_publisher_is_seen_on_the_command_topic_and_leaves(bound):
    twin, bus, _ = bound
    topic = twin.config.interface().command
    assert bus.publishers(topic) == []
    twin.faults.inject("second_publisher", seconds=1)
    heard = []
    end = bus.subscribe(topic, "geometry_msgs/PoseStamped", heard.append, "/test")
    twin.step(900)
    assert bus.publishers(topic) == ["/intruder"]
    assert len(heard) == 9
    twin.step(200)
    assert bus.publishers(topic) == []
    end()


def test_tool_fault_changes_f_t_ee_and_back(bound):
    twin, _, states = bound
    twin.faults.inject("tool", 0.005)
    twin.step(20)
    assert states[-1]["F_T_EE"][14] == pytest.approx(0.1084)
    twin.faults.clear("tool")
    twin.step(20)
    assert states[-1]["F_T_EE"][14] == pytest.approx(0.1034)


def test_arm_faults_stop_and_name_their_error(bound):
    twin, _, _ = bound
    twin.faults.inject("reflex", "self_collision_avoidance_violation")
    assert twin.arm.errors == {"self_collision_avoidance_violation"}
    twin.reset(0)
    twin.faults.inject("guiding", seconds=0.1)
    assert twin.arm.mode is Mode.GUIDING
    twin.step(150)
    assert twin.arm.mode is Mode.IDLE
    twin.reset(0)
    twin.faults.inject("nan_target")
    twin.step(5)
    assert twin.arm.crashed


def test_a_later_fault_of_the_same_name_is_not_ended_by_the_first_ones_time(bound):
    twin, _, _ = bound
    twin.faults.inject("user_stop", seconds=0.1)
    twin.step(50)
    twin.faults.inject("user_stop", seconds=0.5)
    twin.step(200)
    assert twin.arm.mode is Mode.USER_STOPPED
    twin.step(400)
    assert twin.arm.mode is Mode.IDLE
    assert twin.faults.active == {}


def test_wire_faults_go_to_the_gateway(bound):
    twin, _, _ = bound
    with pytest.raises(ConfigError, match="no gateway"):
        twin.faults.inject("drop_link")
    wire = FakeWire()
    twin.faults.attach(wire)
    twin.faults.inject("drop_link", seconds=1.0)
    twin.step(1100)
    assert 19 <= wire.drops <= 21
    twin.faults.inject("freeze_server", 0.5)
    twin.step(100)
    assert wire.frozen == [0.5]
    for knob in KNOBS:
        twin.faults.inject(knob, 0.25, seconds=0.01)
        assert wire.faults.values[knob] == 0.25
    twin.step(20)
    assert not wire.faults.active
    twin.faults._wire = None


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("user_stopp", None, "did you mean 'user_stop'"),
        ("reflex", "joint_refex", "did you mean 'joint_reflex'"),
        ("camera_freeze", "side", "no camera 'side'"),
        ("tool", 1.0, "-0.2 to 0.2"),
        ("tool", "far", "expected a number"),
        ("state_rate", 0, "0.5 to 1000"),
    ],
)
def test_faults_that_do_not_exist_or_fit_are_told(bound, name, value, told):
    with pytest.raises(ConfigError, match=told):
        bound[0].faults.inject(name, value)
    assert bound[0].faults.active == {}


def test_a_time_that_is_none_is_refused(bound):
    for seconds in (0, -1, np.inf):
        with pytest.raises(ConfigError, match="seconds"):
            bound[0].faults.inject("user_stop", None, seconds)


def test_every_fault_says_what_it_is():
    assert all(text and text[-1] != "." for _, text in FAULTS.values())
    assert {f"camera_{k}" for k in ("freeze", "stop", "blank", "corrupt", "encoding", "size")} <= set(FAULTS)
