"""Keeps a twin at the pace of a clock, or at that of ``/twin/step``, in one thread; and puts a gateway before it.

One thread does everything that moves or draws, as an OpenGL context belongs to the thread that made it.  A machine that
is too slow loses time, which is counted, instead of running behind for ever.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from queue import Empty, SimpleQueue

from robopolicy.core.errors import ConfigError, ServiceFailed
from robopolicy.real_robot.clock import Clock
from robopolicy.real_robot.guard.bus_node import BusGuard
from robopolicy.real_robot.guard.config import GuardConfig
from robopolicy.real_robot.guard.shell import TICK
from robopolicy.real_robot.twin.config import TwinConfig
from robopolicy.real_robot.twin.twin import Twin
from robopolicy.real_robot.wire.backends import Backend, BusBackend
from robopolicy.real_robot.wire.bus import Bus
from robopolicy.real_robot.wire.gateway import Gateway, running_gateway
from robopolicy.real_robot.wire.gateway_config import GatewayConfig
from robopolicy.real_robot.wire.relay import Relay

LOG = logging.getLogger(__name__)
BATCH = 5  # ticks at a time, so that commands wait no longer than that
MOST_LAG = 200  # ticks behind the clock, after which time is given up
NAP = 0.001
STEP_TIMEOUT = 120.0  # s that a caller of /twin/step waits


class TwinRunner:
    """Runs ``twin`` from ``start`` (or ``with``) to ``stop``, and closes it in the end.

    ``lost`` counts milliseconds given up; ``error`` holds what ended the thread, if anything did.
    """

    def __init__(self, twin: Twin) -> None:
        self.twin = twin
        self.lost, self.error = 0, ""
        self._origin = 0.0
        self._stop = threading.Event()
        self._asked: SimpleQueue[tuple[int, Future[None]]] = SimpleQueue()
        self._thread = threading.Thread(target=self._main, name="twin", daemon=True)
        if twin.config.lock_step and twin.face is not None:
            twin.face.advance = self.advance

    def start(self) -> TwinRunner:
        """Begin; time counts from here."""
        self._origin = self.twin.clock.now() - self.twin.time
        self._thread.start()
        return self

    def stop(self) -> None:
        """End; returns when the thread has ended."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def __enter__(self) -> TwinRunner:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def advance(self, ticks: int) -> None:
        """In lock-step: have the runner's thread step, and wait for it; raises ``ServiceFailed`` if it does not."""
        done: Future[None] = Future()
        self._asked.put((ticks, done))
        try:
            done.result(STEP_TIMEOUT)
        except TimeoutError:
            raise ServiceFailed(f"the twin did not step within {STEP_TIMEOUT:g} s") from None

    def _main(self) -> None:
        try:
            if self.twin.config.lock_step:
                self._follow_calls()
            else:
                self._follow_clock()
        except Exception as e:
            self.error = f"{type(e).__name__}: {e}"
            LOG.exception("the twin has stopped")
        finally:
            self.twin.close()

    def _follow_calls(self) -> None:
        while not self._stop.is_set():
            try:
                ticks, done = self._asked.get(timeout=0.05)
            except Empty:
                continue
            try:
                self.twin.step(ticks)
            except Exception as e:
                done.set_exception(e)
                raise
            done.set_result(None)

    def _follow_clock(self) -> None:
        twin = self.twin
        while not self._stop.is_set():
            behind = round((twin.clock.now() - self._origin) * 1000) - self.lost - twin.ticks
            if behind > MOST_LAG:
                self.lost += behind - BATCH
                behind = BATCH
            if behind > 0:
                twin.step(min(behind, BATCH))
            else:
                self._stop.wait(NAP)


@contextlib.contextmanager
def running_twin(
    config: TwinConfig | None = None,
    gateway: GatewayConfig | None = None,
    clock: Clock | None = None,
    guard: GuardConfig | None = None,
) -> Iterator[tuple[TwinRunner, Gateway]]:
    """A twin behind a gateway, both in threads of their own, for the time of a ``with`` block.

    With ``guard`` a robot-side guard stands between the gateway and the controller.

    Raises ``BridgeError`` if the port is taken, ``ConfigError`` for settings that do not fit.
    """
    twin = Twin(config, clock)
    bus = Bus(twin.config.ros, twin.clock)
    face = twin.bind(bus)
    if guard is not None:
        twin.schedule.every("guard", 1 / TICK, BusGuard(bus, face.names, guard).tick)
    runner = TwinRunner(twin)
    with running_gateway(BusBackend(bus), gateway) as server:
        twin.faults.attach(server)
        with runner:
            yield runner, server


@contextlib.contextmanager
def relayed_twin(config: TwinConfig, backend: Backend) -> Iterator[TwinRunner]:
    """A twin as a node of the ROS graph behind ``backend``, for the time of a ``with`` block; closes the back end.

    Raises ``ConfigError`` if the graph speaks another ROS than the twin.
    """
    if backend.flavour != config.ros:
        raise ConfigError(f"the graph speaks {backend.flavour}, the twin {config.ros}; set the twin's ros")
    twin = Twin(config)
    bus = Bus(config.ros, twin.clock)
    twin.bind(bus)
    relay = Relay(bus, backend)
    try:
        with TwinRunner(twin) as runner:
            yield runner
    finally:
        relay.close()
        backend.close()
