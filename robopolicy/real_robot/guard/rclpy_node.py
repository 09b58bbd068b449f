"""The guard as a ROS 2 node: rclpy, common messages, and franka_msgs where the pose is read from FrankaRobotState."""

from __future__ import annotations

import signal
import time
from typing import Any

import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.clock import Clock, ClockType
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String

from robopolicy.real_robot.guard.checks import Pose
from robopolicy.real_robot.guard.config import GuardConfig
from robopolicy.real_robot.guard.lease import TOPIC_GUARD
from robopolicy.real_robot.guard.shell import STATUS_EVERY, STRANGERS_EVERY, TICK, Shell, Topics

NAME = "robopolicy_guard"
STOP_OUT = 0.05  # s for the stop target to leave this process
# Best effort hears reliable publishers too, and never asks for old messages again.
HEARING = QoSProfile(depth=8, reliability=ReliabilityPolicy.BEST_EFFORT)


class RclpyGuard:
    """One node in one thread."""

    def __init__(self, config: GuardConfig, topics: Topics) -> None:
        self.node = node = rclpy.create_node(NAME)
        self._topics, self._frame = topics, config.frame_id
        self._out = node.create_publisher(PoseStamped, topics.controller, 1)
        self._status = node.create_publisher(String, TOPIC_GUARD, 1)
        self.shell = Shell(config, self._publish, time.monotonic, self._ros_now, node.get_logger().warning)
        kind, heard = _measured(topics.measured_type, self.shell)
        node.create_subscription(kind, topics.measured, heard, qos_profile_sensor_data)
        node.create_subscription(String, topics.lease, lambda m: self.shell.lease(m.data), HEARING)
        node.create_subscription(PoseStamped, topics.target, self._target, HEARING)
        # A node's own timers go by the time of day: set back by an hour, they would not come for an hour.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        node.create_timer(TICK, self.shell.tick, clock=steady)
        node.create_timer(STATUS_EVERY, lambda: self._status.publish(String(data=self.shell.status())), clock=steady)
        node.create_timer(STRANGERS_EVERY, self._look_round, clock=steady)

    def _ros_now(self) -> float:
        return float(self.node.get_clock().now().nanoseconds) * 1e-9

    def _look_round(self) -> None:
        infos = self.node.get_publishers_info_by_topic(self._topics.controller)
        names = [f"{i.node_namespace.rstrip('/')}/{i.node_name}" for i in infos]
        own = f"{self.node.get_namespace().rstrip('/')}/{NAME}"
        if own in names:
            names.remove(own)  # one of ours; a second guard is a stranger
        self.shell.strangers(names)

    def _target(self, m: Any) -> None:
        p, q, stamp = m.pose.position, m.pose.orientation, m.header.stamp
        self.shell.target((stamp.sec, stamp.nanosec), m.header.frame_id, (p.x, p.y, p.z), (q.x, q.y, q.z, q.w))

    def _publish(self, pose: Pose) -> None:
        m = PoseStamped()
        m.header.stamp, m.header.frame_id = self.node.get_clock().now().to_msg(), self._frame
        p, q = m.pose.position, m.pose.orientation
        p.x, p.y, p.z = pose.position
        q.x, q.y, q.z, q.w = pose.quaternion
        self._out.publish(m)


def _measured(kind: str, shell: Shell) -> tuple[Any, Any]:
    def heard(header: Any, pose: Any) -> None:
        p, q = pose.position, pose.orientation
        shell.measured((header.stamp.sec, header.stamp.nanosec), (p.x, p.y, p.z), (q.x, q.y, q.z, q.w))

    if kind == "pose":
        return PoseStamped, lambda m: heard(m.header, m.pose)
    from franka_msgs.msg import FrankaRobotState

    return FrankaRobotState, lambda m: heard(m.header, m.o_t_ee.pose)


def run(config: GuardConfig, topics: Topics) -> int:
    """Until SIGINT or SIGTERM; the arm is stopped before the node goes."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # theirs end the graph before we could publish
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    guard = RclpyGuard(config, topics)
    guard.node.get_logger().info(f"guard: {topics.target} -> {topics.controller}, measured {topics.measured}")
    try:
        rclpy.spin(guard.node)
    except KeyboardInterrupt:
        pass
    finally:
        guard.shell.close()
        time.sleep(STOP_OUT)
        guard.node.destroy_node()
        rclpy.try_shutdown()
    return 0
