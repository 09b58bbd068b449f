"""Reading states whose parts do not fit each other."""

from __future__ import annotations

import pytest

from robopolicy.core.errors import InvalidMessage
from robopolicy.real_robot.driver.state_messages import arm_state
from robopolicy.real_robot.wire.messages import zeros

JOINTS = [f"panda_joint{i}" for i in range(1, 8)]


def state(names):
    """A ROS 2 state in which joint i is at i rad."""
    message = zeros("franka_msgs/FrankaRobotState", "ros2")
    message["measured_joint_state"] |= {
        "name": names,
        "position": [float(i) for i in range(1, 8)],
        "velocity": [0.0] * 7,
    }
    return message


def test_joints_come_in_any_order():
    assert arm_state(state(JOINTS[::-1]), "ros2", "panda").q.tolist() == [7, 6, 5, 4, 3, 2, 1]


def test_F06_names_that_do_not_fit_the_numbers_are_an_invalid_message():
    fingers = ["panda_finger_joint1", "panda_finger_joint2"]
    with pytest.raises(InvalidMessage, match="names of 7 joints, got 9"):
        arm_state(state([*fingers, *JOINTS]), "ros2", "panda")
