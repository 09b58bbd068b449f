"""What waits to be sent to one client: replies in order, and one slot a subscription in which the newest wins."""

from __future__ import annotations

import itertools
import math
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from robopolicy.core.errors import InvalidMessage
from robopolicy.real_robot.wire.codec import encode_cbor, encode_json
from robopolicy.real_robot.wire.messages import Message
from robopolicy.real_robot.wire.protocol import split

REPLIES = 256  # replies that may wait; a client that leaves more unread is cut off
DEPTH = 64  # the longest queue that a subscription may ask for
_NAMES = itertools.count(1)


class Envelope:
    """One message on its way to many clients; written once, and only if somebody still wants it."""

    def __init__(self, topic: str, message: Message) -> None:
        self.frame: Message = {"op": "publish", "topic": topic, "msg": message}
        self._text: str | None = None
        self._binary: bytes | None = None

    def text(self) -> str:
        """JSON; numbers that are not finite appear as null, as rosbridge shows them."""
        if self._text is None:
            self._text = write_json(self.frame)
        return self._text

    def binary(self) -> bytes:
        """CBOR."""
        if self._binary is None:
            self._binary = encode_cbor(self.frame)
        return self._binary


def write_json(frame: Message) -> str:
    """JSON of a frame; NaN and infinity become null instead of an error."""
    try:
        return encode_json(frame)
    except InvalidMessage:
        return encode_json(_with_nulls(frame))


def _with_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _with_nulls(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_with_nulls(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Outbox:
    """Thread-safe; ``wake`` is called (from any thread) when something is waiting.

    Memory is bounded: ``REPLIES`` replies, and ``depth`` messages a subscription, of which the oldest are dropped.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake, self._lock = wake, threading.Lock()
        self._replies: deque[Message] = deque()
        self._slots: OrderedDict[str, deque[Envelope]] = OrderedDict()
        self._form: dict[str, tuple[bool, int]] = {}
        self.replaced = 0
        self.overflown = False

    def reply(self, frame: Message) -> None:
        """Queue an answer; never dropped, but ``overflown`` is set when too many wait."""
        with self._lock:
            if len(self._replies) >= REPLIES:
                self.overflown = True
            else:
                self._replies.append(frame)
        self._wake()

    def open(self, key: str, binary: bool, fragment_size: int) -> None:
        """Say how the messages of a subscription are written (``fragment_size`` 0: whole)."""
        with self._lock:
            self._form[key] = (binary, fragment_size)

    def offer(self, key: str, envelope: Envelope, depth: int) -> None:
        """Put a message in a subscription's slot; beyond ``depth`` the oldest one gives way."""
        with self._lock:
            if key not in self._form:
                return
            slot = self._slots.setdefault(key, deque())
            while len(slot) >= depth:
                slot.popleft()
                self.replaced += 1
            slot.append(envelope)
        self._wake()

    def forget(self, key: str) -> None:
        """The subscription is over."""
        with self._lock:
            self._slots.pop(key, None)
            self._form.pop(key, None)

    def pop(self, max_message_size: int = 0) -> list[str | bytes] | None:
        """The frames of the next thing to send, None if nothing waits; replies go first, topics take turns."""
        with self._lock:
            if self._replies:
                reply: Message | None = self._replies.popleft()
            elif self._slots:
                reply = None
                key, slot = self._slots.popitem(last=False)
                envelope = slot.popleft()
                if slot:
                    self._slots[key] = slot
                binary, size = self._form[key]
            else:
                return None
        if reply is not None:
            return _cut(write_json(reply), max_message_size)
        if binary:
            return [envelope.binary()]
        return _cut(envelope.text(), min(filter(None, (size, max_message_size)), default=0))


def _cut(text: str, size: int) -> list[str | bytes]:
    if not size or len(text) <= size:
        return [text]
    return list(split(text, size, f"fragment:{next(_NAMES)}"))
