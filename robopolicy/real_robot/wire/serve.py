"""Run the gateway until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable

from robopolicy.real_robot.wire.backends import Backend
from robopolicy.real_robot.wire.gateway import Gateway
from robopolicy.real_robot.wire.gateway_config import GatewayConfig


def serve(backend: Backend, config: GatewayConfig | None = None, told: Callable[[Gateway], None] | None = None) -> None:
    """Serve ``backend`` until SIGINT or SIGTERM; ``told`` is called once with the running gateway (its ``url``).

    Raises ``BridgeError`` if the port is taken, ``ConfigError`` for settings that would let strangers in.
    """
    gateway = Gateway(backend, config)
    try:
        asyncio.run(_until_signal(gateway, told))
    finally:
        backend.close()


async def _until_signal(gateway: Gateway, told: Callable[[Gateway], None] | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Only the main thread may handle signals; elsewhere the caller ends the loop.
        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
            loop.add_signal_handler(number, stop.set)
    await gateway.start()
    try:
        if told is not None:
            told(gateway)
        await stop.wait()
    finally:
        await gateway.stop()
