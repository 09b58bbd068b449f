"""T1: an independent client, roslibpy, against our gateway, in a process of its own (Twisted cannot be restarted)."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from robopolicy.real_robot.wire.messages import zeros

pytest.importorskip("roslibpy", reason="roslibpy is not installed: pip install roslibpy")

PROGRAM = """
import json, sys, threading, time
import roslibpy, roslibpy.ros1.actionlib as actionlib
port, out = int(sys.argv[1]), {}
ros = roslibpy.Ros("127.0.0.1", port)
ros.run(timeout=60)
heard = threading.Event()
topic = roslibpy.Topic(ros, "/echo", "std_msgs/String")
topic.subscribe(lambda m: (out.update(echo=m["data"]), heard.set()))
pub = roslibpy.Topic(ros, "/echo", "std_msgs/String")
pub.advertise()
end = time.monotonic() + 60
while not heard.is_set() and time.monotonic() < end:
    pub.publish({"data": "hello"})
    heard.wait(0.2)
out["topics"] = list(ros.get_topics())
out["type"] = ros.get_topic_type("/echo")
out["secs"] = ros.get_time()["secs"]
service = roslibpy.Service(ros, "/connect", "std_srvs/Trigger")
out["service"] = dict(service.call(roslibpy.ServiceRequest(), timeout=60))
pose = roslibpy.Topic(ros, "/target_pose", "geometry_msgs/PoseStamped")
pose.publish(json.loads(sys.argv[2]))
actionlib.DEFAULT_CONNECTION_TIMEOUT = 60
action = actionlib.ActionClient(ros, "/franka_gripper/move", "franka_gripper/MoveAction")
goal = actionlib.Goal(action, {"width": 0.04, "speed": 0.1})
goal.send()
out["action"] = goal.wait(60)
print(json.dumps(out))
sys.stdout.flush()
import os; os._exit(0)
"""


def test_T1_roslibpy_finds_a_rosbridge(wire):
    gateway = wire.gateway()
    poses = []
    wire.bus.subscribe("/target_pose", "geometry_msgs/PoseStamped", poses.append, "/controller")
    wire.bus.serve("/connect", "std_srvs/Trigger", lambda r: {"success": True, "message": "done"})

    def work(goal):
        goal.accept()
        goal.succeed({"success": goal.values["width"] == 0.04, "error": ""})

    wire.bus.serve_action("/franka_gripper/move", "franka_gripper/MoveAction", work)
    pose = json.dumps(zeros("geometry_msgs/PoseStamped", "ros1"))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(gateway.port), pose],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    out = json.loads(done.stdout)
    assert out["echo"] == "hello"
    assert "/echo" in out["topics"]
    assert out["type"] == "std_msgs/String"
    assert out["secs"] > 1_600_000_000
    assert out["service"] == {"success": True, "message": "done"}
    assert out["action"] == {"success": True, "error": ""}
    assert len(poses) == 1
    assert gateway.shared.counters["refused"] == 0
