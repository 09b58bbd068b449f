"""What stands behind the gateway: the in-process bus, or a real ROS graph with the same few verbs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from robopolicy.core.errors import ConfigError, ServiceFailed, did_you_mean
from robopolicy.real_robot.wire.actions import ROS2_STATUS, Goal
from robopolicy.real_robot.wire.bus import Bus
from robopolicy.real_robot.wire.messages import Message
from robopolicy.real_robot.wire.schema import Flavour, action_name

BackendName = Literal["bus", "rospy", "rclpy"]
# values, status of action_msgs/GoalStatus, whether it succeeded
OnEnd = Callable[[Message, int, bool], None]


class Backend(Protocol):
    """A graph of topics, services and actions; messages are plain dicts in the graph's ``flavour``.

    Everything but ``call`` returns at once; all of it may be called from any thread.
    """

    flavour: Flavour

    def now(self) -> float:
        """ROS time, seconds."""
        ...

    def advertise(self, topic: str, type_name: str, owner: str, latch: bool) -> None:
        """Announce a publisher; raises ``BridgeError``."""
        ...

    def unadvertise(self, topic: str, owner: str) -> None:
        """Take it back."""
        ...

    def publish(self, topic: str, message: Message, owner: str) -> None:
        """Publish a message that the gateway has checked."""
        ...

    def subscribe(
        self, topic: str, type_name: str, callback: Callable[[Message], None], owner: str
    ) -> Callable[[], None]:
        """Hear a topic; returns the function that ends it."""
        ...

    def call(self, service: str, type_name: str | None, request: Message) -> Message:
        """Call a service and wait; raises ``ServiceFailed``."""
        ...

    def send_goal(
        self,
        action: str,
        type_name: str,
        goal_id: str,
        goal: Message,
        on_feedback: Callable[[Message], None],
        on_end: OnEnd,
    ) -> None:
        """Start a goal (ROS 2); raises ``ServiceFailed`` if the action is not there."""
        ...

    def cancel_goal(self, action: str, goal_id: str) -> None:
        """Ask for its end."""
        ...

    def topics(self) -> dict[str, str]:
        """Topic -> type, two-part names."""
        ...

    def publishers(self, topic: str) -> list[str]:
        """Nodes that publish on a topic."""
        ...

    def subscribers(self, topic: str) -> list[str]:
        """Nodes that hear a topic."""
        ...

    def services(self) -> dict[str, str]:
        """Service -> type, two-part names; the type may be empty where asking for it is slow."""
        ...

    def service_type(self, service: str) -> str:
        """Type of one service, empty if there is none."""
        ...

    def nodes(self) -> list[str]:
        """All nodes."""
        ...

    def close(self) -> None:
        """Leave the graph."""
        ...


class BusBackend:
    """The gateway on an in-process bus."""

    def __init__(self, bus: Bus) -> None:
        self.bus, self.flavour = bus, bus.flavour

    def now(self) -> float:
        """The bus's own time of day."""
        return self.bus.clock.wall()

    def advertise(self, topic: str, type_name: str, owner: str, latch: bool) -> None:
        """See ``Backend``."""
        self.bus.advertise(topic, type_name, owner, latch)

    def unadvertise(self, topic: str, owner: str) -> None:
        """See ``Backend``."""
        self.bus.unadvertise(topic, owner)

    def publish(self, topic: str, message: Message, owner: str) -> None:
        """See ``Backend``; the bus does not check a second time, so that quirks can bring NaN to the twin."""
        self.bus.deliver(topic, message, owner)

    def subscribe(
        self, topic: str, type_name: str, callback: Callable[[Message], None], owner: str
    ) -> Callable[[], None]:
        """See ``Backend``."""
        return self.bus.subscribe(topic, type_name, callback, owner)

    def call(self, service: str, type_name: str | None, request: Message) -> Message:
        """See ``Backend``."""
        return self.bus.call(service, request)

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
        server = self.bus.actions.get(action)
        if server is None:
            raise ServiceFailed(f"there is no action {action}" + did_you_mean(action, self.bus.actions))
        if server.type != action_name(type_name):
            raise ServiceFailed(f"{action} is a {server.type}, not a {type_name}")

        def end(done: Goal, result: Message) -> None:
            on_end(result, ROS2_STATUS[done.state], ROS2_STATUS[done.state] == 4)

        server.submit(goal_id, goal, on_feedback, end)

    def cancel_goal(self, action: str, goal_id: str) -> None:
        """See ``Backend``."""
        if action in self.bus.actions:
            self.bus.actions[action].cancel(goal_id)

    def topics(self) -> dict[str, str]:
        """See ``Backend``."""
        return self.bus.topics()

    def publishers(self, topic: str) -> list[str]:
        """See ``Backend``."""
        return self.bus.publishers(topic)

    def subscribers(self, topic: str) -> list[str]:
        """See ``Backend``."""
        return self.bus.subscribers(topic)

    def services(self) -> dict[str, str]:
        """See ``Backend``."""
        return self.bus.services()

    def service_type(self, service: str) -> str:
        """See ``Backend``."""
        return self.bus.services().get(service, "")

    def nodes(self) -> list[str]:
        """See ``Backend``."""
        return self.bus.nodes()

    def close(self) -> None:
        """Nothing to leave."""


def make_backend(name: BackendName, bus: Bus | None = None, node: str = "robopolicy_gateway") -> Backend:
    """The back end of that name, as ``node`` on a ROS graph.

    Raises ``ConfigError`` with the way to get ROS where it is not installed.
    """
    if name == "bus":
        return BusBackend(bus or Bus())
    if name == "rospy":
        from robopolicy.real_robot.wire.backend_rospy import RospyBackend

        return RospyBackend(node)
    if name == "rclpy":
        from robopolicy.real_robot.wire.backend_rclpy import RclpyBackend

        return RclpyBackend(node)
    raise ConfigError(f"unknown back end '{name}'" + did_you_mean(name, ("bus", "rospy", "rclpy")))
