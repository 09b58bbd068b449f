"""The guard as a ROS 1 node: rospy, common messages, and franka_msgs where the pose is read from FrankaState."""

from __future__ import annotations

import threading
import time
from typing import Any

import rosgraph
import rospy
from geometry_msgs.msg import PoseStamped
from std_msgs.msg import String

from robopolicy.real_robot.guard.checks import Pose
from robopolicy.real_robot.guard.config import GuardConfig
from robopolicy.real_robot.guard.lease import TOPIC_GUARD
from robopolicy.real_robot.guard.shell import STATUS_EVERY, STRANGERS_EVERY, TICK, Shell, Topics

STOP_OUT = 0.05  # s for the stop target to leave this process


class RospyGuard:
    """One node; callbacks come in rospy's threads, ticks in that of ``spin``, and the master is asked in a third: one
    that hangs, or is gone, must not keep the guard from seeing that a lease has ended."""

    def __init__(self, config: GuardConfig, topics: Topics) -> None:
        rospy.init_node("robopolicy_guard")
        self._topics, self._frame = topics, config.frame_id
        self._master = rosgraph.Master(rospy.get_name())
        self._out = rospy.Publisher(topics.controller, PoseStamped, queue_size=1, tcp_nodelay=True)
        self._status = rospy.Publisher(TOPIC_GUARD, String, queue_size=1)
        self._shell = Shell(config, self._publish, time.monotonic, rospy.get_time, rospy.logwarn)
        rospy.on_shutdown(self._close)
        kind, heard = _measured(topics.measured_type, self._shell)
        rospy.Subscriber(topics.measured, kind, heard, queue_size=1, tcp_nodelay=True)
        rospy.Subscriber(topics.lease, String, lambda m: self._shell.lease(m.data), queue_size=8, tcp_nodelay=True)
        rospy.Subscriber(topics.target, PoseStamped, self._target, queue_size=8, tcp_nodelay=True)

    def spin(self) -> None:
        """Until the node is ended."""
        threading.Thread(target=self._look_round, name="strangers", daemon=True).start()
        told = -1.0
        while not rospy.is_shutdown():
            now = time.monotonic()
            self._shell.tick()
            if now - told >= STATUS_EVERY:
                told = now
                self._status.publish(self._shell.status())
            time.sleep(TICK)

    def _close(self) -> None:
        self._shell.close()
        time.sleep(STOP_OUT)

    def _look_round(self) -> None:
        while not rospy.is_shutdown():
            try:
                publishers = self._master.getSystemState()[0]
                nodes = next((list(n) for topic, n in publishers if topic == self._topics.controller), [])
                self._shell.strangers([n for n in nodes if n != rospy.get_name()])
            except Exception as e:  # sockets and XML-RPC have their own, besides rosgraph's
                rospy.logwarn_throttle(10, f"guard: the master does not answer: {e}")
            time.sleep(STRANGERS_EVERY)

    def _target(self, m: Any) -> None:
        p, q, stamp = m.pose.position, m.pose.orientation, m.header.stamp
        self._shell.target((stamp.secs, stamp.nsecs), m.header.frame_id, (p.x, p.y, p.z), (q.x, q.y, q.z, q.w))

    def _publish(self, pose: Pose) -> None:
        m = PoseStamped()
        m.header.stamp, m.header.frame_id = rospy.Time.now(), self._frame
        p, q = m.pose.position, m.pose.orientation
        p.x, p.y, p.z = pose.position
        q.x, q.y, q.z, q.w = pose.quaternion
        self._out.publish(m)


def _measured(kind: str, shell: Shell) -> tuple[Any, Any]:
    if kind == "pose":

        def heard_pose(m: Any) -> None:
            p, q, stamp = m.pose.position, m.pose.orientation, m.header.stamp
            shell.measured((stamp.secs, stamp.nsecs), (p.x, p.y, p.z), (q.x, q.y, q.z, q.w))

        return PoseStamped, heard_pose
    from franka_msgs.msg import FrankaState

    def heard_state(m: Any) -> None:
        shell.measured_matrix((m.header.stamp.secs, m.header.stamp.nsecs), m.O_T_EE)

    return FrankaState, heard_state


def run(config: GuardConfig, topics: Topics) -> int:
    """Until the node is ended."""
    node = RospyGuard(config, topics)
    rospy.loginfo(f"guard: {topics.target} -> {topics.controller}, measured {topics.measured}")
    node.spin()
    return 0
