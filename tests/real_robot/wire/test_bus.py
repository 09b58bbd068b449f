"""The in-process graph: types, latching, single writer, services, actions in both forms."""

from __future__ import annotations

import pytest

from robopolicy.core.errors import BridgeError, FrameRefused, InvalidMessage, ServiceFailed
from robopolicy.real_robot.clock import VirtualClock
from robopolicy.real_robot.wire.actions import GoalState
from robopolicy.real_robot.wire.bus import Bus
from robopolicy.real_robot.wire.messages import zeros

TEXT = "std_msgs/String"


@pytest.fixture
def bus():
    return Bus(clock=VirtualClock())


def test_messages_reach_subscribers_checked_and_in_order(bus):
    heard = []
    end = bus.subscribe("/a", TEXT, heard.append)
    bus.advertise("/a", TEXT)
    bus.publish("/a", {"data": "1"})
    bus.publish("/a", {"data": "2"})
    end()
    bus.publish("/a", {"data": "3"})
    assert [m["data"] for m in heard] == ["1", "2"]
    assert bus.last("/a") == {"data": "3"}
    with pytest.raises(InvalidMessage, match="data must be text"):
        bus.publish("/a", {"data": 1})
    with pytest.raises(BridgeError, match="without having advertised"):
        bus.publish("/a", {"data": "x"}, owner="/stranger")
    with pytest.raises(BridgeError, match="one topic has one type"):
        bus.subscribe("/a", "std_msgs/Bool", heard.append)
    with pytest.raises(BridgeError, match="looks like"):
        bus.advertise("relative", TEXT)


def test_latched_topics_greet_new_subscribers(bus):
    bus.advertise("/latched", TEXT, latch=True)
    bus.advertise("/plain", TEXT)
    heard = []
    for topic in ("/latched", "/plain"):
        bus.publish(topic, {"data": topic})
        bus.subscribe(topic, TEXT, heard.append)
    assert heard == [{"data": "/latched"}]


def test_a_subscriber_that_raises_stops_nobody(bus, caplog):
    heard = []
    bus.advertise("/a", TEXT)
    bus.subscribe("/a", TEXT, lambda m: 1 / 0)
    bus.subscribe("/a", TEXT, heard.append)
    bus.publish("/a", {"data": "x"})
    assert heard == [{"data": "x"}]
    assert bus.callback_errors == 1


def test_exclusive_topics_have_one_writer_until_it_is_silent(bus):
    bus.exclusive("/target", silence=0.5)
    bus.advertise("/target", TEXT, owner="/one")
    with pytest.raises(FrameRefused, match=r"has a writer \(/one\)"):
        bus.advertise("/target", TEXT, owner="/two")
    bus.clock.advance(0.4)
    bus.publish("/target", {"data": ""}, owner="/one")
    bus.clock.advance(0.4)
    with pytest.raises(FrameRefused, match="/one"):
        bus.advertise("/target", TEXT, owner="/two")
    bus.clock.advance(0.11)
    bus.advertise("/target", TEXT, owner="/two")
    with pytest.raises(FrameRefused, match="/two"):
        bus.publish("/target", {"data": ""}, owner="/one")
    bus.unadvertise("/target", "/two")
    bus.publish("/target", {"data": ""}, owner="/one")


def test_the_graph_as_rosapi_tells_it(bus):
    bus.advertise("/a", TEXT, owner="/p")
    bus.subscribe("/a", TEXT, print, owner="/s")
    bus.serve("/go", "std_srvs/Trigger", lambda r: {"success": True, "message": ""}, owner="/v")
    assert bus.topics() == {"/a": TEXT}
    assert (bus.publishers("/a"), bus.subscribers("/a"), bus.nodes()) == (["/p"], ["/s"], ["/p", "/s", "/v"])
    assert bus.services() == {"/go": "std_srvs/Trigger"}
    bus.unadvertise("/a", "/p")
    assert bus.publishers("/a") == []


def test_services_answer_or_say_why_not(bus):
    bus.serve("/load", "franka_msgs/SetLoad", lambda r: {"success": r["mass"] < 3, "error": ""})
    load = zeros("franka_msgs/SetLoadRequest", "ros1")
    assert bus.call("/load", load | {"mass": 1})["success"]
    with pytest.raises(ServiceFailed, match="mass must be a number"):
        bus.call("/load", load | {"mass": "heavy"})
    with pytest.raises(ServiceFailed, match="there is no service /lod; did you mean '/load'"):
        bus.call("/lod")
    bus.serve("/broken", "std_srvs/Trigger", lambda r: 1 / 0)
    with pytest.raises(ServiceFailed, match="ZeroDivisionError"):
        bus.call("/broken")
    bus.serve("/short", "std_srvs/Trigger", lambda r: {"success": True})
    with pytest.raises(ServiceFailed, match="message is missing"):
        bus.call("/short")


def test_actions_are_five_topics_in_ros1(bus):
    goals, results, feedback, statuses = [], [], [], []
    server = bus.serve_action("/franka_gripper/move", "franka_gripper/MoveAction", goals.append)
    bus.subscribe("/franka_gripper/move/result", "franka_gripper/MoveActionResult", results.append)
    bus.subscribe("/franka_gripper/move/feedback", "franka_gripper/MoveActionFeedback", feedback.append)
    bus.subscribe("/franka_gripper/move/status", "actionlib_msgs/GoalStatusArray", statuses.append)
    assert statuses[0]["status_list"] == []
    bus.advertise("/franka_gripper/move/goal", "franka_gripper/MoveActionGoal")
    bus.publish("/franka_gripper/move/goal", {"goal_id": {"id": "g1"}, "goal": {"width": 0.04, "speed": 0.1}})
    goal = goals[0]
    assert goal.values == {"width": 0.04, "speed": 0.1}
    goal.accept()
    goal.feedback({})
    goal.succeed({"success": True, "error": ""})
    goal.abort(text="too late")
    assert results[0]["result"] == {"success": True, "error": ""}
    assert results[0]["status"]["status"] == GoalState.SUCCEEDED == 3
    assert len(results) == len(feedback) == 1
    assert [s["status_list"][0]["status"] for s in statuses[1:]] == [1, 1, 3]
    server.publish_status()
    assert len(statuses) == 5


def test_actions_are_calls_in_ros2_and_can_be_cancelled():
    bus = Bus("ros2", VirtualClock())
    ends, told = [], []
    server = bus.serve_action(
        "/g/move", "franka_msgs/action/Move", lambda goal: goal.accept(), on_cancel=lambda goal: goal.cancelled()
    )
    goal = server.submit("g1", {"width": 0.04, "speed": 0.1}, told.append, lambda g, r: ends.append((g.state, r)))
    goal.feedback({"current_width": 0.02})
    assert told == [{"current_width": 0.02}]
    with pytest.raises(InvalidMessage, match="already being worked on"):
        server.submit("g1", {"width": 0.04, "speed": 0.1})
    server.cancel("other")
    assert not ends
    server.cancel("g1")
    assert ends == [(GoalState.PREEMPTED, {"success": False, "error": ""})]
    assert not bus.topics()
    with pytest.raises(InvalidMessage, match="width is missing"):
        server.submit("g2", {})


def test_finished_goals_do_not_pile_up(bus):
    server = bus.serve_action("/recover", "franka_msgs/ErrorRecovery", lambda goal: goal.succeed())
    for i in range(100):
        server.submit(f"g{i}", {})
    assert len(bus.last("/recover/status")["status_list"]) <= 9
