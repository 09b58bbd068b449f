"""Frames of the wire that are right in places, so that they come further than noise would.

Real operations with wrong values, cut texts, two objects in one frame, damaged CBOR; ``fuzz`` sends them.
"""

from __future__ import annotations

import json
import random
from typing import Any

from robopolicy.real_robot.wire.messages import zeros
from robopolicy.real_robot.wire.protocol import OPS

POSE, TARGET = "geometry_msgs/PoseStamped", "/target_pose"
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**70), 1e308, -0.0, 1e-320, float("nan"), float("inf")),
    *("", "x", TARGET, "/a", "\u0000", "\ud83d", "é" * 300, "AAAA", "=", POSE, "geometry_msgs/msg/Pose"),
    *([], [[]], {}, {"": {}}, [None] * 20, {"x": 1}, "subscribe", "cbor", "png", "none", "/rosapi/topics", "f1"),
]
KEYS = [
    *("op", "id", "topic", "type", "msg", "args", "service", "action", "action_type", "feedback", "data", "num"),
    *("total", "level", "compression", "throttle_rate", "queue_length", "fragment_size", "latch", "values", "result"),
]


def frame_of(rng: random.Random) -> dict[str, Any]:
    """A frame that is right in places."""
    op = rng.choice([*OPS, "service_response", "action_result", "action_feedback", "status", "x"])
    frame: dict[str, Any] = {"op": op, "id": rng.choice(["f1", "f2", "i", str(rng.random())])}
    required, optional = OPS.get(op, ({}, {}))
    for key in [*required, *optional, *rng.sample(KEYS, 2)]:
        if rng.random() < 0.7:
            frame[key] = rng.choice(VALUES)
    if rng.random() < 0.5:
        frame |= {"topic": rng.choice([TARGET, "/a", "/b"]), "type": rng.choice([POSE, "std_msgs/String"])}
    if rng.random() < 0.3:
        message = zeros(POSE, "ros1")
        part = rng.choice([message, message["header"], message["pose"], message["pose"]["position"]])
        part[rng.choice([*part, "new"])] = rng.choice(VALUES)
        frame["msg"] = message
    if op == "fragment" and rng.random() < 0.7:
        frame |= {"data": "x" * rng.randrange(2000), "num": rng.randrange(4), "total": rng.randrange(1, 5)}
    return frame


def text_of(rng: random.Random) -> str:
    """A text frame; one in ten is right, so that the others meet a server in the middle of its work."""
    text = json.dumps(frame_of(rng))
    kind = rng.random()
    if kind > 0.9:
        op = rng.choice(["advertise", "subscribe", "publish", "publish"])
        frame: dict[str, Any] = {"op": op, "topic": TARGET}
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


def bytes_of(rng: random.Random) -> bytes:
    """A binary frame: CBOR with up to three wrong bytes, sometimes cut."""
    import cbor2

    frame = json.loads(json.dumps(frame_of(rng)).replace("\\ud83d", "?"))
    data = bytearray(cbor2.dumps(frame))
    for _ in range(rng.randrange(4)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data[: rng.randrange(1, len(data) + 1)] if rng.random() < 0.3 else data)
