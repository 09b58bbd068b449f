"""The real driver behind the guard before the twin: over a websocket, in lock-step, and what is left when it dies."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from robopolicy.core.errors import RequestRefused
from robopolicy.real_robot.clock import VirtualClock
from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.driver.config import bridge_config
from robopolicy.real_robot.driver.inspection import Inspection
from robopolicy.real_robot.driver.preflight import _guard
from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.guard.bus_node import NODE
from robopolicy.real_robot.guard.config import GuardConfig
from robopolicy.real_robot.guard.lease import TOPIC_GUARD
from robopolicy.real_robot.twin.config import TwinConfig
from robopolicy.real_robot.twin.runner import running_twin
from robopolicy.real_robot.wire.gateway_config import GatewayConfig
from robopolicy.testing.lock_step import LockStep


class Rig(LockStep):
    def go(self, way, seconds):
        """One chunk along x."""
        here = self.driver.status().emitted
        n = round(seconds / 0.1)
        points = here.position + np.linspace(0, way, n + 1)[1:, None] * np.array((1.0, 0, 0))
        stamps = self.clock.now() + 0.1 * np.arange(1, n + 1) + self.driver.config.arm_latency
        track = Pose(points, np.tile(here.quaternion, (n, 1)))
        assert self.driver.submit(Waypoints(track, stamps, 0.1, self.driver.machine.epoch))
        self.step(seconds)


@contextlib.contextmanager
def made(there=True, configured=True):
    clock = VirtualClock()
    config = TwinConfig(lock_step=True, cameras=())
    with running_twin(config, GatewayConfig(port=0), clock, GuardConfig() if there else None) as (runner, gateway):
        rig = Rig(runner, bridge_config("twin", url=gateway.url, guard=configured, cameras={}, anchor=None), clock)
        rig.driver.connect(monitor_only=False)
        yield rig
        rig.driver.disconnect()


@pytest.fixture
def rig():
    with made() as rig:
        yield rig


def until(rig, state, seconds):
    """Step until ``state``; how many seconds that took."""
    for k in range(round(seconds / 0.01)):
        if rig.driver.machine.state is state:
            return 0.01 * k
        rig.step()
    raise AssertionError((rig.driver.machine.state, rig.driver.machine.why))


def told(rig):
    return rig.runner.twin.face.bus.last(TOPIC_GUARD)["data"]


def test_what_the_driver_sends_passes_the_guard(rig):
    rig.run()
    begun = rig.runner.twin.pose.position[0]
    rig.go(0.06, 1.0)
    rig.step(1.0)
    assert rig.runner.twin.pose.position[0] - begun == pytest.approx(0.06, abs=0.015)
    rig.driver.pause()
    rig.step(0.3)  # the stop target is a step towards the arm, which passes too
    words = told(rig)
    assert words.startswith("held by driver-")
    refused = {w.rsplit(" ", 1)[0] for w in words.split("; ")[1:]} - {"passed"}
    assert refused == set(), words


def test_F23_the_control_process_dies_and_the_guard_stops_the_arm(rig):
    rig.run()
    rig.go(0.10, 1.0)
    rig.driver.rendezvous()  # the last target is through
    twin, begun = rig.runner.twin, rig.clock.now()
    seen, commands = float(twin.pose.position[0]), []
    twin.face.bus.subscribe(twin.face.names.command, "geometry_msgs/PoseStamped", commands.append, "/test")
    rig.driver.client.close()  # nothing more is sent: no stop target, no lease
    reacted, farthest = None, 0.0
    for _ in range(200):
        rig.runner.advance(10)
        farthest = max(farthest, float(twin.pose.position[0]) - seen)
        if commands and reacted is None:
            reacted = rig.clock.now() - begun
    assert len(commands) == 1
    assert 0.12 <= reacted <= 0.20
    assert farthest <= 0.040
    assert "no lease for 0.15 s" in told(rig)


def test_a_guard_that_stops_the_arm_is_heard_and_holds_until_the_cause_is_gone(rig):
    rig.run()
    assert rig.driver.status().problem == ""
    rig.runner.twin.face.intrude(True)
    assert until(rig, State.HOLD, 2.0) <= 0.5 + 0.2 + 0.05  # it looks twice a second and speaks five times
    assert rig.driver.machine.why.startswith("the guard has stopped the arm: others publish on the controller's topic")
    status = rig.driver.status()
    assert status.problem == rig.driver.machine.why
    assert status.extra["guard"].startswith("silent: others publish")
    assert status.ages["guard"] <= 0.21
    rig.driver.resume()  # with the other still there it is the same again
    assert 1.0 <= until(rig, State.HOLD, 2.0) <= 1.1
    assert "the guard lets nothing through: others publish" in rig.driver.machine.why
    rig.runner.twin.face.intrude(False)
    rig.step(0.6)
    rig.driver.resume()
    at = rig.runner.twin.pose.position[0]
    rig.go(0.03, 1.0)
    rig.step(0.5)
    assert rig.runner.twin.pose.position[0] - at > 0.01
    assert told(rig).startswith("held by driver-")


def test_F20_after_a_clock_that_was_set_back_the_operators_resume_moves_the_arm_again(rig):
    rig.run()
    rig.go(0.05, 0.5)
    rig.runner.twin.clock.skew -= 30.0
    assert until(rig, State.HOLD, 1.0) <= 0.1
    rig.step(0.6)
    assert "the robot's clock was set back by 30.0" in rig.driver.status().problem
    rig.driver.resume()
    at = rig.runner.twin.pose.position[0]
    rig.go(0.03, 1.0)
    rig.step(0.2)
    assert rig.driver.machine.state is State.RUNNING, rig.driver.machine.why
    assert rig.runner.twin.pose.position[0] - at > 0.01
    assert rig.driver.status().problem == ""


def test_F23_a_guard_that_dies_is_missed_within_a_second_and_a_quarter(rig):
    rig.run()
    rig.runner.twin.schedule.cancel("guard")
    assert 0.8 <= until(rig, State.HOLD, 2.0) <= 1.25
    assert "the guard was last heard 1.0 s ago, limit 1 s" in rig.driver.machine.why
    with pytest.raises(RequestRefused, match="resume: the guard was last heard"):
        rig.driver.resume()


def test_a_guard_in_the_set_up_must_be_there_before_arming():
    with made(there=False) as rig:
        rig.step(0.3)
        failures = rig.driver.preflight().failures()
        assert any(f.startswith("data on /robopolicy/guard: nothing came") for f in failures)
        assert any(f.startswith("guard: not heard, expected one that waits for a driver") for f in failures)
        assert rig.driver.machine.state is State.LINKED


@pytest.mark.parametrize("there", [True, False])
def test_a_guard_that_is_not_in_the_set_up_is_told_of_and_no_more(there):
    with made(there=there, configured=False) as rig:
        rig.step(0.3)
        (check,) = _guard(Inspection(rig.driver))
        assert (check.passed, check.warning) == (not there, there)
        assert check.found.startswith("not in this set-up, " + ("but heard (silent: " if there else "none heard"))
        assert rig.driver.status().problem == ""
        assert ("guard" in rig.driver.status().ages) == there


def test_F45_a_guard_that_another_driver_holds_forbids_arming(rig):
    with_other = "held by arm-9 (session 1); passed 7"
    rig.runner.twin.schedule.cancel("guard")
    rig.runner.twin.schedule.every(
        "other", 5, lambda: rig.runner.twin.face.bus.publish(TOPIC_GUARD, {"data": with_other}, NODE)
    )
    rig.step(0.5)
    (check,) = _guard(Inspection(rig.driver))
    assert (check.passed, check.warning) == (False, False)
    assert check.found == "held by arm-9 (session 1)"
