"""Goals over the wire, in both ROS forms, against an action server on the bus."""

from __future__ import annotations

import pytest

from robopolicy.core.errors import InvalidMessage, ServiceFailed
from robopolicy.real_robot.wire.actions import GoalState
from robopolicy.real_robot.wire.client_actions import ActionClient

NAMES = {"ros1": "franka_gripper/Grasp", "ros2": "franka_msgs/Grasp"}
GOAL = {"width": 0.02, "epsilon": {"inner": 0.005, "outer": 0.005}, "speed": 0.1, "force": 20.0}


@pytest.fixture(params=["ros1", "ros2"])
def grasp(request, wire, until):
    gateway = wire.gateway(request.param)
    goals = []
    wire.bus.serve_action("/g/grasp", NAMES[request.param], goals.append, on_cancel=lambda g: g.cancelled())
    client = wire.client(gateway.url)
    action = ActionClient(client, "/g/grasp", NAMES[request.param])
    if request.param == "ros1":
        assert until(lambda: len(wire.bus.subscribers("/g/grasp/result")) and wire.bus.publishers("/g/grasp/cancel"))
    return action, goals, until


def test_F30_a_grasp_succeeds_and_tells_so(grasp):
    action, goals, until = grasp
    handle = action.send(GOAL)
    assert until(lambda: goals)
    assert goals[0].values == GOAL
    goals[0].accept()
    handle.wait_accepted(20)
    goals[0].succeed({"success": True, "error": ""})
    outcome = handle.result(20)
    assert outcome.succeeded
    assert outcome.result == {"success": True, "error": ""}


def test_F30_failures_of_a_grasp_are_told_apart(grasp):
    action, goals, until = grasp
    ends = (
        (lambda g: g.abort({"success": False, "error": "object lost"}), GoalState.ABORTED),
        (lambda g: action.cancel(g.id), GoalState.PREEMPTED),
    )
    for i, (end, state) in enumerate(ends):
        handle = action.send(GOAL)
        assert until(lambda i=i: len(goals) == i + 1)
        goals[i].accept()
        end(goals[i])
        outcome = handle.result(20)
        assert outcome.state is state
        assert not outcome.succeeded


def test_F30_a_goal_that_nobody_answers_times_out(grasp):
    action, _, _ = grasp
    handle = action.send(GOAL)
    with pytest.raises(ServiceFailed, match=r"has not ended within 0\.05 s"):
        handle.result(0.05)
    if action.as_topics:
        with pytest.raises(ServiceFailed, match=r"not accepted within 0\.05 s"):
            handle.wait_accepted(0.05)
    with pytest.raises(InvalidMessage, match="force must be finite"):
        action.send(GOAL | {"force": float("nan")})
