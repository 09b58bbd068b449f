"""Rows F1 to F5 that the wire decides: links that drop, freeze, hang or go deaf; one test a row, named after it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import pytest

from robopolicy.core.errors import LinkDown
from robopolicy.real_robot.clock import VirtualClock
from robopolicy.real_robot.wire.bus import Bus
from robopolicy.real_robot.wire.client import LinkState, RosbridgeClient
from robopolicy.real_robot.wire.client_config import ClientConfig
from robopolicy.real_robot.wire.link import Link
from robopolicy.real_robot.wire.loopback import Loopback
from robopolicy.real_robot.wire.messages import conform, stamp_key

POSE = "geometry_msgs/PoseStamped"
TARGET = "/target_pose"


def test_F01_a_dropped_link_queues_nothing_and_needs_arming_again(wire, until, pose):
    gateway = wire.gateway()
    arrived = []
    wire.bus.subscribe(TARGET, POSE, lambda m: arrived.append((stamp_key(m), time.monotonic())), "/controller")
    client = wire.commanding(gateway.url)
    epoch = client.epoch
    assert client.publish(TARGET, pose(), epoch=epoch)
    assert until(lambda: len(arrived) == 1)
    gateway.drop_clients()
    assert client.wait_down(20)
    down = next(e for e in client.events if e.kind == "down")
    # Told by the socket itself, in milliseconds; not by a ping that failed later.
    assert "connection was closed" in down.reason
    refused = 0
    while client.state is not LinkState.UP:
        try:
            client.publish(TARGET, pose(), epoch=epoch)
        except LinkDown:
            refused += 1
        time.sleep(0.005)
    with pytest.raises(LinkDown, match=r"renewed \(epoch 2, not 1\)"):
        client.publish(TARGET, pose(), epoch=epoch)
    assert not client.publish(TARGET, pose(), epoch=epoch, drop=True)
    assert refused > 0
    assert client.counters["dropped"] == refused + 2
    fresh = pose()
    client.publish(TARGET, fresh, epoch=client.epoch)
    assert until(lambda: len(arrived) > 1)
    assert [k for k, _ in arrived[1:]] == [stamp_key(fresh)]


def test_F01_a_thread_held_up_in_publish_over_a_reconnection_sends_nothing_old(pose, monkeypatch):
    from robopolicy.real_robot.wire import client as module

    clock = VirtualClock()
    client = module.RosbridgeClient(ClientConfig(), clock)
    client._adverts[TARGET], client._flavour = (POSE, False), "ros1"
    client.state, client.epoch, client._link = LinkState.UP, 1, Link(client)

    def slow(*args):
        clock.advance(0.3)  # a pause of the interpreter, over which the link was lost and made anew
        client._link.out.clear()
        client.epoch = 2
        return conform(*args)

    monkeypatch.setattr(module, "conform", slow)
    client.publish(TARGET, pose(), epoch=1)
    assert client._link.out.pop(clock.now()) is None


def test_F01_a_command_that_was_on_its_way_when_the_link_was_lost_is_not_carried_out_after_it(wire):
    gateway, done = wire.gateway(), []
    wire.bus.serve("/act", "std_srvs/Trigger", lambda r: done.append(1) or {"success": True, "message": ""})
    client = wire.client(gateway.url)
    gateway.drop_clients()
    assert client.wait_down(20)
    # A thread that saw the link up before it was lost, and goes on now.
    client._control({"op": "call_service", "id": "late", "service": "/act", "args": {}})
    assert client.wait_up(20, after_epoch=1)
    for _ in range(3):
        client.call_service("/rosapi/nodes", "rosapi/Nodes")
    assert done == []


def test_F02_a_frozen_server_is_noticed_by_its_pings(wire):
    gateway = wire.gateway()
    client = wire.client(gateway.url, ping_timeout=0.25)
    assert client.wait_up(1)
    frozen = threading.Event()
    gateway._loop.call_soon_threadsafe(frozen.wait, 20)
    try:
        assert client.wait_down(20)
        assert "no answer to a ping within 0.25 s" in [e for e in client.events if e.kind == "down"][-1].reason
    finally:
        frozen.set()


def test_F02_a_ping_that_a_full_socket_does_not_take_counts_as_unanswered():
    class Owner:
        config = ClientConfig(ping_timeout=0.02)

    class Stuck:
        async def ping(self):
            await asyncio.Event().wait()

    async def ping():
        return await asyncio.wait_for(Link(Owner())._ping(Stuck()), 20)

    assert "no answer to a ping within 0.02 s" in asyncio.run(ping())


def test_dropping_a_link_that_is_closed_already_is_nothing(wire):
    client = wire.client(wire.gateway().url)
    client.close()
    client.drop_link("on suspicion")
    assert client.state is LinkState.CLOSED


def test_F02_the_ping_figures_add_up_to_the_bound_of_the_row():
    config = ClientConfig()
    assert config.ping_interval + config.ping_timeout <= 0.55


def test_F03_a_restarted_server_is_found_and_everything_asked_for_again(wire, until, pose):
    import contextlib

    with contextlib.ExitStack() as first:
        stack, wire.stack = wire.stack, first
        gateway = wire.gateway()
        port, bus = gateway.port, wire.bus
        wire.stack = stack
        client = wire.commanding(gateway.url)
        slot = client.subscribe("/state", "std_msgs/Int32")
        assert until(lambda: bus.publishers(TARGET) and bus.subscribers("/state"))
    assert client.wait_down(20)
    second = Bus()
    heard = []
    second.subscribe(TARGET, POSE, heard.append, "/controller")
    second.advertise("/state", "std_msgs/Int32")
    wire.gateway(bus=second, port=port)
    assert client.wait_up(20, after_epoch=1)
    assert until(lambda: second.publishers(TARGET) and second.subscribers("/state"))
    second.publish("/state", {"data": 7})
    assert slot.wait(20).message == {"data": 7}
    assert slot.newest().epoch == client.epoch == 2
    client.publish(TARGET, pose(), epoch=2)
    assert until(lambda: len(heard) == 1)


def test_F03_reconnect_delays_double_to_a_ceiling_that_keeps_the_five_seconds():
    class Owner:
        config = ClientConfig()

    delays = [Link(Owner()).delay(n) for n in range(1, 9)]
    for delay, base in zip(delays, [0.25, 0.5, 1, 2, 4, 4, 4, 4], strict=True):
        assert 0.9 * base <= delay <= 1.1 * base
    assert 1.1 * ClientConfig().reconnect_ceiling <= 5


def test_F04_a_handshake_that_hangs_ends_and_leaves_no_thread(wire):
    before = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = wire.client(f"ws://127.0.0.1:{silent.getsockname()[1]}", connect=False, handshake_timeout=0.2)
        with pytest.raises(LinkDown, match=r"no handshake within 0\.2 s"):
            client.connect()
        assert client._link.attempts == 1
        assert threading.active_count() == before
    assert ClientConfig().handshake_timeout == 2.0


def test_F04_closing_during_a_hanging_handshake_does_not_wait_for_it(wire):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = wire.client(f"ws://127.0.0.1:{silent.getsockname()[1]}", connect=False)
        with pytest.raises(LinkDown):
            client.connect(timeout=0.2, retry=True)
        assert client.state is LinkState.CLOSED
        assert not client._thread.is_alive()


@pytest.mark.parametrize("quirks", ["rosbridge1", "rosbridge2"])
def test_F05_a_poisoned_socket_is_found_by_hearing_our_own_commands(wire, until, pose, quirks):
    flavour = "ros1" if quirks == "rosbridge1" else "ros2"
    gateway = wire.gateway(flavour, quirks=quirks)
    client = wire.commanding(gateway.url)
    loopback = client.watch_loopback(TARGET, POSE)
    assert until(lambda: wire.bus.subscribers(TARGET) and wire.bus.publishers(TARGET))

    def command():
        client.publish(TARGET, pose(flavour), drop=True)
        time.sleep(0.01)

    while not loopback.seen_count:
        command()
    client._link.out.control('{"op":"publish","topic":"/tar')
    while client.epoch == 1 and client.state is LinkState.UP:
        command()
    assert client.wait_up(20, after_epoch=1)
    down = [e for e in client.events if e.kind == "down"]
    assert "do not arrive" in down[0].reason
    seen = loopback.seen_count
    while loopback.seen_count == seen:
        command()


def test_F05_the_loopback_reaches_its_hard_limit_within_the_row():
    loopback = Loopback()
    for i in range(100):
        loopback.sent((i, 0), i * 0.01)
        if i < 50:
            loopback.seen((i, 0), i * 0.01 + 0.002)
    assert loopback.age(0.49) == 0 or loopback.age(0.49) < 0
    first_unconfirmed = 0.50
    assert loopback.age(first_unconfirmed + 0.3) == pytest.approx(0.3)
    assert ClientConfig().loopback_hard <= 0.30
    loopback.seen((99, 0), 1.0)
    assert loopback.age(5.0) == 0
    assert loopback.foreign == 0
    loopback.seen((1000, 0), 1.0)
    assert loopback.foreign == 1


def test_a_loopback_watched_while_the_link_looks_does_not_end_the_link():
    client = RosbridgeClient()

    class Meanwhile(Loopback):
        def age(self, now):
            client.loopbacks["/second"] = Loopback()  # as another thread's watch_loopback does
            return super().age(now)

    client.loopbacks["/first"] = Meanwhile()
    assert client.look(0.0) is None
