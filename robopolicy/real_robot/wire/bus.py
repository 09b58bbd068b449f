"""A ROS graph inside one process: typed topics, services and actions, without sockets and without threads of its own.

``publish`` checks the message and calls the subscribers at once, in the publisher's thread, in the order in which they
subscribed.  A callback that raises is counted and logged, never passed on to the publisher: one bad listener must not
stop a robot.  Everything may be called from any thread; no lock is held while strangers' code runs.

What differs from ROS: delivery is immediate and in order; a topic has one type for good; a node is a string, the
``owner``.  As in ROS, anybody may publish anywhere, unless the topic was made ``exclusive``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from robopolicy.core.errors import BridgeError, InvalidMessage, RobopolicyError, ServiceFailed, did_you_mean
from robopolicy.real_robot.clock import Clock, SystemClock
from robopolicy.real_robot.wire.actions import ActionServer, Goal
from robopolicy.real_robot.wire.messages import Message, conform
from robopolicy.real_robot.wire.schema import Flavour, lookup, service_types
from robopolicy.real_robot.wire.writer_lock import WriterLock

Callback = Callable[[Message], None]
Handler = Callable[[Message], Message]
LOG = logging.getLogger(__name__)
HOME = "/robopolicy"


@dataclass
class _Topic:
    type: str
    writers: dict[str, bool] = field(default_factory=dict)
    listeners: list[tuple[str, Callback]] = field(default_factory=list)
    latched: Message | None = None
    last: Message | None = None


class Bus:
    """Topics, services and actions of one simulated robot.

    ``flavour`` decides the spelling of stamps and types, and whether actions also live as five topics (ROS 1).
    """

    def __init__(self, flavour: Flavour = "ros1", clock: Clock | None = None) -> None:
        self.flavour: Flavour = flavour
        self.clock: Clock = clock or SystemClock()
        self.actions: dict[str, ActionServer] = {}
        self.callback_errors = 0
        self._topics: dict[str, _Topic] = {}
        self._services: dict[str, tuple[str, Handler, str]] = {}
        self._exclusive: WriterLock = WriterLock((), self.clock)
        self._lock = threading.RLock()

    # --- topics ---------------------------------------------------------------------------------------------

    def _topic(self, name: str, type_name: str) -> _Topic:
        type_name = lookup(type_name, self.flavour).name
        topic = self._topics.setdefault(checked_name(name), _Topic(type_name))
        if topic.type != type_name:
            raise BridgeError(f"{name} carries {topic.type}, not {type_name}: one topic has one type")
        return topic

    def advertise(self, topic: str, type_name: str, owner: str = HOME, latch: bool = False) -> None:
        """Announce that ``owner`` will publish; a latched topic gives its last message to every new subscriber."""
        with self._lock:
            self._exclusive.take(topic, owner)
            self._topic(topic, type_name).writers[owner] = latch

    def unadvertise(self, topic: str, owner: str = HOME) -> None:
        """The end of ``advertise``; unknown topics and owners are ignored."""
        with self._lock:
            self._exclusive.release(topic, owner)
            if topic in self._topics:
                self._topics[topic].writers.pop(owner, None)

    def exclusive(self, topic: str, silence: float = 0.5) -> None:
        """From now on only the first advertiser may publish, until it has been silent for ``silence`` seconds."""
        with self._lock:
            self._exclusive.add(topic, silence)

    def publish(self, topic: str, message: Any, owner: str = HOME) -> None:
        """Check and deliver; raises ``InvalidMessage`` for a bad message, ``BridgeError`` without ``advertise``."""
        self.deliver(topic, conform(self._writable(topic, owner).type, message, self.flavour), owner)

    def deliver(self, topic: str, message: Message, owner: str = HOME) -> None:
        """``publish`` without the check of the message: for what was checked already, and for injected faults."""
        with self._lock:
            entry = self._writable(topic, owner)
            entry.last = message
            if entry.writers.get(owner):
                entry.latched = message
            listeners = list(entry.listeners)
        for _, callback in listeners:
            self._deliver(topic, callback, message)

    def _writable(self, topic: str, owner: str) -> _Topic:
        with self._lock:
            entry = self._topics.get(topic)
            if entry is None or owner not in entry.writers:
                raise BridgeError(f"{owner} publishes on {topic} without having advertised it")
            self._exclusive.check(topic, owner)
            return entry

    def _deliver(self, topic: str, callback: Callback, message: Message) -> None:
        try:
            callback(message)
        except Exception:
            self.callback_errors += 1
            LOG.exception("a subscriber of %s raised", topic)

    def subscribe(self, topic: str, type_name: str, callback: Callback, owner: str = HOME) -> Callable[[], None]:
        """Call ``callback`` with every message (do not change it: all subscribers get the same dict).

        Returns the function that ends the subscription.
        """
        with self._lock:
            entry = self._topic(topic, type_name)
            listener = (owner, callback)
            entry.listeners.append(listener)
            latched = entry.latched

        def end() -> None:
            with self._lock:
                entry.listeners[:] = [x for x in entry.listeners if x is not listener]

        if latched is not None:
            self._deliver(topic, callback, latched)
        return end

    def last(self, topic: str) -> Message | None:
        """The newest message of a topic, None if there is none yet."""
        entry = self._topics.get(topic)
        return entry.last if entry else None

    # --- services and actions -------------------------------------------------------------------------------

    def serve(self, service: str, type_name: str, handler: Handler, owner: str = HOME) -> Callable[[], None]:
        """Answer calls of ``service``: ``handler(request) -> response``, in the caller's thread.

        A handler refuses by raising ``ServiceFailed``.  Returns the function that ends the service.
        """
        request, _ = service_types(type_name)
        with self._lock:
            self._services[checked_name(service)] = (request.removesuffix("Request"), handler, owner)

        def end() -> None:
            with self._lock:
                self._services.pop(service, None)

        return end

    def call(self, service: str, request: Message | None = None) -> Message:
        """Call a service; raises ``ServiceFailed`` if it is missing, refuses or breaks."""
        entry = self._services.get(service)
        if entry is None:
            raise ServiceFailed(f"there is no service {service}" + did_you_mean(service, self._services))
        type_name, handler, _ = entry
        asked, answered = service_types(type_name)
        try:
            checked = conform(asked, request or {}, self.flavour)
            return conform(answered, handler(checked), self.flavour)
        except InvalidMessage as e:
            raise ServiceFailed(f"{service}: {e}") from None
        except RobopolicyError:
            raise
        except Exception as e:
            LOG.exception("the handler of %s raised", service)
            raise ServiceFailed(f"{service}: {type(e).__name__}: {e}") from e

    def serve_action(
        self,
        name: str,
        type_name: str,
        on_goal: Callable[[Goal], None],
        on_cancel: Callable[[Goal], None] | None = None,
        owner: str = HOME,
    ) -> ActionServer:
        """Offer an action.  ``on_goal`` gets each goal and answers now or later through it (``Goal.accept`` ...)."""
        server = ActionServer(self, checked_name(name), type_name, on_goal, on_cancel, owner)
        with self._lock:
            self.actions[name] = server
        return server

    # --- the graph, as rosapi tells it ----------------------------------------------------------------------

    def topics(self) -> dict[str, str]:
        """Topic -> type of all topics that somebody publishes or hears."""
        with self._lock:
            return {name: t.type for name, t in sorted(self._topics.items()) if t.writers or t.listeners}

    def publishers(self, topic: str) -> list[str]:
        """Owners that advertise a topic."""
        with self._lock:
            return sorted(self._topics[topic].writers) if topic in self._topics else []

    def subscribers(self, topic: str) -> list[str]:
        """Owners that hear a topic."""
        with self._lock:
            return sorted({o for o, _ in self._topics[topic].listeners}) if topic in self._topics else []

    def services(self) -> dict[str, str]:
        """Service -> type."""
        with self._lock:
            return {name: s[0] for name, s in sorted(self._services.items())}

    def nodes(self) -> list[str]:
        """Every owner that takes part."""
        with self._lock:
            found = {o for t in self._topics.values() for o in (*t.writers, *(x for x, _ in t.listeners))}
            return sorted(found | {s[2] for s in self._services.values()})


def checked_name(name: str) -> str:
    """A graph name, or ``BridgeError``: absolute, of letters, digits, ``_`` and ``/``; never relative."""
    parts = name.split("/")
    if len(name) > 255 or parts[0] or not all(p.replace("_", "a").isalnum() and p.isascii() for p in parts[1:]):
        raise BridgeError(f"a topic or service name looks like /robot/state, got {name[:80]!r}")
    return name
