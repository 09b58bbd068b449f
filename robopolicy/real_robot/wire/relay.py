"""An in-process bus as a node on a real ROS graph: the twin, with rospy or rclpy instead of a gateway of its own.

What somebody on the bus publishes goes out; what is only heard there comes in.  ROS 1 actions are topics, and pass.
Not relayed: services, and actions of ROS 2.  A topic whose type this ROS installation does not have is left out, and
told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from robopolicy.core.errors import RobopolicyError
from robopolicy.real_robot.wire.backends import Backend
from robopolicy.real_robot.wire.bus import Bus
from robopolicy.real_robot.wire.messages import Message

LOG = logging.getLogger(__name__)
NODE = "/robopolicy_relay"


class Relay:
    """Relays what is on ``bus`` at this moment until ``close``; ``left_out`` are topics and why."""

    def __init__(self, bus: Bus, backend: Backend) -> None:
        self.bus, self.backend = bus, backend
        self.left_out: dict[str, str] = {}
        self._ends: list[Callable[[], None]] = []
        for topic, type_name in bus.topics().items():
            heard, said = bus.subscribers(topic), bus.publishers(topic)
            try:
                # Never both: a node hears itself, and one message would go round for ever.
                if said:
                    self._bring_out(topic, type_name)
                elif heard:
                    self._bring_in(topic, type_name)
            except RobopolicyError as e:
                self.left_out[topic] = str(e)
                LOG.warning("relay: without %s: %s", topic, e)

    def _bring_out(self, topic: str, type_name: str) -> None:
        self.backend.advertise(topic, type_name, NODE, False)

        def out(message: Message) -> None:
            self.backend.publish(topic, message, NODE)

        self._ends.append(self.bus.subscribe(topic, type_name, out, NODE))

    def _bring_in(self, topic: str, type_name: str) -> None:
        self.bus.advertise(topic, type_name, NODE)

        def come(message: Message) -> None:
            self.bus.deliver(topic, message, NODE)

        self._ends.append(self.backend.subscribe(topic, type_name, come, NODE))

    def close(self) -> None:
        """Relay no longer; the back end stays open."""
        for end in self._ends:
            end()
        self._ends.clear()
