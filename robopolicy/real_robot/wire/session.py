"""One client of the gateway, without its socket: frames in, effects on the graph, frames out through the outbox.

Strict: what is not understood completely has no effect, and the client is told with a ``status`` frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from robopolicy.core.errors import FrameRefused, RobopolicyError
from robopolicy.real_robot.wire.codec import decode_json
from robopolicy.real_robot.wire.messages import Message, conform
from robopolicy.real_robot.wire.outbox import DEPTH, Outbox
from robopolicy.real_robot.wire.protocol import (
    CLOSE_BINARY,
    CLOSE_MALFORMED,
    CLOSE_POLICY,
    LEVELS,
    CloseLink,
    Reassembler,
    check_frame,
    frame_id,
)
from robopolicy.real_robot.wire.schema import lookup
from robopolicy.real_robot.wire.session_calls import Calls, Shared, allowed

# Losing one of these changes what a client believes, so they queue although streams do not.
EVENTS = ("ActionGoal", "ActionResult", "ActionFeedback", "/GoalID")
MOST = 128  # topics that one client may advertise, and as many that it may hear


@dataclass
class _Subscription:
    end: Callable[[], None]
    depth: int
    period: float
    binary: bool
    ids: set[str | None] = field(default_factory=set)
    sent: float = -1e9


class Session:
    """A client called ``name``.  ``receive_*`` raise ``CloseLink`` when the connection must end."""

    def __init__(self, shared: Shared, name: str, wake: Callable[[], None]) -> None:
        self.shared, self.name = shared, name
        self.outbox = Outbox(wake)
        self._adverts: dict[str, str] = {}
        self._subscriptions: dict[str, _Subscription] = {}
        self._fragments = Reassembler(cap=shared.config.inbound_limit)
        self._level = "error"
        self.calls = Calls(shared, self.outbox, name)

    # --- frames in ------------------------------------------------------------------------------------------

    def receive_text(self, text: str) -> None:
        """Handle one text frame."""
        self.shared.counters["frames"] += 1
        try:
            frame = decode_json(text)
        except FrameRefused as e:
            raise CloseLink(CLOSE_MALFORMED, str(e)) from None
        if not isinstance(frame, dict):
            raise CloseLink(CLOSE_MALFORMED, f"a frame is one JSON object, got {type(frame).__name__}")
        self.handle(frame)
        if self.outbox.overflown:
            raise CloseLink(CLOSE_POLICY, "too many unread replies: read what you asked for")

    def receive_binary(self, data: bytes) -> None:
        """Binary frames only go out."""
        raise CloseLink(CLOSE_BINARY, "this gateway reads text frames only")

    def handle(self, frame: dict[str, Any]) -> None:
        """Carry out one object, or refuse it with a ``status`` frame."""
        try:
            op = check_frame(frame)
            if op == "fragment":
                whole = self._fragments.add(frame, self.shared.clock.now())
                if whole is None:
                    return
                if not isinstance(whole, dict) or whole.get("op") == "fragment":
                    raise FrameRefused("fragment: the parts do not make one frame")
                frame, op = whole, check_frame(whole)
            _HANDLERS[op](self, frame)
        except RobopolicyError as e:
            self.refuse(frame, e)

    def refuse(self, frame: dict[str, Any], error: Exception) -> None:
        """Count a refused frame and say why."""
        self.shared.counters["refused"] += 1
        self.calls.refused(frame, error)
        if self._level != "none":
            status: Message = {"op": "status", "level": "error", "msg": str(error)[:500]}
            if (name := frame_id(frame)) is not None:
                status["id"] = name
            self.outbox.reply(status)

    def close(self) -> None:
        """Undo everything that the client did to the graph."""
        self.calls.closed = True
        for topic in list(self._adverts):
            self._drop_advert(topic)
        for topic in list(self._subscriptions):
            self._end_subscription(topic)

    # --- topics ---------------------------------------------------------------------------------------------

    def advertise(self, frame: dict[str, Any]) -> None:
        """``advertise``: the topic is the client's to publish on, unless another one holds a command topic."""
        topic = allowed(frame["topic"], self.shared.config.allow_topics)
        type_name = self.type_name(frame["type"])
        if self._adverts.get(topic, type_name) != type_name:
            raise FrameRefused(f"{topic} is advertised as {self._adverts[topic]}, not {type_name}")
        if len(self._adverts) >= MOST:
            raise FrameRefused(f"at most {MOST} advertised topics a client")
        self.shared.lock.take(topic, self.name)
        self.shared.backend.advertise(topic, type_name, self.name, frame.get("latch", False))
        self._adverts[topic] = type_name

    def unadvertise(self, frame: dict[str, Any]) -> None:
        """``unadvertise``."""
        if frame["topic"] not in self._adverts:
            raise FrameRefused(f"{frame['topic']} is not advertised")
        self._drop_advert(frame["topic"])

    def _drop_advert(self, topic: str) -> None:
        del self._adverts[topic]
        self.shared.lock.release(topic, self.name)
        self.shared.backend.unadvertise(topic, self.name)

    def publish(self, frame: dict[str, Any]) -> Message:
        """``publish``: complete, typed, finite messages on advertised topics only; returns what was published."""
        topic = frame["topic"]
        if topic not in self._adverts:
            raise FrameRefused(f"{topic} is not advertised: send advertise first")
        message = self.checked(self._adverts[topic], frame["msg"])
        self.shared.lock.check(topic, self.name)
        self.shared.backend.publish(topic, message, self.name)
        self.shared.counters["published"] += 1
        return message

    def subscribe(self, frame: dict[str, Any]) -> None:
        """``subscribe``: one slot, newest wins; ``queue_length`` above 1 asks for a queue that drops its oldest."""
        topic = allowed(frame["topic"], self.shared.config.allow_topics)
        compression = frame.get("compression", "none")
        if compression not in ("none", "cbor"):
            raise FrameRefused(f"compression '{compression[:20]}' is not offered: use none or cbor")
        type_name = self.type_name(frame.get("type") or self._known_type(topic))
        queue, period = frame.get("queue_length", 0), frame.get("throttle_rate", 0) / 1e3
        if not 0 <= period < 1e6 or queue < 0 or frame.get("fragment_size", 0) < 0:
            raise FrameRefused("subscribe: throttle_rate, queue_length and fragment_size are not negative")
        depth = DEPTH if type_name.endswith(EVENTS) else max(1, min(queue, DEPTH))
        self.listen(topic, type_name, _Subscription(lambda: None, depth, period, compression == "cbor"), frame)

    def listen(self, topic: str, type_name: str, wanted: _Subscription, frame: dict[str, Any]) -> None:
        """Begin a subscription, or join one that the client has: the finer wish counts."""
        known = self._subscriptions.get(topic)
        entry = known or wanted
        entry.ids.add(frame.get("id"))
        entry.depth, entry.period = max(entry.depth, wanted.depth), min(entry.period, wanted.period)
        entry.binary = entry.binary or wanted.binary
        size = frame.get("fragment_size", 0)
        self.outbox.open(topic, entry.binary, size and max(size, 128))
        if known is not None:
            return
        if len(self._subscriptions) >= MOST:
            raise FrameRefused(f"at most {MOST} subscriptions a client")
        self._subscriptions[topic] = entry
        try:
            entry.end = self.shared.backend.subscribe(
                topic, type_name, lambda message: self._heard(topic, entry, message), self.name
            )
        except RobopolicyError:
            self._end_subscription(topic)
            raise

    def _heard(self, topic: str, entry: _Subscription, message: Message) -> None:
        # In the publisher's thread: keep it short.
        now = self.shared.clock.now()
        if now - entry.sent >= entry.period:
            entry.sent = now
            self.outbox.offer(topic, self.shared.envelope(topic, message), entry.depth)

    def unsubscribe(self, frame: dict[str, Any]) -> None:
        """``unsubscribe`` one id, or all of a topic when there is no id."""
        entry = self._subscriptions.get(frame["topic"])
        if entry is None:
            raise FrameRefused(f"{frame['topic']} is not subscribed")
        entry.ids.discard(frame.get("id"))
        if "id" not in frame or not entry.ids:
            self._end_subscription(frame["topic"])

    def _end_subscription(self, topic: str) -> None:
        self._subscriptions.pop(topic).end()
        self.outbox.forget(topic)

    # --- rest ----------------------------------------------------------------------------------------------

    def set_level(self, frame: dict[str, Any]) -> None:
        """``set_level``: whether errors are told; they are unless the level is ``none``."""
        if frame["level"] not in LEVELS:
            raise FrameRefused(f"set_level: one of {', '.join(LEVELS)}")
        self._level = frame["level"]

    # --- rules that quirks loosen ----------------------------------------------------------------------------

    def type_name(self, given: str) -> str:
        """Two-part name of a message type that the table knows."""
        return lookup(given, self.shared.backend.flavour).name

    def _known_type(self, topic: str) -> str:
        found = self.shared.backend.topics().get(topic)
        if not found:
            raise FrameRefused(f"nobody has said yet what {topic} carries: subscribe with a type")
        return found

    def checked(self, type_name: str, message: Message) -> Message:
        """The message as it may go on the graph."""
        return conform(type_name, message, self.shared.backend.flavour)


_HANDLERS: dict[str, Callable[[Session, dict[str, Any]], Any]] = {
    "advertise": lambda s, f: s.advertise(f),
    "unadvertise": lambda s, f: s.unadvertise(f),
    "publish": lambda s, f: s.publish(f),
    "subscribe": lambda s, f: s.subscribe(f),
    "unsubscribe": lambda s, f: s.unsubscribe(f),
    "call_service": lambda s, f: s.calls.call_service(f),
    "send_action_goal": lambda s, f: s.calls.send_action_goal(f),
    "cancel_action_goal": lambda s, f: s.calls.cancel_action_goal(f),
    "set_level": lambda s, f: s.set_level(f),
}
