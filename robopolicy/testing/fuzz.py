"""Hostile frames for the wire, and what four parts of it make of them: nothing may crash, nothing may grow.

For anyone who changes gateway or client, or writes a server of their own.  The frames are those of ``hostile_frames``.
``gateway_core`` and ``client_core`` feed the protocol code directly, ``gateway_socket`` and ``client_socket`` go
through real connections.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import random
import resource
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robopolicy.core.errors import FrameRefused
from robopolicy.real_robot.clock import VirtualClock
from robopolicy.real_robot.wire.backends import BusBackend
from robopolicy.real_robot.wire.bus import Bus
from robopolicy.real_robot.wire.client import RosbridgeClient
from robopolicy.real_robot.wire.client_config import ClientConfig
from robopolicy.real_robot.wire.codec import decode_json
from robopolicy.real_robot.wire.gateway import Gateway, running_gateway
from robopolicy.real_robot.wire.gateway_config import GatewayConfig
from robopolicy.real_robot.wire.inbox import Inbox
from robopolicy.real_robot.wire.protocol import CloseLink
from robopolicy.real_robot.wire.quirks import QuirkySession
from robopolicy.real_robot.wire.session import Session
from robopolicy.real_robot.wire.slot import Slot
from robopolicy.testing.hostile_frames import POSE, TARGET, bytes_of, text_of

VARIETY = 2000  # texts made once, from which frames are drawn
CRASH = 1011  # websocket's "internal error"


# -- what became of them -----------------------------------------------------------------------------------------------


def peak() -> int:
    """The most memory that this process ever had, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def present() -> int:
    """Memory that this process has now, bytes (its peak where the system does not tell)."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError):
        return peak()
    return pages * resource.getpagesize()


@dataclass
class Fuzzed:
    """``frames`` sent, ``crashes`` (exceptions that nobody raised on purpose), connections ``closed`` by code, bytes
    by which memory grew (``grown``; ``grown_peak`` at its highest), ``seconds``, and what else was ``counted``."""

    frames: int
    crashes: list[str] = field(default_factory=list)
    closed: Counter[int] = field(default_factory=Counter)
    counted: dict[str, int] = field(default_factory=dict)
    grown: int = 0
    grown_peak: int = 0
    seconds: float = 0.0


class _Errors(logging.Handler):
    """Servers log what broke them; nothing else is logged as an error."""

    def __init__(self, found: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        kind = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
        self._found.append(f"{record.getMessage()} {kind}".strip())


@contextlib.contextmanager
def _watched(frames: int) -> Iterator[Fuzzed]:
    result = Fuzzed(frames)
    handler, log = _Errors(result.crashes), logging.getLogger("robopolicy.real_robot.wire")
    log.addHandler(handler)
    gc.collect()
    before, top, began = present(), peak(), time.perf_counter()
    try:
        yield result
    finally:
        result.seconds = time.perf_counter() - began
        log.removeHandler(handler)
        gc.collect()
        result.grown, result.grown_peak = present() - before, peak() - top


# -- the protocol code, without sockets --------------------------------------------------------------------------------


def gateway_core(frames: int, quirks: str = "none", seed: int = 0) -> Fuzzed:
    """Frames at the gateway's session, a new session after each that ended one; ``quirks``: none, rosbridge1 or 2."""
    rng, clock = random.Random(f"gateway {quirks} {seed}"), VirtualClock()
    bus = Bus("ros2" if quirks == "rosbridge2" else "ros1", clock)
    gateway = Gateway(BusBackend(bus), GatewayConfig(quirks=quirks), clock)  # type: ignore[arg-type]
    shared = gateway.shared
    shared.defer = lambda function: function()

    def fresh() -> Session:
        return (Session if quirks == "none" else QuirkySession)(shared, "/fuzz", lambda: None)

    session, texts = fresh(), [text_of(rng) for _ in range(VARIETY)]
    with _watched(frames) as result:
        for i in range(frames):
            clock.advance(0.001)
            try:
                if i % 50 == 0:
                    session.receive_binary(bytes_of(rng))
                else:
                    session.receive_text(rng.choice(texts))
            except CloseLink as e:
                result.closed[e.code] += 1
                session.close()
                session = fresh()
            except Exception as e:
                result.crashes.append(f"frame {i}: {type(e).__name__}: {e}")
            if i % 20 == 0:
                while session.outbox.pop() is not None:
                    pass
            if getattr(session, "poisoned", False):
                session.close()
                session = fresh()
        session.close()
    result.counted = {**shared.counters, "topics_left": len(bus.topics())}
    return result


def client_core(frames: int, seed: int = 0) -> Fuzzed:
    """Frames at the client's inbox: three quarters text, the rest CBOR."""
    rng, inbox = random.Random(f"client {seed}"), Inbox()
    for topic in (TARGET, "/a"):
        inbox.slots[topic] = Slot(topic, POSE)
    texts = [text_of(rng) for _ in range(VARIETY)]
    with _watched(frames) as result:
        for i in range(frames):
            try:
                inbox.receive(rng.choice(texts) if i % 4 else bytes_of(rng), i * 0.001)
            except Exception as e:
                result.crashes.append(f"frame {i}: {type(e).__name__}: {e}")
            if i % 100 == 0:
                inbox.expect("i")
    result.counted = {**inbox.counters, "kept": sum(slot.newest() is not None for slot in inbox.slots.values())}
    return result


# -- through sockets ---------------------------------------------------------------------------------------------------


def _ends_a_link(frame: str | bytes) -> bool:
    try:
        return isinstance(frame, bytes) or not isinstance(decode_json(frame), dict)
    except FrameRefused:
        return True


def _read(raw: Any, seconds: float) -> None:
    """What waits (a server that is not read waits for us), and with ``seconds`` until the connection is closed."""
    with contextlib.suppress(TimeoutError):
        while True:
            raw.recv(timeout=seconds)


def gateway_socket(frames: int, quirks: str = "none", seed: int = 0) -> Fuzzed:
    """Frames through one connection after the other, a new one after each that was closed; an honest client stays
    connected all the while and asks the time in the end (``counted["served"]``)."""
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    rng = random.Random(f"gateway socket {quirks} {seed}")
    bus = Bus("ros2" if quirks == "rosbridge2" else "ros1")
    texts = [text_of(rng).encode("utf-8", "replace").decode() for _ in range(VARIETY)]
    config = GatewayConfig(port=0, quirks=quirks)  # type: ignore[arg-type]
    with running_gateway(BusBackend(bus), config) as gateway, _watched(frames) as result:
        patient = ClientConfig(url=gateway.url, ping_timeout=30, service_timeout=30, handshake_timeout=30)
        sent = 0
        with RosbridgeClient(patient) as honest:
            while sent < frames:
                with connect(gateway.url, proxy=None, compression=None, close_timeout=1) as raw:
                    try:
                        while sent < frames:
                            frame = bytes_of(rng) if rng.random() < 0.01 else rng.choice(texts)
                            sent += 1
                            raw.send(frame)
                            _read(raw, 10.0 if quirks == "none" and _ends_a_link(frame) else 0.0)
                            if quirks != "none" and _ends_a_link(frame):
                                break  # a poisoned connection stays open, and deaf
                    except ConnectionClosed as e:
                        result.closed[e.rcvd.code if e.rcvd is not None else 1006] += 1
            result.counted["served"] = int(honest.server_time()[1] > 0)
            result.counted["honest_epoch"] = honest.epoch
        if (broken := result.closed[CRASH]) > 0:
            result.crashes.append(f"{broken} connections closed with {CRASH}")
    result.counted |= gateway.shared.counters
    return result


def client_socket(frames: int, seed: int = 0) -> Fuzzed:
    """A client of a server that answers honestly once and then sends frames like these; in the end an honest message
    must still arrive (``counted["heard"]``)."""
    from websockets.sync.server import ServerConnection, serve

    rng = random.Random(f"client socket {seed}")
    texts = [text_of(rng).encode("utf-8", "replace").decode() for _ in range(VARIETY)]
    begin, done = threading.Event(), threading.Event()

    def hostile(connection: ServerConnection) -> None:
        connection.recv()
        time_now = {"op": "service_response", "result": True, "values": {"time": {"secs": 5, "nsecs": 0}}}
        connection.send(json.dumps({**time_now, "id": "probe:1", "service": "/rosapi/get_time"}))
        begin.wait(30)
        for i in range(frames):
            connection.send(bytes_of(rng) if i % 4 == 0 else rng.choice(texts))
        connection.send(json.dumps({"op": "publish", "topic": "/honest", "msg": {"data": 7}}))
        done.wait(60)

    server = serve(hostile, "127.0.0.1", 0, compression=None, ping_interval=None)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
    try:
        with RosbridgeClient(ClientConfig(url=url, ping_timeout=30)) as client, _watched(frames) as result:
            client.subscribe(TARGET, POSE)
            slot = client.subscribe("/honest", "std_msgs/Int32")
            begin.set()
            heard = slot.wait(600)
            result.counted = dict(client.inbox.counters)
            result.counted |= {"heard": int(heard is not None), "epoch": client.epoch, "lost": client.counters["lost"]}
            result.counted["burst_told"] = sum(e.kind == "bad_frames" for e in client.events)
            done.set()
    finally:
        done.set()
        server.shutdown()
        thread.join(10)
    return result
