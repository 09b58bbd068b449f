"""The gateway's protocol core without sockets: the strict schema, and the quirks B1 to B17 of rosbridge_suite."""

from __future__ import annotations

import json
import math

import pytest

from robopolicy.real_robot.clock import VirtualClock
from robopolicy.real_robot.wire.backends import BusBackend
from robopolicy.real_robot.wire.bus import Bus
from robopolicy.real_robot.wire.codec import decode_cbor
from robopolicy.real_robot.wire.gateway import Gateway
from robopolicy.real_robot.wire.gateway_config import GatewayConfig
from robopolicy.real_robot.wire.messages import seconds_of, stamp_of, zeros
from robopolicy.real_robot.wire.protocol import CloseLink
from robopolicy.real_robot.wire.quirks import QuirkySession
from robopolicy.real_robot.wire.session import Session

POSE = "geometry_msgs/PoseStamped"
TARGET = "/target_pose"


class Peer:
    """A client without a socket."""

    def __init__(self, world, name):
        kind = QuirkySession if world.quirks else Session
        self.session = kind(world.gateway.shared, name, lambda: None)

    def send(self, *frames, **frame):
        for f in [*frames, *([frame] if frame else [])]:
            self.session.receive_text(f if isinstance(f, str) else json.dumps(f))
        return self.received()

    def received(self):
        out = []
        while (frames := self.session.outbox.pop(self.session.shared.config.max_message_size)) is not None:
            out += [json.loads(f) if isinstance(f, str) else decode_cbor(f) for f in frames]
        return out

    def advertise(self, topic=TARGET, type_name=POSE):
        return self.send(op="advertise", topic=topic, type=type_name)

    def publish(self, message, topic=TARGET, **more):
        return self.send(op="publish", topic=topic, msg=message, **more)


class World:
    def __init__(self, quirks="none", flavour=None, **config):
        self.clock = VirtualClock()
        self.flavour = flavour or ("ros2" if quirks == "rosbridge2" else "ros1")
        self.bus = Bus(self.flavour, self.clock)
        self.gateway = Gateway(BusBackend(self.bus), GatewayConfig(quirks=quirks, **config), self.clock)
        self.gateway.shared.defer = lambda function: function()
        self.quirks = quirks != "none"
        self.heard = []

    def peer(self, name="/client"):
        return Peer(self, name)

    def pose(self, **position):
        message = zeros(POSE, self.flavour)
        message["header"]["stamp"] = stamp_of(self.clock.wall(), self.flavour)
        message["pose"]["position"] |= position
        return message

    def listen(self, topic=TARGET, type_name=POSE):
        self.bus.subscribe(topic, type_name, self.heard.append, "/controller")


@pytest.fixture
def strict():
    return World()


@pytest.fixture(params=["rosbridge1", "rosbridge2"])
def quirky(request):
    return World(request.param)


# --- strict -------------------------------------------------------------------------------------------------


def test_a_command_reaches_the_graph_and_nothing_is_said(strict):
    strict.listen()
    peer = strict.peer()
    assert peer.advertise() == []
    assert peer.publish(strict.pose(x=0.3)) == []
    assert strict.heard[0]["pose"]["position"] == {"x": 0.3, "y": 0.0, "z": 0.0}


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        ({"op": "publsh"}, "unknown op 'publsh'; did you mean 'publish'"),
        ({}, "unknown op"),
        ({"op": ["publish"]}, "unknown op"),
        ({"op": "publish", "topic": TARGET}, "publish: missing key 'msg'"),
        ({"op": "publish", "topic": 3, "msg": {}}, "publish: topic has the wrong type int"),
        ({"op": "publish", "topic": TARGET, "msg": {}, "mesage": 1}, "unknown key 'mesage'"),
        ({"op": "publish", "topic": TARGET, "msg": {}}, "is not advertised"),
        ({"op": "advertise", "topic": "no slash", "type": POSE}, "looks like"),
        ({"op": "advertise", "topic": TARGET, "type": "geometry_msgs/Pse"}, "unknown message type"),
        ({"op": "advertise", "topic": "/" + "a" * 300, "type": POSE}, "longer than 255"),
        ({"op": "unadvertise", "topic": TARGET}, "is not advertised"),
        ({"op": "subscribe", "topic": "/unheard"}, "subscribe with a type"),
        ({"op": "subscribe", "topic": TARGET, "type": POSE, "compression": "png"}, "use none or cbor"),
        ({"op": "subscribe", "topic": TARGET, "type": POSE, "throttle_rate": -1}, "not negative"),
        ({"op": "subscribe", "topic": TARGET, "type": POSE, "queue_length": True}, "wrong type bool"),
        ({"op": "unsubscribe", "topic": TARGET}, "is not subscribed"),
        ({"op": "call_service", "service": "/x", "type": "std_srvs/Triger"}, "unknown service type"),
        ({"op": "call_service", "service": "/x", "args": [1]}, "args is an object"),
        ({"op": "send_action_goal", "action": "/a", "action_type": "franka_msgs/Move"}, "actions of ROS 1 are topics"),
        ({"op": "cancel_action_goal", "action": "/a", "id": "x"}, "no goal of yours"),
        ({"op": "set_level", "level": "loud"}, "set_level"),
        ({"op": "auth", "mac": "x"}, "unknown op 'auth'"),
        ({"op": "fragment", "id": "f", "data": "", "num": 2, "total": 1}, "cannot be"),
    ],
)
def test_what_is_not_understood_is_refused_with_a_status(strict, frame, says):
    *answers, status = strict.peer().send(frame | {"id": "i1"} if "id" not in frame else frame)
    assert [a["result"] for a in answers] == [False] * (frame.get("op") in ("call_service", "send_action_goal"))
    assert status["op"] == "status"
    assert status["level"] == "error"
    assert status["id"] == frame.get("id", "i1")
    assert says in status["msg"]
    assert strict.bus.publishers(TARGET) == []


def test_bad_messages_never_reach_the_graph(strict):
    strict.listen()
    peer = strict.peer()
    peer.advertise()
    for bad in (math.nan, math.inf, None, "1", True, [1]):
        text = json.dumps({"op": "publish", "topic": TARGET, "msg": strict.pose(x=bad)})
        if isinstance(bad, float):
            with pytest.raises(CloseLink) as closed:
                peer.send(text)
            assert closed.value.code == 1007
        else:
            [status] = peer.send(text)
            assert "pose.position.x" in status["msg"]
    incomplete = strict.pose()
    del incomplete["pose"]["orientation"]
    assert "orientation is missing" in peer.publish(incomplete)[0]["msg"]
    big = json.dumps({"op": "publish", "topic": TARGET, "msg": strict.pose(x=1.5)}).replace("1.5", "1e999")
    assert "must be finite" in peer.send(big)[0]["msg"]
    assert strict.heard == []
    assert peer.send(op="set_level", level="none") == []
    assert peer.publish({}) == []


@pytest.mark.parametrize("text", ['{"op":"publish"', "[]", "3", '{"op":"a"}{"op":"b"}', "", "nonsense", "[" * 5000])
def test_a_frame_that_is_not_one_object_ends_the_connection_with_1007(strict, text):
    with pytest.raises(CloseLink) as closed:
        strict.peer().send(text)
    assert closed.value.code == 1007
    assert len(closed.value.reason.encode()) <= 123


def test_binary_frames_are_not_read(strict):
    with pytest.raises(CloseLink) as closed:
        strict.peer().session.receive_binary(b"\xa0")
    assert closed.value.code == 1003


def test_newest_wins_and_longer_queues_drop_their_oldest(strict):
    strict.bus.advertise("/state", "std_msgs/Int32")
    peer = strict.peer()
    peer.send(op="subscribe", topic="/state", type="std_msgs/Int32", queue_length=1)
    for i in range(5):
        strict.bus.publish("/state", {"data": i})
    assert [f["msg"]["data"] for f in peer.received()] == [4]
    peer.send(op="subscribe", topic="/state", type="std_msgs/Int32", queue_length=3, id="b")
    for i in range(5):
        strict.bus.publish("/state", {"data": i})
    assert [f["msg"]["data"] for f in peer.received()] == [2, 3, 4]
    assert peer.session.outbox.replaced == 6
    peer.send(op="unsubscribe", topic="/state")
    strict.bus.publish("/state", {"data": 9})
    assert peer.received() == []


def test_throttle_and_fair_turns(strict):
    peer = strict.peer()
    for topic, rate in (("/a", 125), ("/b", 0)):
        strict.bus.advertise(topic, "std_msgs/Int32")
        peer.send(op="subscribe", topic=topic, throttle_rate=rate)
    seen = []
    for i in range(30):
        for topic in ("/a", "/b"):
            strict.bus.publish(topic, {"data": i})
        strict.clock.advance(1 / 64)
        seen += [(f["topic"], f["msg"]["data"]) for f in peer.received()]
    assert [d for t, d in seen if t == "/b"] == list(range(30))
    assert [d for t, d in seen if t == "/a"] == list(range(0, 30, 8))


def test_cbor_images_and_null_for_nan_from_the_graph(strict):
    peer = strict.peer()
    strict.bus.advertise("/cam", "sensor_msgs/CompressedImage")
    peer.send(op="subscribe", topic="/cam", compression="cbor")
    image = zeros("sensor_msgs/CompressedImage", "ros1") | {"data": b"\xff\xd8", "format": "jpeg"}
    strict.bus.publish("/cam", image)
    assert peer.received() == [{"op": "publish", "topic": "/cam", "msg": image}]
    strict.bus.advertise("/f", "std_msgs/Float64")
    peer.send(op="subscribe", topic="/f")
    strict.bus.deliver("/f", {"data": math.nan})
    assert peer.received()[0]["msg"] == {"data": None}


def test_one_writer_a_command_topic_lost_after_half_a_second_of_silence(strict):
    one, two = strict.peer("/one"), strict.peer("/two")
    strict.listen()
    assert one.advertise() == []
    assert "has a writer (/one)" in two.advertise()[0]["msg"]
    assert "is not advertised" in two.publish(strict.pose())[0]["msg"]
    for _ in range(10):
        strict.clock.advance(0.4)
        assert one.publish(strict.pose()) == []
        assert two.advertise() != []
    strict.clock.advance(0.5)
    assert two.advertise() == []
    assert "has a writer (/two)" in one.publish(strict.pose())[0]["msg"]
    two.session.close()
    assert one.publish(strict.pose()) == []
    assert len(strict.heard) == 11
    assert two.advertise("/other", "std_msgs/String") == one.advertise("/other", "std_msgs/String") == []


def test_the_allow_list_bounds_topics_and_services():
    world = World(allow_topics=(TARGET, "/cam_*"), allow_services=("/rosapi/*",))
    peer = world.peer()
    assert peer.advertise() == []
    for frame in (
        {"op": "advertise", "topic": "/cmd_vel", "type": "geometry_msgs/Twist"},
        {"op": "subscribe", "topic": "/secret", "type": "std_msgs/String"},
        {"op": "call_service", "service": "/reboot", "args": {}},
    ):
        assert "allow-list" in peer.send(frame)[-1]["msg"]
    assert peer.send(op="subscribe", topic="/cam_front", type="sensor_msgs/CompressedImage") == []


def test_rosapi_subset(strict):
    peer, other = strict.peer("/gateway/1"), strict.peer("/gateway/2")
    strict.listen()
    peer.advertise()
    other.send(op="subscribe", topic=TARGET)
    strict.bus.serve("/go", "std_srvs/Trigger", lambda r: {"success": True, "message": "gone"})

    def call(name, **args):
        [reply] = peer.send(op="call_service", service=f"/rosapi/{name}", args=args, id="7")
        assert reply["op"] == "service_response"
        assert reply["id"] == "7"
        assert reply["result"], reply
        return reply["values"]

    assert call("topics") == {"topics": [TARGET], "types": [POSE]}
    assert call("topic_type", topic=TARGET) == {"type": POSE}
    assert call("topic_type", topic="/none") == {"type": ""}
    assert call("publishers", topic=TARGET) == {"publishers": ["/gateway/1"]}
    assert call("subscribers", topic=TARGET) == {"subscribers": ["/controller", "/gateway/2"]}
    assert "/go" in call("services")["services"]
    assert call("service_type", service="/go") == {"type": "std_srvs/Trigger"}
    assert call("service_type", service="/rosapi/get_time") == {"type": "rosapi/GetTime"}
    assert seconds_of(call("get_time")["time"]) == pytest.approx(strict.clock.wall())
    assert "/controller" in call("nodes")["nodes"]
    [reply] = peer.send(op="call_service", service="/go", id="8")
    assert reply["values"] == {"success": True, "message": "gone"}


def test_b16_failures_of_services_come_back_as_text(strict):
    for world in (strict, World("rosbridge1"), World("rosbridge2")):
        for args in ({"service": "/none"}, {"service": "/rosapi/topic_type", "args": {"tpic": "/x"}}):
            [reply] = world.peer().send(op="call_service", id="1", **args)
            assert reply["result"] is False
            assert isinstance(reply["values"], str)


def test_actions_of_ros2():
    world = World(flavour="ros2")
    goals = []
    world.bus.serve_action("/g/move", "franka_msgs/Move", goals.append, on_cancel=lambda g: g.cancelled())
    peer = world.peer()
    base = {"op": "send_action_goal", "action": "/g/move", "action_type": "franka_msgs/action/Move", "feedback": True}
    assert peer.send(base | {"id": "g1", "args": {"width": 0.04, "speed": 0.1}}) == []
    goals[0].accept()
    goals[0].feedback({"current_width": 0.01})
    goals[0].succeed({"success": True, "error": ""})
    feedback, result = peer.received()
    assert (feedback["op"], feedback["id"], feedback["values"]) == ("action_feedback", "g1", {"current_width": 0.01})
    assert (result["op"], result["status"], result["result"]) == ("action_result", 4, True)
    peer.send(base | {"id": "g2", "args": {"width": 0.04, "speed": 0.1}})
    [result] = peer.send(op="cancel_action_goal", action="/g/move", id="g2")
    assert (result["status"], result["result"]) == (5, False)
    [result] = peer.send(base | {"id": "g3", "args": {"width": "wide"}})
    assert result["result"] is False
    assert "width" in result["values"]
    assert len(goals) == 2


def test_calls_and_replies_have_an_end(strict):
    strict.gateway.shared.defer = lambda function: None
    peer = strict.peer()
    said = [peer.send(op="call_service", service="/rosapi/topics", id=str(i)) for i in range(20)]
    assert sum(bool(s) for s in said) == 4
    assert all(not s[0]["result"] for s in said if s)
    flood = strict.peer()
    for _ in range(256):
        flood.session.receive_text('{"op":"x"}')
    with pytest.raises(CloseLink, match="unread replies"):
        flood.session.receive_text('{"op":"x"}')


def test_b14_long_messages_go_out_in_fragments():
    from robopolicy.real_robot.wire.protocol import Reassembler

    world = World("rosbridge1", max_message_size=300)
    peer = world.peer()
    peer.send(op="subscribe", topic="/text", type="std_msgs/String")
    world.bus.advertise("/text", "std_msgs/String")
    world.bus.publish("/text", {"data": "x" * 1000})
    parts = peer.received()
    assert len(parts) == 4
    assert all(p["op"] == "fragment" and len(p["data"]) <= 300 for p in parts)
    reassembler = Reassembler()
    whole = [reassembler.add(p, 0.0) for p in parts]
    assert whole[:3] == [None] * 3
    assert whole[3]["msg"] == {"data": "x" * 1000}


def test_a_client_that_leaves_leaves_nothing_behind(strict):
    peer = strict.peer()
    peer.advertise()
    peer.send(op="subscribe", topic="/x", type="std_msgs/String")
    peer.session.close()
    assert strict.bus.topics() == {}


# --- quirks -------------------------------------------------------------------------------------------------


def test_b1_b2_b3_quirks_say_nothing_about_failures(quirky):
    quirky.listen()
    peer = quirky.peer()
    silent = [
        {"op": "subscribe", "topic": "/a", "type": "no_msgs/Such"},
        {"op": "subscribe", "topic": TARGET, "type": "std_msgs/String"},
        {"op": "publish", "topic": TARGET, "msg": quirky.pose()},
        {"op": "set_level", "level": "error"},
        {"op": "nonsense"},
    ]
    assert peer.send(*silent) == []
    peer.advertise()
    unknown = quirky.pose() | {"colour": "red"}
    assert peer.publish(unknown) == peer.publish(quirky.pose(x="wide")) == []
    assert quirky.heard == []
    assert quirky.gateway.shared.counters["refused"] == 7


def test_b4_missing_fields_are_filled(quirky):
    quirky.listen()
    peer = quirky.peer()
    peer.advertise()
    peer.publish({"pose": {"position": {"x": 0.3}}})
    [pose] = [m["pose"] for m in quirky.heard]
    assert pose["position"] == {"x": 0.3, "y": 0.0, "z": 0.0}
    assert pose["orientation"] == {"x": 0, "y": 0, "z": 0, "w": 1.0 if quirky.flavour == "ros2" else 0.0}


def test_b5_not_finite_numbers_pass_and_subscribers_see_null(quirky):
    quirky.listen()
    peer = quirky.peer()
    peer.send({"op": "subscribe", "topic": TARGET, "type": POSE, "queue_length": 5})
    peer.advertise()
    seen = []
    for token in ("NaN", "Infinity", "1e999"):
        text = json.dumps({"op": "publish", "topic": TARGET, "msg": quirky.pose(x=1.5)}).replace("1.5", token)
        seen += peer.send(text)
    assert [m["pose"]["position"]["x"] for m in quirky.heard][1:] == [math.inf, math.inf]
    assert math.isnan(quirky.heard[0]["pose"]["position"]["x"])
    assert [f["msg"]["pose"]["position"]["x"] for f in seen] == [None] * 3


def test_b6_whole_numbers_become_floats(quirky):
    quirky.listen()
    peer = quirky.peer()
    peer.advertise()
    peer.publish(quirky.pose(x=1))
    assert type(quirky.heard[0]["pose"]["position"]["x"]) is float


def test_b7_b8_stamps_of_the_other_flavour(quirky):
    quirky.listen()
    peer = quirky.peer()
    peer.advertise()
    foreign = quirky.pose()
    foreign["header"]["stamp"] = stamp_of(123.5, "ros1" if quirky.flavour == "ros2" else "ros2")
    peer.publish(foreign)
    stamp = seconds_of(quirky.heard[0]["header"]["stamp"])
    assert stamp == pytest.approx(123.5 if quirky.flavour == "ros2" else quirky.clock.wall())


def test_b9_type_strings(quirky):
    peer = quirky.peer()
    peer.advertise(type_name="geometry_msgs/msg/PoseStamped")
    assert bool(quirky.bus.publishers(TARGET)) == (quirky.flavour == "ros2")
    peer.advertise(type_name=POSE)
    assert quirky.bus.publishers(TARGET)


def test_b10_one_damaged_frame_silences_the_socket(quirky):
    quirky.listen()
    peer = quirky.peer()
    peer.advertise()
    peer.publish(quirky.pose())
    assert peer.send('{"op":"publish","topic":"/target') == []
    for _ in range(3):
        assert peer.publish(quirky.pose()) == []
    assert len(quirky.heard) == 1


def test_b11_two_objects_in_a_frame_are_both_carried_out(quirky):
    quirky.listen()
    peer = quirky.peer()
    peer.advertise()
    one = json.dumps({"op": "publish", "topic": TARGET, "msg": quirky.pose()})
    peer.send(one + one)
    assert len(quirky.heard) == 2


def test_b12_binary_frames(quirky):
    peer = quirky.peer()
    peer.session.receive_binary(b"\xa0")
    if quirky.flavour == "ros1":
        peer.session.receive_binary(b"\xff\xff")
    else:
        with pytest.raises(CloseLink) as closed:
            peer.session.receive_binary(b"\xff\xff")
        assert closed.value.code == 1006


def test_b13_limits_of_the_three_servers(quirky):
    limits = {"ros1": 64 << 20, "ros2": 10_000_000}
    assert quirky.gateway.quirks.inbound_limit == limits[quirky.flavour]
    assert World().gateway.config.inbound_limit == 4 << 20


def test_b15_cbor_of_a_string_list_never_comes(quirky):
    peer = quirky.peer()
    for topic, compression in (("/a", "cbor"), ("/b", "none")):
        quirky.bus.advertise(topic, "sensor_msgs/JointState")
        peer.send(op="subscribe", topic=topic, compression=compression)
        quirky.bus.publish(topic, zeros("sensor_msgs/JointState", quirky.flavour))
    assert [f["topic"] for f in peer.received()] == ["/b"]


def test_b17_a_late_subscriber_may_get_an_old_message(quirky):
    peer = quirky.peer()
    peer.advertise()
    peer.publish(quirky.pose(x=0.25))
    quirky.clock.advance(100)
    late = quirky.peer("/late").send({"op": "subscribe", "topic": TARGET, "type": POSE})
    assert len(late) == (1 if quirky.flavour == "ros2" else 0)


def test_b24_quirks_know_no_owner_of_a_topic(quirky):
    quirky.listen()
    for name in ("/one", "/two"):
        peer = quirky.peer(name)
        peer.advertise()
        peer.publish(quirky.pose())
    assert len(quirky.heard) == 2
