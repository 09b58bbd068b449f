"""Services and actions of one client: answered in their own time, with a bound on how many may be open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from robopolicy.core.errors import FrameRefused, RobopolicyError
from robopolicy.real_robot.clock import Clock
from robopolicy.real_robot.wire.backends import Backend
from robopolicy.real_robot.wire.bus import checked_name
from robopolicy.real_robot.wire.gateway_config import GatewayConfig
from robopolicy.real_robot.wire.messages import Message
from robopolicy.real_robot.wire.outbox import Envelope, Outbox
from robopolicy.real_robot.wire.protocol import TEXT_LIMIT, frame_id
from robopolicy.real_robot.wire.rosapi import PREFIX, RosApi
from robopolicy.real_robot.wire.schema import plain_name, service_types
from robopolicy.real_robot.wire.writer_lock import WriterLock

MOST_CALLS = 16  # calls and goals of one client that may be unanswered


@dataclass
class Shared:
    """What all sessions of one gateway share.  ``defer`` runs a function that may block, elsewhere."""

    backend: Backend
    config: GatewayConfig
    clock: Clock
    lock: WriterLock
    rosapi: RosApi
    defer: Callable[[Callable[[], None]], None]
    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("frames", "refused", "published"), 0))
    envelopes: dict[str, Envelope] = field(default_factory=dict)
    kept: dict[str, Message] = field(default_factory=dict)

    def envelope(self, topic: str, message: Message) -> Envelope:
        """The envelope of a message; the same one for all clients that hear it, so that it is written once."""
        known = self.envelopes.get(topic)
        if known is None or known.frame["msg"] is not message:
            known = self.envelopes[topic] = Envelope(topic, message)
        return known


def allowed(name: str, patterns: tuple[str, ...]) -> str:
    """A name that is well-formed and on an allow-list."""
    if not any(fnmatchcase(checked_name(name), p) for p in patterns):
        raise FrameRefused(f"{name} is not on the allow-list of this gateway")
    return name


class Calls:
    """Calls and goals of the client ``name``; answers go to its outbox, from whichever thread has them."""

    def __init__(self, shared: Shared, outbox: Outbox, name: str) -> None:
        self.shared, self.outbox, self.name = shared, outbox, name
        self.closed = False
        self._unanswered: set[object] = set()
        self._goals: dict[str, str] = {}

    def call_service(self, frame: dict[str, Any]) -> None:
        """``call_service``; the answer is a ``service_response`` whose ``result`` is false when it failed."""
        service = allowed(frame["service"], self.shared.config.allow_services)
        request = frame.get("args", {})
        if isinstance(request, list):
            if request:
                raise FrameRefused("call_service: args is an object of named values")
            request = {}
        type_name = plain_name(frame["type"]) if frame.get("type") else None
        if type_name is not None:
            service_types(type_name)
        if service == f"{PREFIX}get_time":
            # Clients measure the clock with this one: answered at once.
            self._answer(frame, lambda: self.shared.rosapi.call(service, request))
            return
        token = self._begin_call()

        def run() -> None:
            try:
                if service.startswith(PREFIX):
                    self._answer(frame, lambda: self.shared.rosapi.call(service, request))
                else:
                    self._answer(frame, lambda: self.shared.backend.call(service, type_name, request))
            finally:
                self._unanswered.discard(token)

        self.shared.defer(run)

    def refused(self, frame: dict[str, Any], error: Exception) -> None:
        """A call that was never made is answered too: its caller waits for nothing else (B16)."""
        op, name = frame.get("op"), frame_id(frame)
        if op == "call_service" and isinstance(frame.get("service"), str):
            reply: Message = {"op": "service_response", "service": frame["service"][:TEXT_LIMIT]}
        elif op == "send_action_goal" and isinstance(frame.get("action"), str):
            reply = {"op": "action_result", "action": frame["action"][:TEXT_LIMIT], "status": 6}
        else:
            return
        if name is not None:
            reply["id"] = name
        self.outbox.reply(reply | {"values": str(error)[:500], "result": False})

    def _begin_call(self) -> object:
        if len(self._unanswered) >= MOST_CALLS:
            raise FrameRefused(f"at most {MOST_CALLS} unanswered calls a client")
        token = object()
        self._unanswered.add(token)
        return token

    def _answer(self, frame: dict[str, Any], call: Callable[[], Message]) -> None:
        reply: Message = {"op": "service_response", "service": frame["service"]}
        if "id" in frame:
            reply["id"] = frame["id"]
        try:
            reply |= {"values": call(), "result": True}
        except Exception as e:
            reply |= {"values": str(e)[:500], "result": False}
        self.outbox.reply(reply)

    def send_action_goal(self, frame: dict[str, Any]) -> None:
        """``send_action_goal`` (ROS 2): feedback if asked for, then one ``action_result``."""
        action = allowed(frame["action"], self.shared.config.allow_services)
        if self.shared.backend.flavour == "ros1":
            raise FrameRefused(f"actions of ROS 1 are topics: publish on {action}/goal")
        name = frame.get("id") or f"{self.name}:{action}:{len(self._goals)}"
        if name in self._goals:
            raise FrameRefused(f"{action}: the goal '{name[:80]}' is already being worked on")
        token = self._begin_call()
        base: Message = {"action": action, "id": name}

        def feedback(values: Message) -> None:
            if frame.get("feedback") and not self.closed:
                self.outbox.reply({"op": "action_feedback", **base, "values": values})

        def end(values: Message, status: int, succeeded: bool) -> None:
            self._goals.pop(name, None)
            self._unanswered.discard(token)
            self.outbox.reply({"op": "action_result", **base, "values": values, "status": status, "result": succeeded})

        self._goals[name] = action
        try:
            self.shared.backend.send_goal(action, frame["action_type"], name, frame.get("args", {}), feedback, end)
        except RobopolicyError as e:
            self._goals.pop(name, None)
            self._unanswered.discard(token)
            self.outbox.reply({"op": "action_result", **base, "values": str(e)[:500], "status": 6, "result": False})

    def cancel_action_goal(self, frame: dict[str, Any]) -> None:
        """``cancel_action_goal``: only the client's own goals."""
        if self._goals.get(frame["id"]) != frame["action"]:
            raise FrameRefused(f"{frame['action']} has no goal of yours with that id")
        self.shared.backend.cancel_goal(frame["action"], frame["id"])
