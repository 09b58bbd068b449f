"""The gateway in the dress of rosbridge_suite: lenient where that is lenient, and as silent.

A driver that works against the strict gateway only has never met the silence of the real one.  Sources: measurements of
rosbridge_suite 0.11.17 (ROS 1) and of its ROS 2 branch after 2.1.0; the rows B1 to B17 are listed in docs/bridge.md.
Where ROS 2 was not measured it behaves here as ROS 1 does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robopolicy.core.errors import ConfigError, FrameRefused, InvalidMessage
from robopolicy.real_robot.wire.codec import decode_cbor
from robopolicy.real_robot.wire.messages import Message, check_field, conform, stamp_of, zeros
from robopolicy.real_robot.wire.protocol import MIB, OPS, TEXT_LIMIT, CloseLink
from robopolicy.real_robot.wire.schema import (
    INTEGERS,
    PRIMITIVES,
    STAMP_KEYS,
    Field,
    Flavour,
    has_text_list,
    lookup,
)
from robopolicy.real_robot.wire.session import Session
from robopolicy.real_robot.wire.session_calls import Shared


@dataclass(frozen=True)
class Quirks:
    """How one server differs from the strict gateway."""

    flavour: Flavour
    inbound_limit: int
    """B13: bytes above which the connection is closed with 1009."""
    aborts_on_binary: bool
    """B12: whether a binary frame it cannot read ends the connection."""
    keeps_last: bool
    """B17: whether a new subscriber is sent the last message at once, however old."""
    both_spellings: bool
    """B9: whether type strings of either flavour are understood."""


# B13: ROS 1 has no limit by default and took 20 MB; the number here only bounds this process.
QUIRKS = {
    "rosbridge1": Quirks("ros1", 64 * MIB, False, False, False),
    "rosbridge2": Quirks("ros2", 10_000_000, True, True, True),
}


def quirks_of(name: str, flavour: Flavour) -> Quirks:
    """The quirks of that name; they must be of the graph's flavour."""
    quirks = QUIRKS[name]
    if quirks.flavour != flavour:
        raise ConfigError(f"quirks {name} belong to a {quirks.flavour} server, but this graph speaks {flavour}")
    return quirks


class QuirkySession(Session):
    """A session that behaves like rosbridge_suite."""

    def __init__(self, shared: Shared, name: str, wake: Any) -> None:
        super().__init__(shared, name, wake)
        self.quirks = QUIRKS[shared.config.quirks]
        self.poisoned = False

    def receive_text(self, text: str) -> None:
        """B10, B11: frames run together; after one that cannot be parsed nothing is understood any more."""
        self.shared.counters["frames"] += 1
        rest = text.lstrip()
        while rest and not self.poisoned:
            try:
                # B5: NaN and Infinity are read as Python's own decoder reads them.
                frame, end = json.JSONDecoder().raw_decode(rest)
            except (ValueError, RecursionError):
                self.poisoned = True
                return
            rest = rest[end:].lstrip()
            if isinstance(frame, dict):
                self.handle(_loose(frame))

    def receive_binary(self, data: bytes) -> None:
        """B12: what a binary frame says is never carried out; an unreadable one ends a ROS 2 connection."""
        try:
            decode_cbor(data)
        except FrameRefused:
            if self.quirks.aborts_on_binary:
                raise CloseLink(1006, "binary frame") from None

    def refuse(self, frame: dict[str, Any], error: Exception) -> None:
        """B1, B2, B3: nothing on the wire, whatever went wrong, except to the caller of a service (B16)."""
        self.shared.counters["refused"] += 1
        self.calls.refused(frame, error)

    def set_level(self, frame: dict[str, Any]) -> None:
        """B3: an operation that it does not know."""
        raise FrameRefused("unknown op 'set_level'")

    def type_name(self, given: str) -> str:
        """B9: ROS 1 refuses ``package/msg/Name``."""
        if not self.quirks.both_spellings and given.count("/") > 1:
            raise FrameRefused(f"no such type {given}")
        return super().type_name(given)

    def checked(self, type_name: str, message: Message) -> Message:
        """B2, B4 to B8: missing fields are filled, not-finite numbers pass, stamps of the other flavour bend."""
        return lenient(type_name, message, self.shared.backend.flavour, self.shared.backend.now())

    def publish(self, frame: dict[str, Any]) -> Message:
        """B17: the publishers of a ROS 2 rosbridge keep their last message for late subscribers."""
        message = super().publish(frame)
        if self.quirks.keeps_last:
            self.shared.kept[frame["topic"]] = message
        return message

    def listen(self, topic: str, type_name: str, wanted: Any, frame: dict[str, Any]) -> None:
        """B15 and B17."""
        mute = wanted.binary and has_text_list(type_name, self.quirks.flavour)
        super().listen(topic, type_name, wanted, frame)
        if mute:
            self.outbox.forget(topic)
        elif topic in self.shared.kept:
            self.outbox.offer(topic, self.shared.envelope(topic, self.shared.kept[topic]), wanted.depth)


def _loose(frame: dict[str, Any]) -> dict[str, Any]:
    """Only the keys that rosbridge looks at, so that unknown ones do no harm."""
    op = frame.get("op")
    if not isinstance(op, str) or op not in OPS:
        return frame
    known = {"op", "id", *OPS[op][0], *OPS[op][1]}
    loose = {k: v for k, v in frame.items() if k in known and v is not None}
    if "id" in loose:
        loose["id"] = str(loose["id"])[:TEXT_LIMIT]
    return loose


def lenient(type_name: str, value: Any, flavour: Flavour, now: float) -> Message:
    """A message as rosbridge fills it; raises ``InvalidMessage`` for unknown fields and wrong types."""
    t = lookup(type_name, flavour)
    if not isinstance(value, Mapping):
        raise InvalidMessage(f"{type_name}: not an object")
    if unknown := set(value) - {f.name for f in t.fields}:
        raise InvalidMessage(f"{type_name}: unknown fields {sorted(unknown)}")
    filled: Message = zeros(type_name, flavour)
    if t.name == "geometry_msgs/Quaternion" and flavour == "ros2":
        # B4: messages of ROS 2 have defaults, and a quaternion's is the identity.
        filled["w"] = 1.0
    for f in t.fields:
        if f.name in value:
            filled[f.name] = _lenient_field(f, value[f.name], flavour, now)
        elif f.kind not in PRIMITIVES and f.length is None:
            filled[f.name] = lenient(f.kind, {}, flavour, now)
    return filled


def _lenient_field(f: Field, value: Any, flavour: Flavour, now: float) -> Any:
    if f.length is not None:
        if f.kind == "uint8" or not isinstance(value, list) or (f.length and len(value) != f.length):
            return check_field(f, value, flavour)
        one = Field(f.name, f.kind, None, False, f.text)
        return [_lenient_field(one, v, flavour, now) for v in value]
    if f.kind in ("time", "duration"):
        return _lenient_time(value, flavour, now)
    if f.kind in ("float32", "float64") and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if f.kind in PRIMITIVES:
        if f.kind in INTEGERS and isinstance(value, float):
            raise InvalidMessage(f"{f.name}: a float where an integer belongs")
        return check_field(f, value, flavour)
    return lenient(f.kind, value, flavour, now)


def _lenient_time(value: Any, flavour: Flavour, now: float) -> dict[str, int]:
    """B7: ROS 1 ignores the keys of ROS 2 and stamps with now.  B8: ROS 2 translates those of ROS 1."""
    if not isinstance(value, Mapping):
        raise InvalidMessage("a stamp is an object")
    own, other = STAMP_KEYS[flavour], STAMP_KEYS["ros2" if flavour == "ros1" else "ros1"]
    if flavour == "ros2" and set(other) & set(value):
        value = {mine: value[theirs] for mine, theirs in zip(own, other, strict=True) if theirs in value}
    if not set(own) & set(value):
        return stamp_of(now, flavour)
    full = {k: value.get(k, 0) for k in own}
    conform("actionlib_msgs/GoalID", {"stamp": full, "id": ""}, flavour)
    return full
