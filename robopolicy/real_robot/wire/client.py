"""``RosbridgeClient``: a synchronous face for a control loop, an event loop in a thread of its own behind it.

Why not an existing client: roslibpy queues what is published while it is disconnected and delivers all of it at once on
reconnect (225 setpoints, up to 11 s old, were measured), never notices a frozen server and reads no binary frames.
Here ``publish`` sends now or not at all, a lost link is found by pings and by hearing our own commands back, and after
a reconnect the ``epoch`` has changed, so that whoever commanded before must decide anew.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from robopolicy.core.errors import FrameRefused, LinkDown, ServiceFailed
from robopolicy.real_robot.wire.client_core import ClientCore, LinkEvent, LinkState
from robopolicy.real_robot.wire.codec import encode_json
from robopolicy.real_robot.wire.link import Link
from robopolicy.real_robot.wire.loopback import Loopback
from robopolicy.real_robot.wire.messages import Message, conform, seconds_of, stamp_key
from robopolicy.real_robot.wire.protocol import CLIENT_OUTBOUND_LIMIT
from robopolicy.real_robot.wire.schema import lookup, plain_name, service_types, spelled
from robopolicy.real_robot.wire.slot import Sample, Slot

__all__ = ["LinkEvent", "LinkState", "RosbridgeClient"]


class RosbridgeClient(ClientCore):
    """Talks to rosbridge or to this project's gateway.  All methods may be called from any thread but the client's own.

    ``on_event`` is called in the client's thread with every ``LinkEvent``; the last 256 are kept in ``events``.
    """

    # --- life -----------------------------------------------------------------------------------------------

    def connect(self, timeout: float = 5.0, retry: bool = False) -> RosbridgeClient:
        """Connect and return when the link is up; raises ``LinkDown`` saying why not.

        With ``retry`` failed attempts are repeated until ``timeout`` seconds have passed.
        """
        if self._thread is not None:
            raise LinkDown("connect was called before: make a new client")
        ready = threading.Event()

        async def main() -> None:
            self._link = Link(self)
            ready.set()
            await self._link.run(retry)

        self._thread = threading.Thread(target=lambda: asyncio.run(main()), name="rosbridge-client", daemon=True)
        self._thread.start()
        ready.wait()
        with self._changed:
            self._changed.wait_for(
                lambda: self.state is LinkState.UP or (not retry and self.counters["failed_attempts"] > 0), timeout
            )
        if self.state is not LinkState.UP:
            why = self.reason
            self.close()
            raise LinkDown(why)
        return self

    def close(self) -> None:
        """Disconnect for good; the thread has ended when this returns."""
        if self._link is not None:
            self._link.close()
        if self._thread is not None:
            self._thread.join(5)
        self.state = LinkState.CLOSED

    def __enter__(self) -> RosbridgeClient:
        return self if self._thread is not None else self.connect()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def wait_up(self, timeout: float, after_epoch: int = 0) -> bool:
        """Wait until the link is up with an epoch above ``after_epoch``."""
        with self._changed:
            return self._changed.wait_for(lambda: self.state is LinkState.UP and self.epoch > after_epoch, timeout)

    def wait_down(self, timeout: float) -> bool:
        """Wait until the link is not up."""
        with self._changed:
            return self._changed.wait_for(lambda: self.state is not LinkState.UP, timeout)

    def drop_link(self, why: str) -> None:
        """Cut the connection on suspicion; the client reconnects by itself, the driver must arm again."""
        if self._link is not None:
            self._link.drop(why)

    @property
    def rtt(self) -> float | None:
        """Seconds that the last ping took."""
        return self._link.rtt if self._link else None

    @property
    def sent(self) -> int:
        """Messages handed to the socket."""
        return self._link.out.sent if self._link else 0

    @property
    def discarded(self) -> int:
        """Messages that a newer one replaced, or whose deadline passed before the socket took them."""
        return self._link.out.expired + self._link.out.replaced if self._link else 0

    def flush(self, timeout: float) -> bool:
        """Wait until the socket was given everything that was handed over; false if it was not by then."""
        end = time.monotonic() + timeout
        while self._link is not None and not self._link.out.empty:
            if time.monotonic() > end:
                return False
            time.sleep(0.001)
        return True

    # --- topics ---------------------------------------------------------------------------------------------

    def advertise(self, topic: str, type_name: str, latch: bool = False) -> None:
        """Announce that we publish; repeated by itself after a reconnect."""
        lookup(type_name, self._flavour or "ros1")
        with self._changed:
            self._adverts[topic] = (type_name, latch)
            if self.state is LinkState.UP:
                self._control(self._advert(topic))

    def unadvertise(self, topic: str) -> None:
        """Take it back."""
        if self._adverts.pop(topic, None) is not None and self.state is LinkState.UP:
            self._control({"op": "unadvertise", "id": f"advertise:{topic}", "topic": topic})

    def publish(self, topic: str, message: Message, *, epoch: int | None = None, drop: bool = False) -> bool:
        """Send a message now or never; true if it was handed to the link.

        Raises ``InvalidMessage`` (not complete, not finite), ``FrameRefused`` (over 1 MiB), and ``LinkDown`` when the
        link is not up or is not the one of ``epoch`` any more; with ``drop`` the latter is counted instead.
        """
        if topic not in self._adverts:
            raise FrameRefused(f"publish on {topic}: advertise it first")
        # Taken before anything is checked: however long this thread is held up below, the message does not get older
        # than its deadline, which is shorter than any reconnection.
        link, now = self._link, self.clock.now()
        if link is None or self.state is not LinkState.UP or epoch not in (None, self.epoch):
            self.counters["dropped"] += 1
            if drop:
                return False
            up = self.state is LinkState.UP
            raise LinkDown(f"the link was renewed (epoch {self.epoch}, not {epoch})" if up else self.reason)
        checked = conform(self._adverts[topic][0], message, self.flavour)
        text = encode_json({"op": "publish", "topic": topic, "msg": checked})
        if len(text) > CLIENT_OUTBOUND_LIMIT:
            raise FrameRefused(f"publish on {topic}: {len(text)} bytes, the limit is {CLIENT_OUTBOUND_LIMIT}")
        if (loopback := self.loopbacks.get(topic)) is not None and (key := stamp_key(checked)) is not None:
            loopback.sent(key, now)
        link.out.message(topic, text, now + self.config.send_deadline)
        link.wake()
        return True

    def subscribe(
        self,
        topic: str,
        type_name: str,
        *,
        binary: bool = False,
        throttle_ms: int = 0,
        ordered: bool = True,
        on_sample: Callable[[Sample], None] | None = None,
    ) -> Slot:
        """Hear a topic; repeated by itself after a reconnect.

        ``binary`` asks for CBOR (images only: rosbridge cannot encode every state message that way).  ``on_sample``
        runs in the client's thread and must be quick.  ``ordered`` drops what is not newer by its stamp.
        """
        lookup(type_name, self._flavour or "ros1")
        slot = Slot(topic, type_name, ordered)
        slot.on_sample = on_sample
        wish: Message = {"op": "subscribe", "id": f"subscribe:{topic}", "topic": topic, "type": type_name}
        wish |= {"queue_length": 1 if ordered else 64, "throttle_rate": throttle_ms}
        if binary:
            wish["compression"] = "cbor"
        with self._changed:
            self.inbox.slots[topic] = slot
            self._wishes[topic] = wish
            if self.state is LinkState.UP:
                self._control(wish | {"type": spelled(type_name, self.flavour)})
        return slot

    def unsubscribe(self, topic: str) -> None:
        """The end of ``subscribe``."""
        self.inbox.slots.pop(topic, None)
        if self._wishes.pop(topic, None) is not None and self.state is LinkState.UP:
            self._control({"op": "unsubscribe", "id": f"subscribe:{topic}", "topic": topic})

    def watch_loopback(self, topic: str, type_name: str) -> Loopback:
        """Hear our own commands back: the link is dropped when they stop arriving, and strangers' are counted."""
        loopback = self.loopbacks[topic] = Loopback()

        def seen(sample: Sample) -> None:
            loopback.seen(stamp_key(sample.message), sample.arrival)

        self.subscribe(topic, type_name, ordered=False, on_sample=seen)
        return loopback

    # --- services -------------------------------------------------------------------------------------------

    def call_service(
        self, service: str, type_name: str, request: Message | None = None, timeout: float | None = None
    ) -> Message:
        """Call and wait; raises ``LinkDown``, or ``ServiceFailed`` with the server's words or after ``timeout`` s."""
        asked, answered = service_types(type_name)
        args = conform(asked, request or {}, self.flavour)
        values = self.request(
            {"op": "call_service", "service": service, "type": spelled(type_name, self.flavour, "srv"), "args": args},
            self.config.service_timeout if timeout is None else timeout,
        )
        return conform(answered, values, self.flavour, extra=True)

    def request(self, frame: Message, timeout: float) -> Any:
        """Send a frame that has a reply and wait for that; raises as ``call_service`` does."""
        name = f"{frame['op']}:{next(self._ids)}"
        future = self.begin(name, frame)
        try:
            return future.result(timeout)
        except FutureTimeout:
            raise ServiceFailed(f"{frame.get('service')}: no answer within {timeout} s") from None
        finally:
            self.inbox.forget(name)

    def begin(self, name: str, frame: Message, feedback: Callable[[Any], None] | None = None) -> Future[Any]:
        """Send a frame whose reply carries the id ``name``; the future gets that, or ``LinkDown``."""
        if self.state is not LinkState.UP:
            raise LinkDown(self.reason)
        future = self.inbox.expect(name, feedback)
        self._control({**frame, "id": name})
        return future

    def tell(self, frame: Message) -> None:
        """Send a frame that has no reply; raises ``LinkDown``."""
        if self.state is not LinkState.UP:
            raise LinkDown(self.reason)
        self._control(frame)

    # --- the graph ------------------------------------------------------------------------------------------

    def publishers(self, topic: str) -> list[str]:
        """Nodes that publish on a topic."""
        found: list[str] = self.call_service("/rosapi/publishers", "rosapi/Publishers", {"topic": topic})["publishers"]
        return found

    def subscribers(self, topic: str) -> list[str]:
        """Nodes that hear a topic."""
        answer = self.call_service("/rosapi/subscribers", "rosapi/Subscribers", {"topic": topic})
        found: list[str] = answer["subscribers"]
        return found

    def topic_type(self, topic: str) -> str:
        """What a topic carries (two-part name), empty if nobody has said."""
        answer = self.call_service("/rosapi/topic_type", "rosapi/TopicType", {"topic": topic})
        return plain_name(answer["type"])

    def server_time(self) -> tuple[float, float, float]:
        """One clock probe: ``(sent, server, received)``; sent and received monotonic, server ROS time, seconds."""
        sent = self.clock.now()
        answer = self.call_service("/rosapi/get_time", "rosapi/GetTime")
        return sent, seconds_of(answer["time"]), self.clock.now()

    def topic_problems(self, topic: str, type_name: str, own: tuple[str, ...] = (), writing: bool = False) -> list[str]:
        """Why a command topic is not ready for us; empty when it is.

        Exactly one node must hear it, as the right type, and nobody else may publish.  ``own``: names of this client on
        the graph, which hear their own commands back; with ``writing`` they publish as well.  A bridge keeps the
        publishers of a lost client for about 10 s, so ask again for 12 s before giving up.
        """
        problems = []
        carried = self.topic_type(topic)
        if carried and carried != plain_name(type_name):
            problems.append(f"{topic} carries {carried}, not {plain_name(type_name)}")
        listeners = set(self.subscribers(topic)) - set(own)
        if not listeners:
            problems.append(f"nobody subscribes to {topic}: is the controller running?")
        elif len(listeners) > 1:
            problems.append(f"{len(listeners)} nodes hear {topic}: {', '.join(sorted(listeners))}; one controller may")
        others = sorted(set(self.publishers(topic)) - set(own if writing else ()))
        if others:
            problems.append(f"{', '.join(others)} already publishes on {topic}")
        return problems
