"""What the client makes of received frames, without a socket: slots filled, replies handed out, faults counted."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from robopolicy.core.errors import FrameRefused, LinkDown, RobopolicyError, ServiceFailed
from robopolicy.real_robot.wire.codec import decode_cbor, decode_json
from robopolicy.real_robot.wire.messages import Message
from robopolicy.real_robot.wire.protocol import CLIENT_INBOUND_LIMIT, Reassembler
from robopolicy.real_robot.wire.schema import Flavour
from robopolicy.real_robot.wire.slot import Slot

Feedback = Callable[[Any], None]


class Inbox:
    """Never raises, whatever arrives; ``counters`` tell what was wrong.

    ``bad_burst`` is true while more than ``limit`` unreadable frames came within the last second.
    """

    def __init__(self, bad_frames_a_second: int = 20) -> None:
        self.flavour: Flavour = "ros1"
        self.epoch = 0
        self.slots: dict[str, Slot] = {}
        self.counters: Counter[str] = Counter()
        self.statuses: deque[str] = deque(maxlen=32)
        self._fragments = Reassembler(CLIENT_INBOUND_LIMIT)
        self._bad: deque[float] = deque(maxlen=bad_frames_a_second + 1)
        self._waiting: dict[str, tuple[Future[Any], Feedback | None]] = {}
        self._lock = threading.Lock()

    def receive(self, data: str | bytes, arrival: float) -> None:
        """Handle one frame that arrived at ``arrival`` (monotonic seconds)."""
        self.counters["frames"] += 1
        try:
            self._handle(decode_json(data) if isinstance(data, str) else decode_cbor(data), arrival, False)
        except RobopolicyError as e:
            self._note_bad(arrival, str(e))
        except Exception as e:
            # A frame of an unforeseen shape is the sender's fault, not a reason to lose the link.
            self._note_bad(arrival, f"{type(e).__name__}: {e}")

    def _note_bad(self, arrival: float, why: str) -> None:
        self.counters["malformed"] += 1
        self._bad.append(arrival)
        self.last_error = why[:200]

    def bad_burst(self, now: float) -> bool:
        """Whether unreadable frames come faster than allowed."""
        return len(self._bad) == self._bad.maxlen and now - self._bad[0] <= 1.0

    def _handle(self, frame: Any, arrival: float, inside: bool) -> None:
        if not isinstance(frame, dict):
            raise FrameRefused("a frame is one object")
        op = frame.get("op")
        if op == "publish":
            self._publish(frame, arrival)
        elif op == "fragment" and not inside:
            before = self._fragments.dropped
            whole = self._fragments.add(frame, arrival)
            self.counters["fragments_lost"] += self._fragments.dropped - before
            if whole is not None:
                self._handle(whole, arrival, True)
        elif op in ("service_response", "action_result"):
            self._reply(frame)
        elif op == "action_feedback":
            entry = self._waiting.get(str(frame.get("id")))
            if entry is not None and entry[1] is not None:
                entry[1](frame.get("values"))
        elif op == "status":
            self.counters["status"] += 1
            self.statuses.append(f"{frame.get('level')}: {frame.get('msg')}"[:500])
        elif isinstance(op, str) and op:
            self.counters["unknown_op"] += 1
            if op == "fragment":
                raise FrameRefused("a fragment inside a fragment")
        else:
            raise FrameRefused("a frame without an op")

    def _publish(self, frame: Message, arrival: float) -> None:
        topic = frame.get("topic")
        slot = self.slots.get(topic) if isinstance(topic, str) else None
        if slot is None:
            self.counters["not_subscribed"] += 1
            return
        invalid, stale = slot.invalid, slot.stale
        slot.offer(frame.get("msg"), self.flavour, arrival, self.epoch)
        self.counters["invalid"] += slot.invalid - invalid
        self.counters["stale"] += slot.stale - stale

    # --- replies --------------------------------------------------------------------------------------------

    def expect(self, name: str, feedback: Feedback | None = None) -> Future[Any]:
        """A future for the reply with this id."""
        future: Future[Any] = Future()
        with self._lock:
            self._waiting[name] = (future, feedback)
        return future

    def forget(self, name: str) -> None:
        """Nobody waits for that reply any more."""
        with self._lock:
            self._waiting.pop(name, None)

    def _reply(self, frame: Message) -> None:
        with self._lock:
            entry = self._waiting.pop(str(frame.get("id")), None)
        if entry is None:
            self.counters["late_replies"] += 1
            return
        if frame.get("op") == "action_result":
            entry[0].set_result(frame)
        elif frame.get("result") is True:
            entry[0].set_result(frame.get("values"))
        else:
            entry[0].set_exception(ServiceFailed(f"{frame.get('service')}: {str(frame.get('values'))[:300]}"))

    def link_lost(self, why: str) -> None:
        """Nobody will answer now."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for future, _ in waiting.values():
            future.set_exception(LinkDown(why))

    def expire(self, now: float) -> None:
        """Drop message parts that will never be complete."""
        before = self._fragments.dropped
        self._fragments.expire(now)
        self.counters["fragments_lost"] += self._fragments.dropped - before
