"""The gateway as a ROS 1 node (rospy).  Thin: types come from the field table, the graph from the master."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from robopolicy.core.errors import BridgeError, ConfigError, ServiceFailed
from robopolicy.real_robot.wire.backends import OnEnd
from robopolicy.real_robot.wire.messages import Message, conform
from robopolicy.real_robot.wire.ros_convert import fill_ros, read_ros, ros_class
from robopolicy.real_robot.wire.schema import Flavour, plain_name, ros1_checksum, service_types

try:
    import rosgraph
    import rospy
    import rosservice
except ImportError as e:
    raise ConfigError(
        f"the back end rospy needs ROS 1 ({e}): source its setup.bash, or on Debian 12 apt-get install python3-rospy "
        "python3-rosservice python3-sensor-msgs python3-geometry-msgs python3-std-srvs and use the system's python3"
    ) from None

SERVICE_WAIT = 1.0  # s for a service to be found


class RospyBackend:
    """See ``Backend``.  rospy runs a thread for every connection; every client shares one node."""

    flavour: Flavour = "ros1"

    def __init__(self, node: str) -> None:
        if not rosgraph.is_master_online():
            raise ConfigError("no ROS master answers: start roscore, or set ROS_MASTER_URI and ROS_IP")
        rospy.init_node(node, anonymous=True, disable_signals=True)
        self._master = rosgraph.Master(rospy.get_name())
        self._publishers: dict[str, tuple[Any, str, set[str]]] = {}
        self._lock = threading.RLock()

    def close(self) -> None:
        """Leave the graph."""
        rospy.signal_shutdown("the gateway ends")

    def now(self) -> float:
        """ROS time, seconds."""
        return float(rospy.get_time())

    def _class(self, type_name: str) -> Any:
        found = ros_class(type_name)
        if found._md5sum != ros1_checksum(type_name):
            raise BridgeError(f"{type_name} differs from this program's field table (checksum {found._md5sum})")
        return found

    def advertise(self, topic: str, type_name: str, owner: str, latch: bool) -> None:
        """See ``Backend``."""
        with self._lock:
            if topic not in self._publishers:
                known = self.topics().get(topic, type_name)
                if known not in (type_name, "*"):
                    raise BridgeError(f"{topic} carries {known}, not {type_name}: one topic has one type")
                publisher = rospy.Publisher(topic, self._class(type_name), queue_size=1, latch=latch, tcp_nodelay=True)
                self._publishers[topic] = (publisher, type_name, set())
            self._publishers[topic][2].add(owner)

    def unadvertise(self, topic: str, owner: str) -> None:
        """See ``Backend``."""
        with self._lock:
            publisher, _, owners = self._publishers[topic]
            owners.discard(owner)
            if not owners:
                del self._publishers[topic]
                publisher.unregister()

    def publish(self, topic: str, message: Message, owner: str) -> None:
        """See ``Backend``."""
        with self._lock:
            publisher, type_name, _ = self._publishers[topic]
        publisher.publish(fill_ros(ros_class(type_name)(), type_name, message, "ros1"))

    def subscribe(
        self, topic: str, type_name: str, callback: Callable[[Message], None], owner: str
    ) -> Callable[[], None]:
        """See ``Backend``."""
        known = self.topics().get(topic, type_name)
        if known not in (type_name, "*"):
            raise BridgeError(f"{topic} carries {known}, not {type_name}: one topic has one type")
        subscriber = rospy.Subscriber(
            topic,
            self._class(type_name),
            lambda ros: callback(read_ros(ros, type_name, "ros1")),
            queue_size=1,
            buff_size=1 << 22,
            tcp_nodelay=True,
        )
        end: Callable[[], None] = subscriber.unregister
        return end

    def call(self, service: str, type_name: str | None, request: Message) -> Message:
        """See ``Backend``."""
        name = plain_name(type_name) if type_name else self.service_type(service)
        if not name:
            raise ServiceFailed(f"there is no service {service}")
        asked, answered = service_types(name)
        kind = ros_class(name, "srv")
        try:
            rospy.wait_for_service(service, SERVICE_WAIT)
            proxy = rospy.ServiceProxy(service, kind)
            answer = proxy(fill_ros(kind._request_class(), asked, conform(asked, request, "ros1"), "ros1"))
        except (rospy.ROSException, rospy.ServiceException) as e:
            raise ServiceFailed(f"{service}: {e}") from None
        return read_ros(answer, answered, "ros1")

    def send_goal(
        self,
        action: str,
        type_name: str,
        goal_id: str,
        goal: Message,
        on_feedback: Callable[[Message], None],
        on_end: OnEnd,
    ) -> None:
        """Not in ROS 1, where actions are topics."""
        raise ServiceFailed(f"actions of ROS 1 are topics: publish on {action}/goal")

    def cancel_goal(self, action: str, goal_id: str) -> None:
        """Not in ROS 1, where actions are topics."""

    def topics(self) -> dict[str, str]:
        """See ``Backend``."""
        return dict(sorted(self._master.getTopicTypes()))

    def _state(self, part: int, name: str) -> list[str]:
        return next((list(nodes) for found, nodes in self._master.getSystemState()[part] if found == name), [])

    def publishers(self, topic: str) -> list[str]:
        """See ``Backend``."""
        return self._state(0, topic)

    def subscribers(self, topic: str) -> list[str]:
        """See ``Backend``."""
        return self._state(1, topic)

    def services(self) -> dict[str, str]:
        """See ``Backend``; the master does not know the types."""
        return {name: "" for name, _ in sorted(self._master.getSystemState()[2])}

    def service_type(self, service: str) -> str:
        """See ``Backend``."""
        return rosservice.get_service_type(service) or ""

    def nodes(self) -> list[str]:
        """See ``Backend``."""
        return sorted({n for part in self._master.getSystemState() for _, nodes in part for n in nodes})
