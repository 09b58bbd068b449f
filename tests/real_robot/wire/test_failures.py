"""Rows F6 to F44 that the wire decides, over loopback sockets; one test a row, named after it."""

from __future__ import annotations

import gc
import json
import math
import os
import threading

import pytest

from robopolicy.core.errors import ConfigError, FrameRefused, InvalidMessage, LinkDown, ServiceFailed
from robopolicy.real_robot.clock import VirtualClock
from robopolicy.real_robot.wire.backends import BusBackend
from robopolicy.real_robot.wire.bus import Bus
from robopolicy.real_robot.wire.client import LinkState
from robopolicy.real_robot.wire.client_config import ClientConfig, check_resolved, check_url, warnings_of
from robopolicy.real_robot.wire.gateway import Gateway
from robopolicy.real_robot.wire.gateway_config import GatewayConfig
from robopolicy.real_robot.wire.inbox import Inbox
from robopolicy.real_robot.wire.outgoing import Outgoing
from robopolicy.real_robot.wire.protocol import Reassembler, split
from robopolicy.real_robot.wire.slot import Slot
from robopolicy.testing.fuzz import present

POSE = "geometry_msgs/PoseStamped"
TARGET = "/target_pose"


def test_F06_unreadable_frames_are_counted_and_a_burst_is_told():
    inbox = Inbox(bad_frames_a_second=20)
    frames = ["", "{", "[]", '"x"', '{"op":1}', '{"op":"publish","topic":[1]}', "{}", b"\xff", '{"op":"fragment"}']
    for i in range(20):
        inbox.receive(frames[i % len(frames)], i * 0.04)
    assert inbox.counters["malformed"] >= 17
    assert not inbox.bad_burst(0.8)
    for i in range(21):
        inbox.receive("{", 10 + i * 0.04)
    assert inbox.bad_burst(10.8)
    assert not inbox.bad_burst(12.0)
    inbox.receive('{"op":"surprise"}', 13.0)
    assert inbox.counters["unknown_op"] == 1


def test_F06_bad_frames_from_the_server_become_one_event(wire, until):
    gateway = wire.gateway()
    client = wire.client(gateway.url)
    client.subscribe("/x", "std_msgs/Int32")
    assert until(lambda: wire.bus.subscribers("/x"))
    gateway.faults.set(truncate=1.0)
    wire.bus.advertise("/x", "std_msgs/Int32")

    def told():
        wire.bus.publish("/x", {"data": 1})
        return any(e.kind == "bad_frames" for e in client.events)

    assert until(told)
    gateway.faults.clear()
    assert client.state is LinkState.UP
    assert client.call_service("/rosapi/get_time", "rosapi/GetTime")


def test_F07_messages_over_the_limits_are_refused_or_end_the_link(wire, until):
    gateway = wire.gateway()
    client = wire.client(gateway.url)
    client.advertise("/t", "std_msgs/String")
    with pytest.raises(FrameRefused, match="the limit is 1048576"):
        client.publish("/t", {"data": "x" * (1 << 20)})
    client._link.out.control(json.dumps({"op": "x" * (5 << 20)}))
    client._link.wake()
    assert client.wait_down(20)
    assert "1009" in client.reason
    assert client.wait_up(20, after_epoch=1)
    slot = client.subscribe("/huge", "std_msgs/String")
    assert until(lambda: wire.bus.subscribers("/huge"))
    wire.bus.advertise("/huge", "std_msgs/String")
    wire.bus.publish("/huge", {"data": "x" * (17 << 20)})
    assert client.wait_down(20)
    assert slot.newest() is None
    assert client.wait_up(20, after_epoch=2)


@pytest.mark.slow
def test_F07_oversize_frames_again_and_again_leave_no_memory_behind(wire, until):
    gateway = wire.gateway()
    client = wire.client(gateway.url, reconnect_first=0.05)
    client.subscribe("/huge", "std_msgs/String")
    wire.bus.advertise("/huge", "std_msgs/String")
    sizes, text = [], "x" * (17 << 20)
    for k in range(6):
        assert client.wait_up(20, after_epoch=k)
        assert until(lambda: wire.bus.subscribers("/huge"))
        wire.bus.publish("/huge", {"data": text})
        assert client.wait_down(20)
        gc.collect()
        sizes.append(present())
    # The first one makes room for the buffers that every later one uses again.
    assert max(sizes[1:]) - sizes[0] < 32 << 20


def test_F08_fragments_are_put_together_and_bounded():
    r = Reassembler()
    text = json.dumps({"op": "publish", "topic": "/x", "msg": {"data": "y" * 5000}})
    parts = [json.loads(p) for p in split(text, 512, "f1")]
    for p in reversed(parts[1:]):
        assert r.add(p, 0.0) is None
    assert r.add(parts[1], 0.0) is None
    assert r.add(parts[0], 1.9)["msg"]["data"] == "y" * 5000
    assert r.held == 0
    assert r.add(parts[0], 10.0) is None
    r.expire(11.9)
    assert r.held > 0
    r.expire(12.0)
    assert (r.held, r.dropped) == (0, 1)
    for i in range(100):
        r.add(parts[0] | {"id": f"f{i}"}, 20.0)
    assert r.dropped == 1 + 36
    for i in range(40):
        r.add({"op": "fragment", "id": "big", "data": "z" * (1 << 20), "num": i, "total": 50}, 20.0)
        assert r.held <= 16 << 20
    for bad in ({"num": -1}, {"num": 50}, {"total": 10**9}, {"total": 3}, {"data": 5}):
        r.add(parts[0] | {"id": "bad"}, 30.0)
        with pytest.raises(FrameRefused):
            r.add(parts[1] | {"id": "bad"} | bad, 30.0)


def test_F08_the_client_hears_a_server_that_splits(wire, until):
    gateway = wire.gateway(quirks="rosbridge1", max_message_size=1000)
    client = wire.client(gateway.url)
    slot = client.subscribe("/t", "std_msgs/String")
    assert until(lambda: wire.bus.subscribers("/t"))
    wire.bus.advertise("/t", "std_msgs/String")
    wire.bus.publish("/t", {"data": "x" * 20_000})
    assert slot.wait(20).message == {"data": "x" * 20_000}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None])
def test_F09_nothing_that_is_not_finite_leaves_the_client(wire, pose, bad):
    client = wire.commanding(wire.gateway().url)
    with pytest.raises(InvalidMessage, match=r"position\.x"):
        client.publish(TARGET, pose(x=bad))
    assert client.sent == 0


def test_F10_null_in_a_state_is_refused_and_counted(wire, until):
    gateway = wire.gateway()
    client = wire.client(gateway.url)
    slot = client.subscribe("/f", "std_msgs/Float64")
    assert until(lambda: wire.bus.subscribers("/f"))
    wire.bus.advertise("/f", "std_msgs/Float64")
    wire.bus.deliver("/f", {"data": math.nan})
    assert until(lambda: slot.invalid == 1)
    assert slot.newest() is None
    assert "null" in slot.last_error


def test_F32_a_second_publisher_is_seen(wire, until, pose):
    gateway = wire.gateway(command_topics=())
    client, stranger = wire.commanding(gateway.url), wire.client(gateway.url)
    loopback = client.watch_loopback(TARGET, POSE)
    assert until(lambda: wire.bus.subscribers(TARGET))
    client.publish(TARGET, pose())
    assert until(lambda: loopback.seen_count == 1)
    assert loopback.foreign == 0
    assert len(client.publishers(TARGET)) == 1
    stranger.advertise(TARGET, POSE)
    stranger.publish(TARGET, pose(x=0.5))
    assert until(lambda: any(e.kind == "foreign_command" for e in client.events))
    assert len(client.publishers(TARGET)) == 2


def test_F32_the_last_command_of_an_earlier_session_is_no_second_publisher(wire, until, pose):
    gateway = wire.gateway("ros2", quirks="rosbridge2")
    heard = []
    wire.bus.subscribe(TARGET, POSE, heard.append, "/controller")
    earlier = wire.commanding(gateway.url)
    earlier.publish(TARGET, pose("ros2"))
    assert until(lambda: heard)
    earlier.close()
    client = wire.client(gateway.url)
    loopback = client.watch_loopback(TARGET, POSE)
    slot = client.inbox.slots[TARGET]
    assert until(lambda: slot.received == 1)  # B17
    client.call_service("/rosapi/get_time", "rosapi/GetTime")
    assert loopback.foreign == 0
    assert not any(e.kind == "foreign_command" for e in client.events)
    stranger = wire.commanding(gateway.url)
    stranger.publish(TARGET, pose("ros2"))
    assert until(lambda: loopback.foreign == 1)


def test_F32_the_strict_gateway_refuses_the_second_writer(wire, until, pose):
    gateway = wire.gateway()
    first, second = wire.commanding(gateway.url), wire.client(gateway.url)
    stop = threading.Event()

    def keep_commanding():
        while not stop.wait(0.02):
            first.publish(TARGET, pose(), drop=True)

    thread = threading.Thread(target=keep_commanding)
    thread.start()
    try:
        assert until(lambda: first.sent > 3)
        second.advertise(TARGET, POSE)
        assert until(lambda: second.inbox.statuses)
        assert "has a writer" in second.inbox.statuses[0]
    finally:
        stop.set()
        thread.join()


def test_F33_who_hears_the_command_topic_and_as_what(wire, until):
    gateway = wire.gateway()
    client = wire.client(gateway.url)
    assert client.topic_problems(TARGET, POSE) == [f"nobody subscribes to {TARGET}: is the controller running?"]
    wire.bus.subscribe(TARGET, POSE, print, "/controller")
    assert client.topic_problems(TARGET, POSE) == []
    wire.bus.advertise(TARGET, POSE, "/other")
    assert client.topic_problems(TARGET, POSE) == [f"/other already publishes on {TARGET}"]
    wire.bus.subscribe("/second", "std_msgs/String", print, "/controller")
    [problem] = client.topic_problems("/second", POSE)
    assert "carries std_msgs/String, not geometry_msgs/PoseStamped" in problem
    wire.bus.subscribe(TARGET, POSE, print, "/second_controller")
    assert any("2 nodes hear" in p for p in client.topic_problems(TARGET, POSE))


def test_F34_without_the_token_nothing_is_read(wire, tmp_path):
    import websockets.sync.client as raw
    from websockets.exceptions import InvalidStatus

    token = tmp_path / "token"
    token.write_text("a-long-enough-secret\n")
    token.chmod(0o600)
    gateway = wire.gateway(token_file=token)
    assert wire.client(gateway.url, token_file=token).state is LinkState.UP
    with pytest.raises(LinkDown, match="401: token missing or wrong"):
        wire.client(gateway.url)
    frames = gateway.shared.counters["frames"]
    for headers in (
        {"Authorization": "Bearer wrong-but-long-enough"},
        {"Authorization": "Bearer a-long-enough-secre"},
        {"Authorization": "a-long-enough-secret"},
        [("Authorization", "Bearer x"), ("Authorization", "Bearer a-long-enough-secret")],
    ):
        with pytest.raises(InvalidStatus) as refused:
            raw.connect(gateway.url, additional_headers=headers, proxy=None).close()
        assert refused.value.response.status_code == 401
    assert gateway.shared.counters["frames"] == frames


def test_F34_token_files_that_protect_nothing_are_refused(tmp_path):
    from robopolicy.real_robot.wire.gateway_config import read_token

    path = tmp_path / "token"
    with pytest.raises(ConfigError, match="token file"):
        read_token(path)
    path.write_text("a-long-enough-secret")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_token(path)
    path.chmod(0o600)
    assert read_token(path) == "a-long-enough-secret"
    for bad in ("short", "two words that are long", ""):
        path.write_text(bad)
        with pytest.raises(ConfigError, match="16 or more"):
            read_token(path)


def test_F35_addresses_that_are_not_this_machine():
    assert check_url("ws://127.0.0.1:9090") == "127.0.0.1"
    assert check_url("ws://localhost:9090") == "localhost"
    assert check_url("ws://[::1]:9090") == "::1"
    assert check_url("ws://192.168.1.5:9090", ("192.168.1.5",)) == "192.168.1.5"
    assert check_url("wss://8.8.8.8:9090", ("8.8.8.8",)) == "8.8.8.8"
    for url, allowed, says in (
        ("ws://192.168.1.5:9090", (), "add it to allowed_hosts"),
        ("ws://robot:9090", ("other",), "add it to allowed_hosts"),
        ("ws://8.8.8.8:9090", ("8.8.8.8",), "plain ws to a public address"),
        ("http://127.0.0.1", (), "expected ws://"),
        ("ws://user:pw@127.0.0.1", (), "expected ws://"),
        ("ws://127.0.0.1:99999", (), "url"),
        ("ws://", (), "expected ws://"),
        ("ws://127.0.0.1.evil.example:9090", (), "add it to allowed_hosts"),
    ):
        with pytest.raises(ConfigError, match=says):
            ClientConfig(url=url, allowed_hosts=allowed)
    with pytest.raises(ConfigError, match=r"robot is 8\.8\.8\.8, a public address"):
        check_resolved("ws://robot:9090", lambda name: ["8.8.8.8"])
    check_resolved("ws://robot:9090", lambda name: ["10.0.0.7"])
    assert warnings_of("ws://localhost:9090") == []
    assert "firewall or an ssh tunnel" in warnings_of("ws://192.168.1.5:9090")[0]


def test_F35_the_gateway_binds_loopback_unless_told_twice(wire, tmp_path, caplog):
    assert GatewayConfig().host == "127.0.0.1"
    for config, says in (
        ({"host": "0.0.0.0"}, "--allow-remote"),
        ({"host": "0.0.0.0", "allow_remote": True}, "without --token-file"),
        ({"host": "0.0.0.0", "allow_remote": True, "token_file": "t", "quirks": "rosbridge1"}, "loopback only"),
        ({"host": "::"}, "--allow-remote"),
    ):
        with pytest.raises(ConfigError, match=says):
            GatewayConfig(**config)


@pytest.mark.parametrize(
    ("host", "told"), [("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("192.0.2.7", "192.0.2.7"), ("::1", "[::1]")]
)
def test_the_address_that_is_told_is_one_that_was_bound(host, told, tmp_path, monkeypatch):
    token = tmp_path / "token"
    token.write_text("0123456789abcdef0123456789abcdef")
    token.chmod(0o600)
    monkeypatch.setattr(Gateway, "port", 9090)
    gateway = Gateway(BusBackend(Bus()), GatewayConfig(host=host, allow_remote=True, token_file=str(token)))
    assert gateway.url == f"ws://{told}:9090"


def test_F38_order_is_by_stamp_duplicates_and_older_ones_are_dropped(pose):
    slot = Slot("/x", POSE)
    for stamp, epoch, taken in (
        (10.0, 1, True),
        (10.0, 1, False),
        (9.9, 1, False),
        (10.1, 1, True),
        # A new connection: a latched old message first, twice; then the source that really runs.
        (10.1, 2, False),
        (5.0, 2, False),
        (10.2, 2, True),
        # Its clock was set back: the first old stamp waits, a newer one proves that the source runs.
        (3.0, 3, False),
        (3.0, 3, False),
        (3.01, 3, True),
    ):
        assert slot.offer(pose(stamp=stamp), "ros1", stamp, epoch) is taken, (stamp, epoch)
    slot = Slot("/x", POSE)
    slot.offer(pose(stamp=10.0), "ros1", 0.0, 1)
    assert not slot.offer(pose(stamp=3.0), "ros1", 0.0, 2)
    assert slot.offer(pose(stamp=3.01), "ros1", 0.0, 2)
    assert not slot.offer(pose(stamp=3.01), "ros1", 0.0, 2)
    assert slot.newest().stamp == pytest.approx(3.01)
    assert slot.stale == 2


def test_F44_the_flavour_is_found_at_connect_and_a_wrong_setting_refused(wire, pose):
    for flavour, other in (("ros1", "ros2"), ("ros2", "ros1")):
        gateway = wire.gateway(flavour, quirks="rosbridge1" if flavour == "ros1" else "rosbridge2")
        assert wire.client(gateway.url).flavour == flavour
        with pytest.raises(LinkDown, match=f"the server speaks {flavour}, but flavour is set to {other}"):
            wire.client(gateway.url, flavour=other)


def test_F44_a_server_without_rosapi_needs_the_setting(wire):
    gateway = wire.gateway(allow_services=("/nothing",))
    with pytest.raises(LinkDown, match="set flavour to ros1 or ros2"):
        wire.client(gateway.url)
    assert wire.client(gateway.url, flavour="ros2").flavour == "ros2"


def test_a_late_message_is_discarded_not_sent_late():
    clock = VirtualClock()
    out = Outgoing()
    out.message("/a", "1", clock.now() + 0.02)
    out.message("/a", "2", clock.now() + 0.02)
    out.message("/b", "3", clock.now() + 0.02)
    assert out.pop(clock.now()) == "2"
    clock.advance(0.021)
    assert out.pop(clock.now()) is None
    assert (out.replaced, out.expired, out.sent) == (1, 1, 1)


def test_services_fail_with_the_servers_words_or_in_time(wire):
    gateway = wire.gateway()
    client = wire.client(gateway.url)
    with pytest.raises(ServiceFailed, match="there is no service /none"):
        client.call_service("/none", "std_srvs/Trigger")
    block = threading.Event()
    wire.bus.serve("/slow", "std_srvs/Trigger", lambda r: (block.wait(20) and {}) or {"success": True, "message": ""})
    with pytest.raises(ServiceFailed, match=r"no answer within 0\.05 s"):
        client.call_service("/slow", "std_srvs/Trigger", timeout=0.05)
    block.set()
    assert client.call_service("/slow", "std_srvs/Trigger")["success"]


def test_at_most_eight_clients_and_no_web_pages(wire):
    import websockets.sync.client as raw
    from websockets.exceptions import InvalidStatus

    gateway = wire.gateway()
    with pytest.raises(InvalidStatus) as refused:
        raw.connect(gateway.url, origin="http://evil.example", proxy=None)
    assert refused.value.response.status_code == 403
    clients = [wire.client(gateway.url) for _ in range(8)]
    with pytest.raises(LinkDown, match="503"):
        wire.client(gateway.url)
    clients[0].close()
    assert len(gateway.clients) <= 8


def test_images_travel_as_cbor(wire, until):
    gateway = wire.gateway()
    client = wire.client(gateway.url)
    slot = client.subscribe("/cam", "sensor_msgs/CompressedImage", binary=True)
    assert until(lambda: wire.bus.subscribers("/cam"))
    wire.bus.advertise("/cam", "sensor_msgs/CompressedImage")
    data = os.urandom(100_000)
    stamped = {"header": {"seq": 1, "stamp": {"secs": 5, "nsecs": 0}, "frame_id": "cam"}}
    wire.bus.publish("/cam", stamped | {"format": "jpeg", "data": data})
    sample = slot.wait(20)
    assert sample.message["data"] == data
    assert sample.stamp == 5.0
