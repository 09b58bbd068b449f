"""The guard on the in-process bus: before the twin, with the topics, types and stamps of the robot.

node = BusGuard(bus, twin.config.interface())
twin.schedule.every("guard", 1 / TICK, node.tick)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from robopolicy.real_robot.guard.checks import Pose
from robopolicy.real_robot.guard.config import GuardConfig
from robopolicy.real_robot.guard.lease import TOPIC_GUARD
from robopolicy.real_robot.guard.options import usual_topics
from robopolicy.real_robot.guard.shell import STATUS_EVERY, STRANGERS_EVERY, Shell
from robopolicy.real_robot.interface import Interface
from robopolicy.real_robot.wire.bus import Bus
from robopolicy.real_robot.wire.messages import Message, header

NODE = "/robopolicy_guard"


class BusGuard:
    """Listens on ``/robopolicy/target_pose`` and ``/robopolicy/lease``, publishes on the controller's topic.

    Whoever owns the time calls ``tick`` every 10 ms.  ``log`` holds what changed, one line each.
    """

    def __init__(self, bus: Bus, names: Interface, config: GuardConfig | None = None) -> None:
        self.bus, self.topics = bus, usual_topics(names.ros, names.command)
        self.log: list[str] = []
        config = config or GuardConfig(frame_id=names.base_frame)
        self.shell = Shell(config, self._publish, bus.clock.now, bus.clock.wall, self.log.append)
        self._frame = config.frame_id
        self._due: dict[Callable[[], None], float] = {}
        bus.advertise(self.topics.controller, "geometry_msgs/PoseStamped", NODE)
        bus.advertise(TOPIC_GUARD, "std_msgs/String", NODE)
        self._ends = [
            bus.subscribe(self.topics.lease, "std_msgs/String", lambda m: self.shell.lease(m["data"]), NODE),
            bus.subscribe(self.topics.target, "geometry_msgs/PoseStamped", self._target, NODE),
            bus.subscribe(names.state, names.state_type, self._measured, NODE),
        ]

    def tick(self) -> None:
        """Look at the lease; now and then at who else publishes, and say how it goes."""
        self._every(STRANGERS_EVERY, self._look_round)
        self.shell.tick()
        self._every(STATUS_EVERY, self._tell)

    def close(self) -> None:
        """Stop the arm and leave the graph."""
        self.shell.close()
        for end in self._ends:
            end()
        for topic in (self.topics.controller, TOPIC_GUARD):
            self.bus.unadvertise(topic, NODE)

    def _every(self, period: float, action: Callable[[], None]) -> None:
        now = self.bus.clock.now()
        if now >= self._due.get(action, now):
            self._due[action] = now + period
            action()

    def _look_round(self) -> None:
        self.shell.strangers([n for n in self.bus.publishers(self.topics.controller) if n != NODE])

    def _tell(self) -> None:
        self.bus.publish(TOPIC_GUARD, {"data": self.shell.status()}, NODE)

    def _target(self, message: Message) -> None:
        p, q = message["pose"]["position"], message["pose"]["orientation"]
        stamp, frame = _header(message)
        self.shell.target(stamp, frame, (p["x"], p["y"], p["z"]), (q["x"], q["y"], q["z"], q["w"]))

    def _measured(self, message: Message) -> None:
        if "O_T_EE" in message:
            self.shell.measured_matrix(_header(message)[0], message["O_T_EE"])
            return
        pose = message["o_t_ee"]["pose"]
        p, q = pose["position"], pose["orientation"]
        self.shell.measured(_header(message)[0], (p["x"], p["y"], p["z"]), (q["x"], q["y"], q["z"], q["w"]))

    def _publish(self, pose: Pose) -> None:
        (x, y, z), (a, b, c, d) = pose.position, pose.quaternion
        made = header(self.bus.clock.wall(), self._frame, self.bus.flavour)
        body = {"position": {"x": x, "y": y, "z": z}, "orientation": {"x": a, "y": b, "z": c, "w": d}}
        self.bus.publish(self.topics.controller, {"header": made, "pose": body}, NODE)


def _header(message: dict[str, Any]) -> tuple[tuple[int, int], str]:
    stamp = message["header"]["stamp"]
    return tuple(stamp.values())[:2], message["header"]["frame_id"]
