"""The ROS 2 shell of the guard with a stand-in for rclpy, for what no healthy graph shows."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace

from robopolicy.real_robot.guard.config import GuardConfig
from robopolicy.real_robot.guard.lease import Lease
from robopolicy.real_robot.guard.options import usual_topics
from robopolicy.real_robot.guard.shell import STATUS_EVERY, STRANGERS_EVERY, TICK

KINDS = ("PoseStamped", "String", "FrankaRobotState", "QoSProfile", "ReliabilityPolicy", "SignalHandlerOptions")


class Node:
    """What the guard uses of a node; timers are kept with the clock that they go by."""

    def __init__(self, name):
        self.timers = []

    def create_timer(self, period, action, callback_group=None, clock=None):
        self.timers.append((period, action, clock if clock is not None else "the time of day"))

    def create_publisher(self, kind, topic, depth):
        return SimpleNamespace(publish=lambda message: None)

    def create_subscription(self, *_):
        pass

    def get_logger(self):
        return SimpleNamespace(warning=lambda text: None)

    def get_clock(self):
        return SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=0, to_msg=lambda: 0))


def anything(*_, **__):
    """A message, or a setting."""
    places = SimpleNamespace(position=SimpleNamespace(), orientation=SimpleNamespace())
    return SimpleNamespace(header=SimpleNamespace(), pose=places)


def installed(monkeypatch):
    anything.BEST_EFFORT = None
    modules = {
        "rclpy": {"create_node": Node},
        "rclpy.clock": {"Clock": lambda clock_type: clock_type, "ClockType": SimpleNamespace(STEADY_TIME="steady")},
        "rclpy.qos": dict.fromkeys(KINDS, anything) | {"qos_profile_sensor_data": None},
        "rclpy.signals": dict.fromkeys(KINDS, anything),
        **{name: {} for name in ("geometry_msgs", "std_msgs", "franka_msgs")},
        **{f"{name}.msg": dict.fromkeys(KINDS, anything) for name in ("geometry_msgs", "std_msgs", "franka_msgs")},
    }
    for name, things in modules.items():
        module = ModuleType(name)
        vars(module).update(things)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "robopolicy.real_robot.guard.rclpy_node", raising=False)
    return importlib.import_module("robopolicy.real_robot.guard.rclpy_node")


def test_F20_the_guards_timers_do_not_go_by_the_time_of_day(monkeypatch):
    """Timers of a node's own clock do not come while a clock that was set back catches up: nobody would see a lease
    end."""
    guard = installed(monkeypatch).RclpyGuard(GuardConfig(), usual_topics("ros2"))
    assert [period for period, *_ in guard.node.timers] == [TICK, STATUS_EVERY, STRANGERS_EVERY]
    assert {clock for *_, clock in guard.node.timers} == {"steady"}
    guard.shell.lease(Lease("arm", 1, 1, (1, 0)).text())
    assert guard.shell.guard.holder == ("arm", 1)
    guard.shell._now = lambda now=guard.shell._now: now() + 1.0
    guard.node.timers[0][1]()
    assert guard.shell.guard.holder is None
