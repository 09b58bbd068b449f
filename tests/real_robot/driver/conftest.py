"""A driver before the twin over a real socket, in lock-step: exact, and as fast as the machine."""

from __future__ import annotations

import contextlib
import time

import numpy as np
import pytest

pytest.importorskip("mujoco")
pytest.importorskip("websockets", reason="the extra [robot] is not installed: pip install 'robopolicy[robot]'")
pytest.importorskip("cbor2", reason="the extra [robot] is not installed: pip install 'robopolicy[robot]'")

from robopolicy.real_robot.clock import VirtualClock
from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.driver.config import FrankaBridgeConfig
from robopolicy.real_robot.driver.local import LocalDriver
from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.twin.config import TwinConfig
from robopolicy.real_robot.twin.runner import TwinRunner
from robopolicy.real_robot.twin.twin import Twin
from robopolicy.real_robot.wire.backends import BusBackend
from robopolicy.real_robot.wire.bus import Bus
from robopolicy.real_robot.wire.gateway import running_gateway
from robopolicy.real_robot.wire.gateway_config import GatewayConfig

SIZE = (48, 64)


def until(holds, seconds=30.0):
    """Patience, in real time, for what happens in other threads."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.002)


class SpyBus(Bus):
    """A bus that keeps what clients of a gateway said; a subscriber more would be found by preflight."""

    def __init__(self, *given):
        super().__init__(*given)
        self.said = []

    def deliver(self, topic, message, owner=""):
        if "client" in owner:
            self.said.append((topic, self.clock.now(), message))
        super().deliver(topic, message, owner)


class Rig:
    """Twin, gateway and driver."""

    def __init__(self, stack, cameras=(), gateway=None, twin=None, connect=True, monitor_only=False, **config):
        self.clock = VirtualClock()
        ros = config.setdefault("ros", "ros1")
        twin = {"lock_step": True, "cameras": cameras, "image_size": SIZE, "ros": ros, **(twin or {})}
        self.twin = Twin(TwinConfig(**twin), self.clock)
        self.bus = SpyBus(self.twin.config.ros, self.twin.clock)
        self.face = self.twin.bind(self.bus)
        self.gateways = contextlib.ExitStack()
        self.open_gateway(**(gateway or {}))
        stack.callback(self.close_gateway)
        self.runner = stack.enter_context(TwinRunner(self.twin))
        pictures = {name: {"size": SIZE, "fps": 10.0} for name in cameras}
        self.driver = LocalDriver(FrankaBridgeConfig(url=self.url, cameras=pictures, **config), self.clock)
        self.driver.pass_time = lambda seconds: self.step(max(1, round(100 * seconds)))
        stack.callback(self.driver.disconnect)
        if connect:
            self.driver.connect(monitor_only=monitor_only)

    # -- the world -----------------------------------------------------------------------------------------------------

    def open_gateway(self, port=0, **config):
        self.gateway = self.gateways.enter_context(
            running_gateway(BusBackend(self.bus), GatewayConfig(port=port, **config))
        )
        self.url = self.gateway.url
        self.twin.faults.attach(self.gateway)

    def close_gateway(self):
        self.gateways.close()
        self.gateways = contextlib.ExitStack()

    @property
    def targets(self):
        """Every target that the robot was sent, with the twin's time."""
        self.driver.rendezvous(1.0)
        return [(at, message) for topic, at, message in list(self.bus.said) if topic == self.face.names.command]

    @property
    def recoveries(self):
        """How often the robot was asked to recover."""
        return sum(topic == "/franka_control/error_recovery/goal" for topic, *_ in list(self.bus.said))

    def fault(self, name, value=None, seconds=None):
        self.twin.faults.inject(name, value, seconds)

    # -- time ----------------------------------------------------------------------------------------------------------

    def step(self, n=1, exact=True):
        """``n`` ticks of 10 ms; not ``exact`` where the link is down or mute."""
        for _ in range(n):
            hand = self.driver.gripper
            quiet = self.driver.machine.state in (State.LINKED, State.READY) and not (hand and hand.busy)
            if exact and not quiet:
                assert self.driver.rendezvous(), "the link was lost"
            self.runner.advance(10)
            if exact:
                assert self.driver.rendezvous(), "the link was lost"
            record = self.driver.tick()
        return record

    def until(self, state, most, exact=True):
        """Step until ``state``; how many seconds that took."""
        for k in range(most):
            if self.step(exact=exact).state is state:
                return 0.01 * (k + 1)
        raise AssertionError(f"{self.driver.status().state} ({self.driver.status().why}), not {state} in {most} ticks")

    # -- the usual way -------------------------------------------------------------------------------------------------

    def ready(self):
        self.step(12)
        report = self.driver.preflight()
        assert report.green, report.failures()
        assert self.driver.status().state is State.READY
        return self

    def armed(self):
        self.ready()
        self.driver.ask_to_arm("Ada")
        self.driver.confirm_arming("Ada")
        assert self.step(5).state is State.ARMED
        return self

    def running(self):
        self.armed()
        self.driver.start()
        assert self.step().state is State.RUNNING
        return self

    def line(self, way=(0.06, 0.0, 0.0), seconds=1.2, first=0.3, dt=0.1, **more):
        """A chunk along a straight line from where the setpoint is."""
        n = round(seconds / dt)
        status = self.driver.status()
        shares = np.arange(1, n + 1)[:, None] / n
        start = status.emitted
        track = Pose(start.position + shares * np.asarray(way), np.tile(start.quaternion, (n, 1)))
        return Waypoints(track, self.clock.now() + first + dt * np.arange(n), dt, status.epoch, **more)

    def moving(self, **line):
        """RUNNING, and half a second into a line."""
        self.running()
        assert self.driver.submit(self.line(**line))
        assert self.step(60).state is State.RUNNING
        return self

    @property
    def state(self):
        return self.driver.status().state

    @property
    def why(self):
        return self.driver.status().why


@pytest.fixture
def rig():
    with contextlib.ExitStack() as stack:
        yield lambda **config: Rig(stack, **config)


@pytest.fixture(scope="module")
def twin():
    """A twin in a process of its own."""
    from robopolicy.testing.control_process import Arm

    made = Arm()
    yield made
    made.close()
