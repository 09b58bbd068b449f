"""The field table against ROS's own checksums, and the rules of a message."""

from __future__ import annotations

import base64
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robopolicy.core.errors import FrameRefused, InvalidMessage, UnknownType
from robopolicy.real_robot.wire.codec import decode_cbor, decode_json, encode_cbor, encode_json
from robopolicy.real_robot.wire.messages import conform, header, seconds_of, stamp_key, stamp_of, zeros
from robopolicy.real_robot.wire.schema import (
    FLAVOURS,
    action_name,
    has_text_list,
    known_types,
    lookup,
    message_text,
    ros1_checksum,
    service_types,
    spelled,
)


# Of common_msgs, std_msgs and actionlib_msgs (any ROS 1 release), and the develop branch of franka_ros.
@pytest.mark.parametrize(
    ("name", "checksum"),
    [
        ("std_msgs/Header", "2176decaecbce78abc3b96ef049fabed"),
        ("geometry_msgs/PoseStamped", "d3812c3cbc69362b77dc0b19b345f8f5"),
        ("sensor_msgs/JointState", "3066dcd76a6cfaef579bd0f34173e9fd"),
        ("sensor_msgs/CompressedImage", "8f7a12909da2c9d3332d540a0977563f"),
        ("actionlib_msgs/GoalStatusArray", "8b2b82f13216d0a8ea88bd3af735e619"),
        ("franka_msgs/FrankaState", "431567d5df6caf4e4dd7385f25cb71ee"),
    ],
)
def test_the_field_table_has_the_checksums_of_ros1(name, checksum):
    assert ros1_checksum(name) == checksum


def test_the_command_has_every_field_of_section_6():
    pose = zeros("geometry_msgs/PoseStamped", "ros1")
    assert set(pose["header"]) == {"seq", "stamp", "frame_id"}
    assert set(pose["pose"]["position"]) == set("xyz")
    assert set(pose["pose"]["orientation"]) == set("xyzw")
    assert "seq" not in zeros("geometry_msgs/PoseStamped", "ros2")["header"]
    state = zeros("franka_msgs/FrankaState", "ros1")
    assert {k: len(state[k]) for k in ("O_T_EE", "q", "O_F_ext_hat_K")} == {"O_T_EE": 16, "q": 7, "O_F_ext_hat_K": 6}
    assert len(state["current_errors"]) == 41
    assert len(zeros("franka_msgs/FrankaRobotState", "ros2")["current_errors"]) == 36


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_type_passes_its_own_check_and_both_codecs(flavour):
    for name in known_types():
        message = zeros(name, flavour)
        assert conform(name, message, flavour) == message
        assert conform(name, decode_json(encode_json(message)), flavour) == message
        assert conform(name, decode_cbor(encode_cbor(message)), flavour) == message


def test_type_strings_of_both_flavours():
    assert spelled("geometry_msgs/PoseStamped", "ros2") == "geometry_msgs/msg/PoseStamped"
    assert spelled("geometry_msgs/msg/PoseStamped", "ros1") == "geometry_msgs/PoseStamped"
    assert spelled("franka_gripper/Move", "ros1", "action") == "franka_gripper/MoveAction"
    assert spelled("franka_msgs/Move", "ros2", "action") == "franka_msgs/action/Move"
    assert lookup("geometry_msgs/msg/Pose", "ros2").name == "geometry_msgs/Pose"
    assert (
        action_name("franka_gripper/MoveAction") == action_name("franka_gripper/action/Move") == "franka_gripper/Move"
    )
    assert service_types("std_srvs/srv/Trigger") == ("std_srvs/TriggerRequest", "std_srvs/TriggerResponse")
    with pytest.raises(UnknownType, match="did you mean 'geometry_msgs/PoseStamped'"):
        lookup("geometry_msgs/PoseStampd", "ros1")


def test_message_text_is_what_a_generator_reads():
    assert message_text("geometry_msgs/PoseStamped") == "Header header\nPose pose\n"
    assert "uint8 ROBOT_MODE_REFLEX=4\n" in message_text("franka_msgs/FrankaState")
    assert has_text_list("sensor_msgs/JointState", "ros1")
    assert not has_text_list("sensor_msgs/CompressedImage", "ros1")


def pose(**changes):
    message = zeros("geometry_msgs/PoseStamped", "ros1")
    message["pose"]["position"] |= changes
    return message


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m["pose"]["position"].update(x=math.nan), "pose.position.x must be finite"),
        (lambda m: m["pose"]["position"].update(x=math.inf), "pose.position.x must be finite"),
        (lambda m: m["pose"]["position"].update(x=10**400), "pose.position.x is too large"),
        (lambda m: m["pose"]["position"].update(x=None), "pose.position.x is null"),
        (lambda m: m["pose"]["position"].update(x="1"), "pose.position.x must be a number, got str"),
        (lambda m: m["pose"]["position"].update(x=True), "pose.position.x must be a number"),
        (lambda m: m["pose"].pop("orientation"), "pose.orientation is missing"),
        (lambda m: m["pose"].update(twist={}), r"pose has unknown fields \['twist'\]"),
        (lambda m: m.update(pose=[1]), "pose must be an object"),
        (lambda m: m["header"].update(frame_id="half \ud83d"), "header.frame_id is not valid Unicode"),
        (lambda m: m["header"].update(frame_id=3), "header.frame_id must be text"),
        (lambda m: m["header"].update(stamp={"sec": 0, "nanosec": 0}), "header.stamp must be {secs, nsecs} on a ros1"),
        (lambda m: m["header"]["stamp"].update(nsecs=10**9), "header.stamp"),
        (lambda m: m["header"].update(seq=-1), "header.seq must be in 0..4294967295"),
    ],
)
def test_a_bad_message_is_refused_and_the_field_named(change, says):
    message = pose()
    change(message)
    with pytest.raises(InvalidMessage, match=says):
        conform("geometry_msgs/PoseStamped", message, "ros1")


def test_lists_keep_their_length_and_arrays_become_lists():
    state = zeros("franka_msgs/FrankaState", "ros1") | {"q": np.linspace(0, 1, 7)}
    assert conform("franka_msgs/FrankaState", state, "ros1")["q"] == list(np.linspace(0, 1, 7))
    for bad, says in ((np.zeros(6), "q must have 7 values, got 6"), ([0, 0, 0, 0, math.nan, 0, 0], r"q\[4\] must be")):
        with pytest.raises(InvalidMessage, match=says):
            conform("franka_msgs/FrankaState", state | {"q": bad}, "ros1")
    big = [1e308, 1e308, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert conform("franka_msgs/FrankaState", state | {"q": big}, "ros1")["q"] == big


def test_image_bytes_in_every_form():
    image = zeros("sensor_msgs/CompressedImage", "ros2") | {"format": "jpeg"}
    data = bytes(range(256))
    for form in (data, bytearray(data), base64.b64encode(data).decode(), list(data), np.arange(256, dtype=np.uint8)):
        assert conform("sensor_msgs/CompressedImage", image | {"data": form}, "ros2")["data"] == data
    for form in ("no base64!", [256], [1.5], None):
        with pytest.raises(InvalidMessage, match="data must be"):
            conform("sensor_msgs/CompressedImage", image | {"data": form}, "ros2")


def test_unknown_fields_of_a_newer_robot_may_be_dropped_but_never_missing_ones():
    message = pose() | {"new_field": 1}
    assert "new_field" not in conform("geometry_msgs/PoseStamped", message, "ros1", extra=True)
    del message["pose"]
    with pytest.raises(InvalidMessage, match="pose is missing"):
        conform("geometry_msgs/PoseStamped", message, "ros1", extra=True)


@given(st.floats(0, 2**31 - 1))
def test_stamps_round_trip_to_half_a_nanosecond(seconds):
    for flavour in FLAVOURS:
        assert seconds_of(stamp_of(seconds, flavour)) == pytest.approx(seconds, abs=1e-6)
    message = {"header": header(seconds, "panda_link0", "ros1")}
    key = stamp_key(message)
    assert (key is None) == (round(seconds * 1e9) == 0)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=20))
def test_f09_nothing_that_is_not_finite_is_ever_written(value):
    try:
        text = encode_json(value)
    except InvalidMessage:
        return
    assert "NaN" not in json.dumps(json.loads(text, parse_constant=pytest.fail))


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "[" * 100_000, "1" * 5000, '{"a":1}{"b":2}', "", "{", '{"a":}'])
def test_what_is_not_one_json_text_is_refused(text):
    with pytest.raises(FrameRefused, match="not one JSON text"):
        decode_json(text)


def test_cbor_reads_typed_arrays_and_refuses_every_other_tag():
    import cbor2

    values = np.arange(3, dtype="<f8")
    assert decode_cbor(cbor2.dumps({"q": cbor2.CBORTag(86, values.tobytes())})) == {"q": [0.0, 1.0, 2.0]}
    for tag, value in ((35, "a+"), (2, b"\0"), (0, "2020-01-01T00:00:00Z"), (258, [1]), (86, "text"), (86, b"123")):
        with pytest.raises(FrameRefused, match="not one CBOR"):
            decode_cbor(cbor2.dumps(cbor2.CBORTag(tag, value)))
    for data in (b"", b"\x9b" + b"\xff" * 8, b"\x5b\x7f" + b"\xff" * 7, b"\x81" * 1000):
        with pytest.raises(FrameRefused):
            decode_cbor(data)
