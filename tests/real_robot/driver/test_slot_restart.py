"""What the driver's sources ask of a slot: what was dropped for its order, and to forget the order."""

from __future__ import annotations

from robopolicy.real_robot.wire.messages import header, zeros
from robopolicy.real_robot.wire.slot import Slot

POSE = "geometry_msgs/PoseStamped"


def message(stamp):
    return {**zeros(POSE, "ros1"), "header": header(stamp, "", "ros1")}


def test_a_dropped_message_is_remembered_and_the_order_can_be_forgotten():
    slot = Slot("/x", POSE)
    assert slot.offer(message(10.0), "ros1", 1.0, 1)
    assert slot.last_stale is None
    assert not slot.offer(message(9.0), "ros1", 1.1, 1)
    assert slot.last_stale == (9.0, 1.1)
    slot.restart()
    assert slot.last_stale is None
    assert slot.offer(message(9.5), "ros1", 1.2, 1)
    assert not slot.offer(message(9.4), "ros1", 1.3, 1)
