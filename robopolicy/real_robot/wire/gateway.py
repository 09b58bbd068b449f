"""A rosbridge-v2 server of our own: websockets outside, a back end (bus, rospy, rclpy) inside.

What differs from rosbridge_suite: loopback unless told otherwise, a token checked before anything is read, one JSON
object a frame, a strict schema whose refusals are told (``status``), one writer a command topic, newest-wins slots.
``GatewayConfig.quirks`` takes most of that back on purpose.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import http
import itertools
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from robopolicy.core.errors import BridgeError
from robopolicy.real_robot.clock import Clock, SystemClock
from robopolicy.real_robot.wire.backends import Backend
from robopolicy.real_robot.wire.faults import WireFaults
from robopolicy.real_robot.wire.gateway_config import GatewayConfig, is_loopback, read_token
from robopolicy.real_robot.wire.protocol import CloseLink
from robopolicy.real_robot.wire.quirks import QuirkySession, quirks_of
from robopolicy.real_robot.wire.rosapi import RosApi
from robopolicy.real_robot.wire.session import Session
from robopolicy.real_robot.wire.session_calls import Shared
from robopolicy.real_robot.wire.writer_lock import WriterLock

LOG = logging.getLogger(__name__)
# The kernel's own queue is where images grow old when a client reads slowly, so it is kept short.
SEND_BUFFER = 256 * 1024
HANDSHAKE = 2.0
# Strangers that open the port and talk nonsense are no event of ours.
_QUIET = logging.getLogger(f"{__name__}.websockets")
_QUIET.setLevel(logging.CRITICAL)
CALL_THREADS = 8


class Gateway:
    """The server; ``start`` and ``stop`` belong to one event loop (``running_gateway`` brings a thread with one)."""

    def __init__(self, backend: Backend, config: GatewayConfig | None = None, clock: Clock | None = None) -> None:
        self.config = config or GatewayConfig()
        self.backend = backend
        self.quirks = quirks_of(self.config.quirks, backend.flavour) if self.config.quirks != "none" else None
        clock = clock or SystemClock()
        # B24: rosbridge knows no owner of a topic.
        guarded = () if self.quirks else self.config.command_topics
        lock = WriterLock(guarded, clock, self.config.writer_silence)
        self._pool = ThreadPoolExecutor(CALL_THREADS, "gateway-call")
        self.shared = Shared(backend, self.config, clock, lock, RosApi(backend), self._defer)
        self.faults = WireFaults()
        self._token = read_token(self.config.token_file) if self.config.token_file else None
        self._names = itertools.count(1)
        self._clients: dict[str, ServerConnection] = {}
        self._server: Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # --- life -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bind and listen; raises ``BridgeError`` if the port is taken."""
        if not is_loopback(self.config.host):
            LOG.warning(
                "bridge: %s is open to other machines; the token travels in clear: use a firewall or a tunnel",
                self.config.host,
            )
        self._loop = asyncio.get_running_loop()
        limit = self.quirks.inbound_limit if self.quirks else self.config.inbound_limit
        try:
            self._server = await serve(
                self._client,
                self.config.host,
                self.config.port,
                process_request=self._admit,
                max_size=limit,
                compression=None,
                ping_interval=5,
                ping_timeout=10,
                open_timeout=HANDSHAKE,
                close_timeout=0.5,
                server_header=None,
                logger=_QUIET,
                reuse_address=True,
            )
        except OSError as e:
            raise BridgeError(
                f"cannot listen on {self.config.host}:{self.config.port}: {e.strerror or e}; choose another --port"
            ) from None

    async def stop(self) -> None:
        """Close every connection and the port."""
        if self._server is not None:
            self._server.close(close_connections=True)
            await self._server.wait_closed()
            self._server = None
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def port(self) -> int:
        """The port that was bound."""
        if self._server is None:
            raise BridgeError("the gateway is not running")
        return int(next(iter(self._server.sockets)).getsockname()[1])

    @property
    def url(self) -> str:
        """Address for clients on this machine: bound to every interface, the loopback is one of them."""
        host = "127.0.0.1" if self.config.host in ("0.0.0.0", "::") else self.config.host
        return f"ws://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def clients(self) -> list[str]:
        """Names of the connected clients."""
        return sorted(self._clients)

    def drop_clients(self) -> None:
        """Cut all connections without a closing handshake, as a pulled plug does (any thread)."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._abort_all)

    def freeze(self, seconds: float) -> None:
        """Stand still with every connection open, pings unanswered, as a stopped process does (any thread)."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(time.sleep, seconds)

    def _abort_all(self) -> None:
        for connection in list(self._clients.values()):
            _abort(connection)

    def _defer(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):
            self._pool.submit(function)

    # --- one client -----------------------------------------------------------------------------------------

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Decide by the handshake alone: nothing that a stranger sends after it is ever looked at."""
        if self._token is not None:
            given = request.headers.get_all("Authorization")
            wanted = f"Bearer {self._token}".encode()
            # Compared even when it is absent, so that the time taken says nothing.
            shown = given[0].encode("utf-8", "replace") if len(given) == 1 else b""
            if not hmac.compare_digest(shown, wanted):
                return connection.respond(http.HTTPStatus.UNAUTHORIZED, "token missing or wrong\n")
        # A web page in the operator's browser reaches loopback too; only browsers send an origin.
        origins = request.headers.get_all("Origin")
        if self.quirks is None and any(o not in self.config.allow_origins for o in origins):
            return connection.respond(http.HTTPStatus.FORBIDDEN, "web pages are not allowed here\n")
        if len(self._clients) >= self.config.max_clients:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many clients\n")
        return None

    async def _client(self, connection: ServerConnection) -> None:
        if len(self._clients) >= self.config.max_clients:
            await connection.close(1013, "too many clients")
            return
        name = f"/robopolicy_gateway/client_{next(self._names)}"
        _tune(connection)
        ready = asyncio.Event()
        session = (QuirkySession if self.quirks else Session)(self.shared, name, self._waker(ready))
        self._clients[name] = connection
        sender = asyncio.create_task(self._send(connection, session, ready))
        # A client that can be sent nothing any more must notice.
        sender.add_done_callback(lambda task: None if task.cancelled() else _abort(connection))
        try:
            await self._receive(connection, session)
        except CloseLink as e:
            LOG.info("bridge: %s is cut off: %s", name, e.reason)
            if e.code == 1006:
                _abort(connection)
            else:
                await connection.close(e.code, e.reason)
        except ConnectionClosed:
            pass
        except Exception:
            LOG.exception("bridge: a frame of %s broke the gateway", name)
            await connection.close(1011, "internal error")
        finally:
            session.close()
            self._clients.pop(name, None)
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)

    async def _receive(self, connection: ServerConnection, session: Session) -> None:
        async for data in connection:
            if self.faults.active:
                arrived = await self.faults.incoming(data)
                if arrived is None:
                    continue
                data = arrived
            if isinstance(data, str):
                session.receive_text(data)
            else:
                session.receive_binary(data)

    async def _send(self, connection: ServerConnection, session: Session, ready: asyncio.Event) -> None:
        size = self.config.max_message_size
        while True:
            await ready.wait()
            ready.clear()
            while (frames := session.outbox.pop(size)) is not None:
                for frame in frames:
                    if self.faults.active:
                        await self.faults.send(connection, frame)
                    else:
                        await connection.send(frame)

    def _waker(self, ready: asyncio.Event) -> Callable[[], None]:
        loop = asyncio.get_running_loop()

        def wake() -> None:
            if not ready.is_set():
                # The loop may be gone while a publisher still runs.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(ready.set)

        return wake


def _abort(connection: ServerConnection) -> None:
    # asyncio fails when a transport is aborted that is already gone.
    if not connection.transport.is_closing():
        connection.transport.abort()


def _tune(connection: ServerConnection) -> None:
    """No Nagle: small messages leave at once.  A short kernel queue: what waits there can no longer be replaced."""
    sock = connection.transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)


@contextlib.contextmanager
def running_gateway(
    backend: Backend, config: GatewayConfig | None = None, clock: Clock | None = None
) -> Iterator[Gateway]:
    """The gateway in a thread of its own, for the time of a ``with`` block."""
    gateway = Gateway(backend, config, clock)
    loop = asyncio.new_event_loop()
    started: list[Any] = []
    up = threading.Event()

    def main() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(gateway.start())
        except BaseException as e:
            started.append(e)
            up.set()
            return
        up.set()
        loop.run_forever()

    thread = threading.Thread(target=main, name="gateway", daemon=True)
    thread.start()
    up.wait()
    try:
        if started:
            raise started[0]
        yield gateway
    finally:
        if not started:
            asyncio.run_coroutine_threadsafe(gateway.stop(), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
