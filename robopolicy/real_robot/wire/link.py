"""One websocket connection of the client, and the task that makes the next one when it is lost.

Everything here runs in the client's own event loop.  A connection is *up* once its ROS flavour is known and every topic
was advertised and subscribed again; then the epoch goes up by one.  Nothing that was waiting survives a loss.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from robopolicy.core.errors import ConfigError
from robopolicy.real_robot.clock import Clock
from robopolicy.real_robot.wire.client_config import ClientConfig, check_resolved
from robopolicy.real_robot.wire.gateway_config import read_token
from robopolicy.real_robot.wire.inbox import Inbox
from robopolicy.real_robot.wire.outgoing import Outgoing
from robopolicy.real_robot.wire.protocol import CLIENT_INBOUND_LIMIT

LOG = logging.getLogger(__name__)
QUICKACK = getattr(socket, "TCP_QUICKACK", None)
WATCH = 0.01  # s between two looks at the loopback
SEND_BUFFER = 64 * 1024


class Owner(Protocol):
    """What the link needs of the client."""

    config: ClientConfig
    clock: Clock
    inbox: Inbox

    async def greet(self) -> None:
        """Find out the flavour; raises ``BridgeError``."""
        ...

    def link_up(self) -> None:
        """The connection is proven: advertise and subscribe again."""
        ...

    def link_down(self, why: str) -> None:
        """It is lost; called once for each ``link_up`` and for each failed attempt."""
        ...

    def look(self, now: float) -> str | None:
        """Called often: why the connection must be dropped, or None."""
        ...


class Link:
    """Connects, keeps alive, reconnects."""

    def __init__(self, owner: Owner) -> None:
        self.owner, self.out = owner, Outgoing()
        self.rtt: float | None = None
        self.attempts = 0
        self._random = random.Random(owner.config.seed)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._drop: asyncio.Future[str] | None = None

    def wake(self) -> None:
        """Something waits to be sent (any thread)."""
        if self._loop is not None and not self._wake.is_set():
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake.set)

    def drop(self, why: str) -> None:
        """Cut the connection now (any thread); a new one is made."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._drop_now, why)

    def _drop_now(self, why: str) -> None:
        if self._drop is not None and not self._drop.done():
            self._drop.set_result(why)

    def close(self) -> None:
        """End for good (any thread)."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._closing.set)

    def delay(self, attempt: int) -> float:
        """Seconds before attempt ``attempt`` (1 is the first after a loss): doubling, with 10 % jitter."""
        c = self.owner.config
        base = min(c.reconnect_first * 2.0 ** min(attempt - 1, 16), c.reconnect_ceiling)
        return base * self._random.uniform(0.9, 1.1)

    async def run(self, retry_first: bool) -> None:
        """Connect again and again until ``close``; without ``retry_first`` the very first failure ends it."""
        self._loop = asyncio.get_running_loop()
        failed = 0
        while not self._closing.is_set():
            was_up, why = await self._until_lost()
            self.out.clear()
            self.owner.inbox.link_lost(why)
            self.owner.link_down(why)
            if self._closing.is_set() or (not retry_first and not was_up):
                return
            retry_first = True
            failed = 1 if was_up else failed + 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self.delay(failed))

    async def _until_lost(self) -> tuple[bool, str]:
        attempt = asyncio.create_task(self._one_connection())
        closing = asyncio.create_task(self._closing.wait())
        await asyncio.wait([attempt, closing], return_when=asyncio.FIRST_COMPLETED)
        closing.cancel()
        if not attempt.done():
            # A live connection says goodbye; a pending handshake is given up.
            await asyncio.wait([attempt], timeout=0.5 if self._drop is not None else 0)
        if attempt.done():
            return attempt.result()
        attempt.cancel()
        await asyncio.gather(attempt, return_exceptions=True)
        return False, "closed by this side"

    async def _one_connection(self) -> tuple[bool, str]:
        """One attempt, and the connection for as long as it lives: whether it was up, and why it ended."""
        self.attempts += 1
        c = self.owner.config
        up, why = False, ""
        try:
            check_resolved(c.url)
            headers = {"Authorization": f"Bearer {read_token(c.token_file)}"} if c.token_file else {}
            async with connect(
                c.url,
                additional_headers=headers,
                compression=None,
                proxy=None,
                max_size=CLIENT_INBOUND_LIMIT,
                open_timeout=c.handshake_timeout,
                ping_interval=None,
                close_timeout=0.2,
                write_limit=0,
                user_agent_header=None,
            ) as ws:
                try:
                    up, why = await self._live(ws)
                finally:
                    if not self._closing.is_set():
                        _cut(ws)
                return up, why
        except InvalidStatus as e:
            code = e.response.status_code
            hint = {401: "token missing or wrong (token_file)", 503: "the gateway has no free place"}.get(code, "")
            return up, f"the server refused the handshake with {code}" + (f": {hint}" if hint else "")
        except TimeoutError:
            return up, f"no handshake within {c.handshake_timeout} s"
        except (OSError, WebSocketException) as e:
            return up, why or f"cannot connect to {c.url}: {e or type(e).__name__}"
        except ConfigError as e:
            return up, str(e)
        except Exception as e:
            if why:
                # Leaving a connection that is already gone may fail in asyncio; what ended it is known.
                return up, why
            # Whatever it was, the driver must see a lost link, not a thread that died in silence.
            LOG.exception("the link failed")
            return up, f"internal error: {type(e).__name__}: {e}"

    async def _live(self, ws: ClientConnection) -> tuple[bool, str]:
        sock = ws.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._drop = asyncio.get_running_loop().create_future()
        # What a thread queued after the loss, having seen the link up before it, is too late.
        self.out.clear()
        tasks: list[asyncio.Future[Any]] = [
            asyncio.create_task(self._ended(f, ws)) for f in (self._read, self._send, self._ping, self._watch)
        ]
        tasks += [self._drop, asyncio.create_task(self._until_closing())]
        up = False
        try:
            greeting = asyncio.create_task(self.owner.greet())
            await asyncio.wait([greeting, *tasks], return_when=asyncio.FIRST_COMPLETED)
            if not greeting.done():
                greeting.cancel()
            elif (error := greeting.exception()) is not None:
                return False, str(error)
            else:
                up = True
                self.owner.link_up()
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return up, str(next(iter(done)).result())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._drop = None

    async def _ended(self, part: Callable[[ClientConnection], Awaitable[str]], ws: ClientConnection) -> str:
        """Run one of the four loops; the reason for its end instead of an exception."""
        try:
            return await part(ws)
        except ConnectionClosed as e:
            reason = f": {e.rcvd.reason}" if e.rcvd and e.rcvd.reason else ""
            return f"the connection was closed (code {e.rcvd.code if e.rcvd else 1006}{reason})"
        except Exception as e:
            # asyncio and websockets let other errors out when a write meets a connection that is already gone.
            LOG.debug("a task of the link failed", exc_info=True)
            code, text = ws.close_code or 1006, ws.close_reason or f"{type(e).__name__}: {e}"
            return f"the connection was closed (code {code}: {text})"

    async def _until_closing(self) -> str:
        await self._closing.wait()
        for _ in range(20):
            # What was handed over before ``close`` (a last hold, unadvertise) still leaves, if the socket takes it.
            if self.out.empty:
                break
            await asyncio.sleep(0.005)
        return "closed by this side"

    async def _read(self, ws: ClientConnection) -> str:
        sock = ws.transport.get_extra_info("socket")
        while True:
            data = await ws.recv()
            arrival = self.owner.clock.now()
            if QUICKACK is not None and sock is not None:
                # A delayed acknowledgement makes a server with Nagle's algorithm wait up to 40 ms.
                sock.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)
            self.owner.inbox.receive(data, arrival)

    async def _send(self, ws: ClientConnection) -> str:
        while True:
            await self._wake.wait()
            self._wake.clear()
            # ``send`` returns when the kernel has everything (write_limit 0), so what comes next is decided then.
            while (text := self.out.pop(self.owner.clock.now())) is not None:
                await ws.send(text)

    async def _ping(self, ws: ClientConnection) -> str:
        c = self.owner.config
        while True:
            try:
                # To hand a ping over may block as well: the socket of a frozen server is full.
                async with asyncio.timeout(c.ping_timeout):
                    self.rtt = await (await ws.ping())
            except TimeoutError:
                return f"no answer to a ping within {c.ping_timeout} s"
            await asyncio.sleep(c.ping_interval)

    async def _watch(self, ws: ClientConnection) -> str:
        while True:
            await asyncio.sleep(WATCH)
            now = self.owner.clock.now()
            self.owner.inbox.expire(now)
            if (why := self.owner.look(now)) is not None:
                return why


def _cut(ws: ClientConnection) -> None:
    """End the connection so that nothing which the kernel still holds is delivered later."""
    sock = ws.transport.get_extra_info("socket")
    with contextlib.suppress(OSError, AttributeError, TypeError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if not ws.transport.is_closing():
        ws.transport.abort()
