"""Hostile frames: 100,000 at the protocol code, thousands through sockets; nothing escapes, nothing grows.

``benchmarks/fuzz_bridge.py`` sends 100,000 to each part.
"""

from __future__ import annotations

import contextlib
import random
import socket

import pytest

from robopolicy.testing.fuzz import client_core, client_socket, gateway_core, gateway_socket

MOST = 32 << 20


@pytest.mark.parametrize(("quirks", "count"), [("none", 40_000), ("rosbridge1", 10_000), ("rosbridge2", 10_000)])
def test_F06_no_frame_crashes_the_gateway_or_makes_it_grow(quirks, count):
    result = gateway_core(count, quirks)
    assert result.crashes == []
    assert set(result.closed) <= {1003, 1006, 1007, 1008}
    assert result.closed.total() > (1000 if quirks == "none" else 0 if quirks == "rosbridge2" else -1)
    assert result.counted["published"] > 0
    assert result.counted["topics_left"] == 0
    assert result.grown_peak < MOST


def test_F06_no_frame_crashes_the_client_or_makes_it_grow():
    result = client_core(40_000)
    assert result.crashes == []
    assert result.counted["frames"] == 40_000
    assert result.counted["malformed"] > 1000
    assert result.counted["invalid"] > 100
    assert result.counted["kept"] == 2
    assert result.grown_peak < MOST


@pytest.mark.slow
@pytest.mark.parametrize("quirks", ["none", "rosbridge1"])
def test_F06_a_gateway_under_fire_goes_on_serving_an_honest_client(quirks):
    result = gateway_socket(3000, quirks)
    assert result.crashes == []
    assert (result.counted["served"], result.counted["honest_epoch"]) == (1, 1)
    assert result.counted["frames"] > 2900
    assert result.closed.total() > (500 if quirks == "none" else -1)
    assert set(result.closed) <= {1003, 1007}
    assert result.grown_peak < MOST


def test_F06_a_client_under_fire_stays_connected_and_hears_what_is_right():
    result = client_socket(10_000)
    assert result.crashes == []
    assert (result.counted["heard"], result.counted["epoch"], result.counted["lost"]) == (1, 1, 0)
    assert result.counted["malformed"] > 1000
    assert result.counted["burst_told"] == 1
    assert result.grown_peak < MOST


def test_F06_hostile_sockets_leave_the_gateway_serving(wire):
    gateway = wire.gateway(max_clients=8)
    rng = random.Random("sockets")
    for i in range(30):
        with socket.create_connection(("127.0.0.1", gateway.port)) as raw:
            raw.settimeout(5)
            with contextlib.suppress(OSError):
                if i % 2:
                    raw.sendall(
                        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
                    )
                    raw.recv(1024)
                raw.sendall(rng.randbytes(200))
    client = wire.client(gateway.url)
    assert client.server_time()[1] > 0
