"""The part of rosapi that a driver needs to look round before it moves: topics, services, nodes and the time."""

from __future__ import annotations

from collections.abc import Callable

from robopolicy.core.errors import ServiceFailed, did_you_mean
from robopolicy.real_robot.wire.backends import Backend
from robopolicy.real_robot.wire.messages import Message, conform, stamp_of
from robopolicy.real_robot.wire.schema import service_types, spelled

PREFIX = "/rosapi/"


class RosApi:
    """Answers ``/rosapi/*`` from a back end; type strings come in the server's flavour."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._handlers: dict[str, tuple[str, Callable[[Message], Message]]] = {
            "get_time": ("rosapi/GetTime", self._time),
            "topics": ("rosapi/Topics", self._topics),
            "topic_type": ("rosapi/TopicType", self._topic_type),
            "publishers": ("rosapi/Publishers", lambda r: {"publishers": backend.publishers(r["topic"])}),
            "subscribers": ("rosapi/Subscribers", lambda r: {"subscribers": backend.subscribers(r["topic"])}),
            "services": ("rosapi/Services", lambda r: {"services": sorted({*backend.services(), *self.names()})}),
            "service_type": ("rosapi/ServiceType", self._service_type),
            "nodes": ("rosapi/Nodes", lambda r: {"nodes": backend.nodes()}),
        }

    def names(self) -> list[str]:
        """The services of this class."""
        return [PREFIX + name for name in self._handlers]

    def call(self, service: str, request: Message) -> Message:
        """Answer one call; raises ``ServiceFailed`` or ``InvalidMessage``."""
        name = service.removeprefix(PREFIX)
        if name not in self._handlers:
            raise ServiceFailed(f"there is no service {service}" + did_you_mean(name, self._handlers))
        type_name, handler = self._handlers[name]
        asked, answered = service_types(type_name)
        flavour = self._backend.flavour
        return conform(answered, handler(conform(asked, request, flavour)), flavour)

    def _time(self, request: Message) -> Message:
        return {"time": stamp_of(self._backend.now(), self._backend.flavour)}

    def _topics(self, request: Message) -> Message:
        found = self._backend.topics()
        return {"topics": list(found), "types": [spelled(t, self._backend.flavour) for t in found.values()]}

    def _topic_type(self, request: Message) -> Message:
        found = self._backend.topics().get(request["topic"], "")
        return {"type": spelled(found, self._backend.flavour) if found else ""}

    def _service_type(self, request: Message) -> Message:
        name = request["service"].removeprefix(PREFIX)
        own = request["service"].startswith(PREFIX) and name in self._handlers
        found = self._handlers[name][0] if own else self._backend.service_type(request["service"])
        return {"type": spelled(found, self._backend.flavour, "srv") if found else ""}
