"""The half of the client that the link talks to: state, epochs, events, and the greeting of a new connection."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from robopolicy.core.errors import LinkDown, ServiceFailed
from robopolicy.real_robot.clock import Clock, SystemClock
from robopolicy.real_robot.wire.client_config import ClientConfig
from robopolicy.real_robot.wire.codec import encode_json
from robopolicy.real_robot.wire.inbox import Inbox
from robopolicy.real_robot.wire.link import Link
from robopolicy.real_robot.wire.loopback import Loopback
from robopolicy.real_robot.wire.messages import Message
from robopolicy.real_robot.wire.schema import Flavour, spelled

LOG = logging.getLogger(__name__)


class LinkState(Enum):
    """``UP`` only when the flavour is known and everything was advertised and subscribed again."""

    DOWN = "down"
    UP = "up"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class LinkEvent:
    """Something the driver must know: ``kind`` is up, down, bad_frames, loopback_slow or foreign_command."""

    kind: str
    reason: str
    at: float
    epoch: int


class ClientCore:
    """See ``RosbridgeClient``."""

    def __init__(
        self,
        config: ClientConfig | None = None,
        clock: Clock | None = None,
        on_event: Callable[[LinkEvent], None] | None = None,
    ) -> None:
        self.config = config or ClientConfig()
        self.clock: Clock = clock or SystemClock()
        self.inbox = Inbox(self.config.bad_frames_a_second)
        self.events: deque[LinkEvent] = deque(maxlen=256)
        self.state, self.reason, self.epoch = LinkState.DOWN, "never connected", 0
        self.counters: Counter[str] = Counter()
        self.loopbacks: dict[str, Loopback] = {}
        self._on_event = on_event
        self._flavour: Flavour | None = None
        self._adverts: dict[str, tuple[str, bool]] = {}
        self._wishes: dict[str, Message] = {}
        self._ids = itertools.count(1)
        self._told: dict[str, int] = {}
        self._link: Link | None = None
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()

    @property
    def flavour(self) -> Flavour:
        """ROS version of the server; raises ``LinkDown`` before it is known."""
        if self._flavour is None:
            raise LinkDown(f"the server's flavour is not known: {self.reason}")
        return self._flavour

    def _control(self, frame: Message) -> None:
        if self._link is not None:
            self._link.out.control(encode_json(frame))
            self._link.wake()

    async def greet(self) -> None:
        """See ``link.Owner``."""
        self._flavour = self.inbox.flavour = await self._probe()

    async def _probe(self) -> Flavour:
        """Which ROS answers ``/rosapi/get_time``; the configuration decides where nobody answers."""
        wanted = self.config.flavour
        name = f"probe:{next(self._ids)}"
        future = self.inbox.expect(name)
        self._control({"op": "call_service", "id": name, "service": "/rosapi/get_time", "args": {}})
        try:
            values = await asyncio.wait_for(asyncio.wrap_future(future), self.config.service_timeout)
            stamp = values["time"]
            found: Flavour = "ros1" if "secs" in stamp else "ros2"
            stamp["secs" if found == "ros1" else "sec"]
        except (TimeoutError, ServiceFailed, KeyError, TypeError):
            if wanted == "auto":
                raise LinkDown("the server does not answer /rosapi/get_time: set flavour to ros1 or ros2") from None
            return wanted
        finally:
            self.inbox.forget(name)
        if wanted not in ("auto", found):
            raise LinkDown(f"the server speaks {found}, but flavour is set to {wanted}")
        return found

    def link_up(self) -> None:
        """See ``link.Owner``."""
        for loopback in list(self.loopbacks.values()):
            loopback.reset()
        with self._changed:
            self.epoch += 1
            self.inbox.epoch = self.epoch
            for topic in list(self._adverts):
                self._control(self._advert(topic))
            for wish in list(self._wishes.values()):
                self._control(wish | {"type": spelled(wish["type"], self.flavour)})
            self.state, self.reason = LinkState.UP, ""
            self._changed.notify_all()
        self._tell("up", f"{self.flavour} server, epoch {self.epoch}")

    def link_down(self, why: str) -> None:
        """See ``link.Owner``."""
        with self._changed:
            was_up = self.state is LinkState.UP
            self.state, self.reason = LinkState.DOWN, why
            self._changed.notify_all()
        self.counters["lost" if was_up else "failed_attempts"] += 1
        if was_up:
            self._tell("down", why)

    def look(self, now: float) -> str | None:
        """See ``link.Owner``."""
        if self.inbox.bad_burst(now):
            self._tell_once("bad_frames", f"unreadable frames: {self.inbox.last_error}")
        for topic, loopback in list(self.loopbacks.items()):  # other threads add to it
            age = loopback.age(now)
            if age > self.config.loopback_hard:
                return f"commands on {topic} do not arrive: the oldest is unconfirmed for {age:.2f} s"
            if age > self.config.loopback_soft:
                self._tell_once("loopback_slow", f"a command on {topic} is unconfirmed for {age:.2f} s")
            if loopback.foreign:
                self._tell_once("foreign_command", f"somebody else publishes on {topic}")
        return None

    def _advert(self, topic: str) -> Message:
        type_name, latch = self._adverts[topic]
        frame: Message = {"op": "advertise", "id": f"advertise:{topic}", "topic": topic}
        return frame | {"type": spelled(type_name, self.flavour), "latch": latch, "queue_size": 1}

    def _tell_once(self, kind: str, reason: str) -> None:
        # Once a connection: the driver latches it anyway.
        if self._told.get(kind) != self.epoch:
            self._told[kind] = self.epoch
            self._tell(kind, reason)

    def _tell(self, kind: str, reason: str) -> None:
        event = LinkEvent(kind, reason, self.clock.now(), self.epoch)
        self.events.append(event)
        LOG.info("bridge: %s: %s", kind, reason)
        if self._on_event is not None:
            try:
                self._on_event(event)
            except Exception:
                LOG.exception("the event handler raised")
