"""A gateway on an ephemeral loopback port, clients for it, and patience instead of sleeps."""

from __future__ import annotations

import contextlib
import time

import pytest

pytest.importorskip("websockets", reason="the extra [robot] is not installed: pip install 'robopolicy[robot]'")
pytest.importorskip("cbor2", reason="the extra [robot] is not installed: pip install 'robopolicy[robot]'")

from robopolicy.real_robot.wire.backends import BusBackend
from robopolicy.real_robot.wire.bus import Bus
from robopolicy.real_robot.wire.client import RosbridgeClient
from robopolicy.real_robot.wire.client_config import ClientConfig
from robopolicy.real_robot.wire.gateway import running_gateway
from robopolicy.real_robot.wire.gateway_config import GatewayConfig
from robopolicy.real_robot.wire.messages import header, zeros

# The machine that runs the tests may be busy: only the tests of the pings use the real time-outs.
PATIENT = {"ping_timeout": 20.0, "service_timeout": 20.0, "handshake_timeout": 20.0, "send_deadline": 5.0}
PATIENT |= {"loopback_soft": 0.5, "loopback_hard": 1.0}


class Wire:
    """A bus, a gateway and clients that are closed in the end."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.stack = stack

    def gateway(self, flavour="ros1", bus=None, **config):
        self.bus = bus or Bus(flavour)
        return self.stack.enter_context(running_gateway(BusBackend(self.bus), GatewayConfig(**{"port": 0, **config})))

    def client(self, url, clock=None, connect=True, **config):
        client = RosbridgeClient(ClientConfig(url=url, **{**PATIENT, **config}), clock)
        self.stack.callback(client.close)
        return client.connect(timeout=30) if connect else client

    def commanding(self, url, **config):
        client = self.client(url, **config)
        client.advertise("/target_pose", "geometry_msgs/PoseStamped")
        return client


@pytest.fixture
def wire():
    with contextlib.ExitStack() as stack:
        yield Wire(stack)


@pytest.fixture
def until():
    def wait(condition, seconds=20.0):
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(0.005)
        return True

    return wait


@pytest.fixture
def pose():
    """A complete command with a stamp of its own."""

    def make(flavour="ros1", x=0.3, stamp=None):
        message = zeros("geometry_msgs/PoseStamped", flavour)
        message["header"] = header(time.time() if stamp is None else stamp, "panda_link0", flavour)
        message["pose"]["position"]["x"] = x
        message["pose"]["orientation"]["x"] = 1.0
        return message

    return make
