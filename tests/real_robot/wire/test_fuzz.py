"""100,000 hostile frames: 60,000 at the gateway's protocol core, 40,000 at the client's decoder.

Nothing escapes, nothing grows.
"""

from __future__ import annotations

import json
import random
import resource

import cbor2
import pytest

from robopolicy.real_robot.clock import VirtualClock
from robopolicy.real_robot.wire.backends import BusBackend
from robopolicy.real_robot.wire.bus import Bus
from robopolicy.real_robot.wire.gateway import Gateway
from robopolicy.real_robot.wire.gateway_config import GatewayConfig
from robopolicy.real_robot.wire.inbox import Inbox
from robopolicy.real_robot.wire.messages import zeros
from robopolicy.real_robot.wire.protocol import OPS, CloseLink
from robopolicy.real_robot.wire.quirks import QuirkySession
from robopolicy.real_robot.wire.session import Session
from robopolicy.real_robot.wire.slot import Slot

POSE = "geometry_msgs/PoseStamped"
VALUES = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**70), 1e308, -0.0, 1e-320, float("nan"), float("inf")),
    *("", "x", "/target_pose", "/a", "\u0000", "\ud83d", "é" * 300, "AAAA", "=", POSE, "geometry_msgs/msg/Pose"),
    *([], [[]], {}, {"": {}}, [None] * 20, {"x": 1}, "subscribe", "cbor", "png", "none", "/rosapi/topics", "f1"),
]
KEYS = [
    *("op", "id", "topic", "type", "msg", "args", "service", "action", "action_type", "feedback", "data", "num"),
    *("total", "level", "compression", "throttle_rate", "queue_length", "fragment_size", "latch", "values", "result"),
]


def peak():
    """The most memory that this process ever had, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def frame_of(rng):
    """A frame that is right in places."""
    op = rng.choice([*OPS, "service_response", "action_result", "action_feedback", "status", "x"])
    frame = {"op": op, "id": rng.choice(["f1", "f2", "i", str(rng.random())])}
    required, optional = OPS.get(op, ({}, {}))
    for key in [*required, *optional, *rng.sample(KEYS, 2)]:
        if rng.random() < 0.7:
            frame[key] = rng.choice(VALUES)
    if rng.random() < 0.5:
        frame |= {"topic": rng.choice(["/target_pose", "/a", "/b"]), "type": rng.choice([POSE, "std_msgs/String"])}
    if rng.random() < 0.3:
        message = zeros(POSE, "ros1")
        part = rng.choice([message, message["header"], message["pose"], message["pose"]["position"]])
        part[rng.choice([*part, "new"])] = rng.choice(VALUES)
        frame["msg"] = message
    if op == "fragment" and rng.random() < 0.7:
        frame |= {"data": "x" * rng.randrange(2000), "num": rng.randrange(4), "total": rng.randrange(1, 5)}
    return frame


def text_of(rng):
    text = json.dumps(frame_of(rng))
    kind = rng.random()
    if kind > 0.9:
        # Some are right, so that the others meet a client that is in the middle of its work.
        frame = {"op": rng.choice(["advertise", "subscribe", "publish", "publish"]), "topic": "/target_pose"}
        if frame["op"] == "publish":
            frame["msg"] = zeros(POSE, "ros1")
            del frame["msg"]["header"]["seq"]  # ROS 2 has none
        else:
            frame["type"] = POSE
        text = json.dumps(frame)
    if kind < 0.1:
        text = text[: rng.randrange(len(text))]
    elif kind < 0.2:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(['"', "{", "}", "\x00", "1e999", "[" * 50, ",", "\ud83d\ude00"]) + text[at + 1 :]
    elif kind < 0.23:
        text += text
    elif kind < 0.25:
        text = rng.choice(["", "null", "[]", "3", '"op"', "{}", "[" * 3000, "9" * 5000, " " * 100])
    return text


def bytes_of(rng):
    frame = json.loads(json.dumps(frame_of(rng)).replace("\\ud83d", "?"))
    data = bytearray(cbor2.dumps(frame))
    for _ in range(rng.randrange(4)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data[: rng.randrange(1, len(data) + 1)] if rng.random() < 0.3 else data)


@pytest.mark.parametrize(("quirks", "count"), [("none", 40_000), ("rosbridge1", 10_000), ("rosbridge2", 10_000)])
def test_F06_no_frame_crashes_the_gateway_or_makes_it_grow(quirks, count):
    rng = random.Random(f"gateway {quirks}")
    clock = VirtualClock()
    bus = Bus("ros2" if quirks == "rosbridge2" else "ros1", clock)
    gateway = Gateway(BusBackend(bus), GatewayConfig(quirks=quirks), clock)
    gateway.shared.defer = lambda function: function()
    make = Session if quirks == "none" else QuirkySession
    session, closed = make(gateway.shared, "/fuzz", lambda: None), 0
    texts = [text_of(rng) for _ in range(2000)]
    before = peak()
    codes = set()
    for i in range(count):
        clock.advance(0.001)
        try:
            if i % 50 == 0:
                session.receive_binary(bytes_of(rng))
            else:
                session.receive_text(rng.choice(texts))
        except CloseLink as e:
            closed += 1
            codes.add(e.code)
            session.close()
            session = make(gateway.shared, "/fuzz", lambda: None)
        if i % 20 == 0:
            while session.outbox.pop() is not None:
                pass
        if quirks != "none" and session.poisoned:
            session.close()
            session = make(gateway.shared, "/fuzz", lambda: None)
    session.close()
    assert codes <= {1003, 1006, 1007, 1008}
    assert closed > (1000 if quirks == "none" else 0 if quirks == "rosbridge2" else -1)
    assert gateway.shared.counters["published"] > 0
    assert peak() - before < 32 << 20
    assert bus.topics() == {}


def test_F06_no_frame_crashes_the_client_or_makes_it_grow():
    rng = random.Random("client")
    inbox = Inbox()
    for topic in ("/target_pose", "/a"):
        inbox.slots[topic] = Slot(topic, POSE)
    texts = [text_of(rng) for _ in range(2000)]
    before = peak()
    for i in range(40_000):
        inbox.receive(rng.choice(texts) if i % 4 else bytes_of(rng), i * 0.001)
        if i % 100 == 0:
            inbox.expect("i")
    assert inbox.counters["frames"] == 40_000
    assert inbox.counters["malformed"] > 1000
    assert inbox.counters["invalid"] > 100
    assert peak() - before < 32 << 20
    for slot in inbox.slots.values():
        assert slot.newest() is not None


def test_F06_hostile_sockets_leave_the_gateway_serving(wire):
    import contextlib
    import socket

    gateway = wire.gateway(max_clients=8)
    rng = random.Random("sockets")
    for i in range(30):
        with socket.create_connection(("127.0.0.1", gateway.port)) as raw:
            raw.settimeout(5)
            with contextlib.suppress(OSError):
                if i % 2:
                    raw.sendall(
                        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
                    )
                    raw.recv(1024)
                raw.sendall(rng.randbytes(200))
    client = wire.client(gateway.url)
    assert client.server_time()[1] > 0
