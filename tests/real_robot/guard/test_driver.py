"""The real driver behind the guard before the twin: over a websocket, in lock-step, and what is left when it dies."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.real_robot.clock import VirtualClock
from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.driver.config import bridge_config
from robopolicy.real_robot.frames import Pose
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


@pytest.fixture
def rig():
    clock = VirtualClock()
    config = TwinConfig(lock_step=True, cameras=())
    with running_twin(config, GatewayConfig(port=0), clock, GuardConfig()) as (runner, gateway):
        made = Rig(runner, bridge_config("twin", url=gateway.url, guard=True, cameras={}, anchor=None), clock)
        made.driver.connect(monitor_only=False)
        yield made
        made.driver.disconnect()


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
