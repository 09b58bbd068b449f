"""The rosbridge v2 protocol as data: operations and their keys, limits, close codes, fragments.

Source: the rosbridge protocol document, version 2, and its action operations of ROS 2.  What differs: a frame is
exactly one JSON object, unknown keys are refused, and every list has an end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from robopolicy.core.errors import FrameRefused, did_you_mean
from robopolicy.real_robot.wire.codec import decode_json, encode_json

MIB = 1 << 20
INBOUND_LIMIT = 4 * MIB  # bytes of one frame that the gateway reads
CLIENT_INBOUND_LIMIT = 16 * MIB  # bytes of one frame, or of all fragments, that the client reads
CLIENT_OUTBOUND_LIMIT = MIB  # bytes of one frame that the client sends
TEXT_LIMIT = 255  # characters of a name, a type or an id
PART_COST = 256  # bytes that keeping one part of a message costs beside its text

CLOSE_BINARY = 1003
CLOSE_MALFORMED = 1007
CLOSE_POLICY = 1008
CLOSE_TOO_BIG = 1009

_NUMBER = (int, float)
# op -> (required keys, optional keys); ``op`` and ``id`` belong to every frame.
OPS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "advertise": ({"topic": str, "type": str}, {"latch": bool, "queue_size": int}),
    "unadvertise": ({"topic": str}, {}),
    "publish": ({"topic": str, "msg": dict}, {"latch": bool}),
    "subscribe": (
        {"topic": str},
        {"type": str, "throttle_rate": _NUMBER, "queue_length": int, "fragment_size": int, "compression": str},
    ),
    "unsubscribe": ({"topic": str}, {}),
    "call_service": (
        {"service": str},
        {"args": (dict, list), "type": str, "fragment_size": int, "compression": str, "timeout": _NUMBER},
    ),
    "send_action_goal": (
        {"action": str, "action_type": str},
        {"args": dict, "feedback": bool, "fragment_size": int, "compression": str},
    ),
    "cancel_action_goal": ({"action": str, "id": str}, {}),
    "fragment": ({"id": str, "data": str, "num": int, "total": int}, {}),
    "set_level": ({"level": str}, {}),
}
LEVELS = ("info", "warning", "error", "none")


class CloseLink(Exception):
    """The peer broke the protocol: the connection ends with this code."""

    def __init__(self, code: int, reason: str) -> None:
        # The reason of a close frame has at most 123 bytes.
        super().__init__(reason)
        self.code, self.reason = code, reason.encode("utf-8", "replace")[:120].decode("utf-8", "ignore")


def check_frame(frame: Mapping[str, Any]) -> str:
    """The operation of a frame whose keys are right; raises ``FrameRefused`` naming the key."""
    op = frame.get("op")
    if not isinstance(op, str) or op not in OPS:
        shown = op[:40] if isinstance(op, str) else type(op).__name__
        raise FrameRefused(f"unknown op '{shown}'" + did_you_mean(shown, OPS))
    required, optional = OPS[op]
    known = {"id": str, **optional, **required}
    for key, value in frame.items():
        if key == "op":
            continue
        if key not in known:
            raise FrameRefused(f"{op}: unknown key '{key[:40]}'" + did_you_mean(key[:40], known))
        kind = known[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise FrameRefused(f"{op}: {key} has the wrong type {type(value).__name__}")
        if isinstance(value, str) and len(value) > TEXT_LIMIT and key != "data":
            raise FrameRefused(f"{op}: {key} is longer than {TEXT_LIMIT} characters")
    if missing := [key for key in required if key not in frame]:
        raise FrameRefused(f"{op}: missing key '{missing[0]}'")
    return op


def frame_id(frame: Any) -> str | None:
    """The id of a frame that may be wrong in every other way."""
    found = frame.get("id") if isinstance(frame, Mapping) else None
    return found[:TEXT_LIMIT] if isinstance(found, str) else None


def split(text: str, size: int, name: str) -> Iterator[str]:
    """The text as ``fragment`` frames that carry at most ``size`` characters each."""
    total = -(-len(text) // size)
    for num in range(total):
        part = text[num * size : (num + 1) * size]
        yield encode_json({"op": "fragment", "id": name, "data": part, "num": num, "total": total})


@dataclass
class _Partial:
    total: int
    since: float
    parts: dict[int, str] = field(default_factory=dict)
    size: int = 0


class Reassembler:
    """Puts ``fragment`` frames together again; what never completes is dropped after ``timeout`` seconds.

    At most ``cap`` bytes and ``ids`` messages are kept, the oldest goes first; repeated parts count once.
    """

    def __init__(self, cap: int = CLIENT_INBOUND_LIMIT, ids: int = 64, timeout: float = 2.0) -> None:
        self.cap, self.ids, self.timeout = cap, ids, timeout
        self.dropped = 0
        self._open: dict[str, _Partial] = {}

    @property
    def held(self) -> int:
        """Bytes kept at this moment, about."""
        return sum(p.size for p in self._open.values())

    def add(self, frame: Mapping[str, Any], now: float) -> Any | None:
        """The whole message's JSON value when this part was the last one, else None; raises ``FrameRefused``."""
        self.expire(now)
        check_frame(frame)
        name, num, total, data = frame["id"], frame["num"], frame["total"], frame["data"]
        # A part has at least one character, so no honest message has more parts than the cap has characters.
        if not 0 <= num < total <= self.cap:
            raise FrameRefused(f"fragment: part {str(num)[:20]} of {str(total)[:20]} cannot be")
        if len(data) > self.cap:
            raise FrameRefused(f"fragment: longer than {self.cap} characters")
        partial = self._open.get(name)
        if partial is None:
            partial = self._open[name] = _Partial(total, now)
            while len(self._open) > self.ids:
                self._drop(next(iter(self._open)))
        if partial.total != total:
            self._drop(name)
            raise FrameRefused("fragment: its parts disagree about their number")
        partial.size += len(data) - len(partial.parts.get(num, "")) + PART_COST * (num not in partial.parts)
        partial.parts[num] = data
        while self.held > self.cap:
            self._drop(next(iter(self._open)))
        if name not in self._open or len(partial.parts) < total:
            return None
        del self._open[name]
        return decode_json("".join(partial.parts[i] for i in range(total)))

    def expire(self, now: float) -> None:
        """Drop what has waited too long."""
        for name in [k for k, p in self._open.items() if now - p.since >= self.timeout]:
            self._drop(name)

    def _drop(self, name: str) -> None:
        del self._open[name]
        self.dropped += 1
