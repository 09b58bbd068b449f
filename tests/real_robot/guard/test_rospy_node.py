"""The ROS 1 shell of the guard with a stand-in for rospy, for what no healthy graph shows."""

from __future__ import annotations

import importlib
import sys
import threading
import time
from types import ModuleType, SimpleNamespace

import pytest

from robopolicy.real_robot.guard.config import GuardConfig
from robopolicy.real_robot.guard.lease import Lease
from robopolicy.real_robot.guard.options import usual_topics

WAIT = 20.0  # s; generous, the machine may be loaded


def until(holds):
    end = time.monotonic() + WAIT
    while not holds():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def pose_stamped():
    pose = SimpleNamespace(position=SimpleNamespace(), orientation=SimpleNamespace())
    return SimpleNamespace(header=SimpleNamespace(), pose=pose)


class Ros:
    """What the node uses of rospy; ``ask`` is the master's answer."""

    def __init__(self, ask):
        self.ended, self.sent, self.warned, self.hooks = threading.Event(), [], [], []
        self.modules = {
            "rospy": {
                "init_node": lambda name: None,
                "get_name": lambda: "/robopolicy_guard",
                "get_time": time.time,
                "Time": SimpleNamespace(now=lambda: 0.0),
                "Publisher": lambda topic, *_, **__: SimpleNamespace(publish=lambda m: self.sent.append((topic, m))),
                "Subscriber": lambda *_, **__: None,
                "on_shutdown": self.hooks.append,
                "is_shutdown": self.ended.is_set,
                "logwarn": self.warned.append,
                "logwarn_throttle": lambda period, text: self.warned.append(text),
            },
            "rosgraph": {"Master": lambda name: SimpleNamespace(getSystemState=ask), "MasterException": RuntimeError},
            "geometry_msgs": {},
            "geometry_msgs.msg": {"PoseStamped": pose_stamped},
            "std_msgs": {},
            "std_msgs.msg": {"String": str},
            "franka_msgs": {},
            "franka_msgs.msg": {"FrankaState": object},
        }

    def installed(self, monkeypatch):
        for name, things in self.modules.items():
            module = ModuleType(name)
            vars(module).update(things)
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.delitem(sys.modules, "robopolicy.real_robot.guard.rospy_node", raising=False)
        return importlib.import_module("robopolicy.real_robot.guard.rospy_node")


@pytest.mark.parametrize("master", ["hangs", "refuses"])
def test_F23_a_master_that_does_not_answer_does_not_keep_the_guard_from_stopping_the_arm(monkeypatch, master):
    asked, release = threading.Event(), threading.Event()

    def ask():
        asked.set()
        if master == "refuses":
            raise ConnectionRefusedError("no roscore")
        release.wait(WAIT)
        return [[], [], []]

    ros = Ros(ask)
    node = ros.installed(monkeypatch).RospyGuard(GuardConfig(), usual_topics("ros1"))
    thread = threading.Thread(target=node.spin)
    thread.start()
    try:
        until(asked.is_set)
        wall = time.time()
        stamp = (int(wall), int(1e9 * (wall % 1)))
        node._shell.measured(stamp, (0.45, 0.0, 0.3), (1.0, 0.0, 0.0, 0.0))
        node._shell.lease(Lease("arm", 1, 1, stamp).text())
        assert node._shell.guard.holder == ("arm", 1)
        until(lambda: node._shell.guard.holder is None)
        assert node._shell.guard.counts["stops"] == 1
        assert [topic for topic, _ in ros.sent if "guard" not in topic] == [node._topics.controller]
        assert thread.is_alive()
    finally:
        ros.ended.set()
        release.set()
        thread.join(WAIT)
