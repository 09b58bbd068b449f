"""The gateway as a ROS 2 node (rclpy).  Types come from the field table, quality of service from the publishers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from robopolicy.core.errors import BridgeError, ConfigError, ServiceFailed
from robopolicy.real_robot.wire.backends import OnEnd
from robopolicy.real_robot.wire.messages import Message, conform
from robopolicy.real_robot.wire.ros_convert import fill_ros, read_ros, ros_class
from robopolicy.real_robot.wire.schema import Flavour, action_name, plain_name, service_types

try:
    import rclpy
    import rclpy.action
    import rclpy.executors
    import rclpy.qos
except ImportError as e:
    raise ConfigError(
        f"the back end rclpy needs ROS 2 ({e}): source its setup.bash, or on x86-64 Linux "
        'pip install "ros-rclpy[fastrtps]" ros-std-msgs ros-sensor-msgs ros-geometry-msgs ros-std-srvs'
    ) from None

SERVICE_WAIT = 2.0  # s for a service to be found
CALL_WAIT = 5.0  # s for its answer


class RclpyBackend:
    """See ``Backend``.  Every client shares one node; its callbacks run on two executor threads."""

    flavour: Flavour = "ros2"

    def __init__(self, node: str) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node(node, context=self._context)
        self._executor = rclpy.executors.MultiThreadedExecutor(2, context=self._context)
        self._executor.add_node(self._node)
        self._publishers: dict[str, tuple[Any, str, set[str]]] = {}
        self._clients: dict[str, tuple[Any, str]] = {}
        self._actions: dict[str, tuple[Any, str]] = {}
        self._goals: dict[tuple[str, str], Any] = {}
        self._lock = threading.RLock()
        self._thread = threading.Thread(target=self._executor.spin, name="rclpy", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown(timeout_sec=1.0)
        self._thread.join(2.0)
        self._node.destroy_node()
        self._context.try_shutdown()

    def now(self) -> float:
        """ROS time, seconds."""
        return float(self._node.get_clock().now().nanoseconds) * 1e-9

    def advertise(self, topic: str, type_name: str, owner: str, latch: bool) -> None:
        """See ``Backend``."""
        with self._lock:
            if topic not in self._publishers:
                durability = rclpy.qos.DurabilityPolicy
                qos = rclpy.qos.QoSProfile(
                    depth=1, durability=durability.TRANSIENT_LOCAL if latch else durability.VOLATILE
                )
                publisher = self._node.create_publisher(ros_class(type_name), topic, qos)
                self._publishers[topic] = (publisher, type_name, set())
            known = self._publishers[topic][1]
            if known != type_name:
                raise BridgeError(f"{topic} carries {known}, not {type_name}: one topic has one type")
            self._publishers[topic][2].add(owner)

    def unadvertise(self, topic: str, owner: str) -> None:
        """See ``Backend``."""
        with self._lock:
            publisher, _, owners = self._publishers[topic]
            owners.discard(owner)
            if not owners:
                del self._publishers[topic]
                self._node.destroy_publisher(publisher)

    def publish(self, topic: str, message: Message, owner: str) -> None:
        """See ``Backend``."""
        with self._lock:
            publisher, type_name, _ = self._publishers[topic]
        publisher.publish(fill_ros(ros_class(type_name)(), type_name, message, "ros2"))

    def subscribe(
        self, topic: str, type_name: str, callback: Callable[[Message], None], owner: str
    ) -> Callable[[], None]:
        """See ``Backend``; asks for no more reliability than every publisher offers, else nothing would come."""
        offers = [info.qos_profile for info in self._node.get_publishers_info_by_topic(topic)]
        reliable = bool(offers) and all(q.reliability == rclpy.qos.ReliabilityPolicy.RELIABLE for q in offers)
        kept = bool(offers) and all(q.durability == rclpy.qos.DurabilityPolicy.TRANSIENT_LOCAL for q in offers)
        qos = rclpy.qos.QoSProfile(
            depth=1,
            reliability=rclpy.qos.ReliabilityPolicy.RELIABLE if reliable else rclpy.qos.ReliabilityPolicy.BEST_EFFORT,
            durability=rclpy.qos.DurabilityPolicy.TRANSIENT_LOCAL if kept else rclpy.qos.DurabilityPolicy.VOLATILE,
        )
        subscription = self._node.create_subscription(
            ros_class(type_name), topic, lambda ros: callback(read_ros(ros, type_name, "ros2")), qos
        )
        return lambda: self._node.destroy_subscription(subscription)

    def call(self, service: str, type_name: str | None, request: Message) -> Message:
        """See ``Backend``."""
        name = plain_name(type_name) if type_name else self.service_type(service)
        if not name:
            raise ServiceFailed(f"there is no service {service}")
        asked, answered = service_types(name)
        kind = ros_class(name, "srv")
        with self._lock:
            if service not in self._clients:
                self._clients[service] = (self._node.create_client(kind, service), name)
            client = self._clients[service][0]
        if not client.wait_for_service(SERVICE_WAIT):
            raise ServiceFailed(f"there is no service {service}")
        done = threading.Event()
        future = client.call_async(fill_ros(kind.Request(), asked, conform(asked, request, "ros2"), "ros2"))
        future.add_done_callback(lambda f: done.set())
        if not done.wait(CALL_WAIT):
            raise ServiceFailed(f"{service}: no answer within {CALL_WAIT:g} s")
        return read_ros(future.result(), answered, "ros2")

    def send_goal(
        self,
        action: str,
        type_name: str,
        goal_id: str,
        goal: Message,
        on_feedback: Callable[[Message], None],
        on_end: OnEnd,
    ) -> None:
        """See ``Backend``."""
        name = action_name(type_name)
        kind = ros_class(name, "action")
        values = conform(f"{name}Goal", goal, "ros2")
        with self._lock:
            if action not in self._actions:
                self._actions[action] = (rclpy.action.ActionClient(self._node, kind, action), name)
            client = self._actions[action][0]
        if not client.wait_for_server(SERVICE_WAIT):
            raise ServiceFailed(f"there is no action {action}")

        def fed(ros: Any) -> None:
            on_feedback(read_ros(ros.feedback, f"{name}Feedback", "ros2"))

        def accepted(future: Any) -> None:
            handle = future.result()
            if not handle.accepted:
                on_end({}, 6, False)
                return
            self._goals[(action, goal_id)] = handle
            handle.get_result_async().add_done_callback(ended)

        def ended(future: Any) -> None:
            self._goals.pop((action, goal_id), None)
            answer = future.result()
            on_end(read_ros(answer.result, f"{name}Result", "ros2"), int(answer.status), int(answer.status) == 4)

        sending = client.send_goal_async(fill_ros(kind.Goal(), f"{name}Goal", values, "ros2"), feedback_callback=fed)
        sending.add_done_callback(accepted)

    def cancel_goal(self, action: str, goal_id: str) -> None:
        """See ``Backend``."""
        handle = self._goals.get((action, goal_id))
        if handle is not None:
            handle.cancel_goal_async()

    def topics(self) -> dict[str, str]:
        """See ``Backend``."""
        return {n: plain_name(t[0]) for n, t in sorted(self._node.get_topic_names_and_types()) if t}

    def publishers(self, topic: str) -> list[str]:
        """See ``Backend``."""
        return [_full_name(i) for i in self._node.get_publishers_info_by_topic(topic)]

    def subscribers(self, topic: str) -> list[str]:
        """See ``Backend``."""
        return [_full_name(i) for i in self._node.get_subscriptions_info_by_topic(topic)]

    def services(self) -> dict[str, str]:
        """See ``Backend``."""
        return {n: plain_name(t[0]) for n, t in sorted(self._node.get_service_names_and_types()) if t}

    def service_type(self, service: str) -> str:
        """See ``Backend``."""
        return self.services().get(service, "")

    def nodes(self) -> list[str]:
        """See ``Backend``."""
        return sorted(f"{ns.rstrip('/')}/{name}" for name, ns in self._node.get_node_names_and_namespaces())


def _full_name(info: Any) -> str:
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"
