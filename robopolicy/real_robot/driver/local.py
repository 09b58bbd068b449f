"""``LocalDriver``: the driver in this process, ticked by a thread of its own or by its caller.

Use it for tests, replays, the simulated twin and lock-step; for an arm use ``FrankaBridgeRobot``, whose control loop
runs in a process that no policy can hold up.  In real time::

    with LocalDriver(bridge_config("twin")) as driver:
        driver.connect(monitor_only=False)
        driver.run_thread()
        print(driver.preflight().failures())

In lock-step (a ``VirtualClock``) there are no threads but the client's: ``rendezvous``, step the robot, ``rendezvous``,
``tick``, and so on.
"""

from __future__ import annotations

import logging
import threading
import time

from robopolicy.core.errors import RequestRefused
from robopolicy.real_robot.clock import Clock, SystemClock, VirtualClock
from robopolicy.real_robot.control.loop import TickRecord
from robopolicy.real_robot.driver.config import FrankaBridgeConfig
from robopolicy.real_robot.driver.core import DriverCore
from robopolicy.real_robot.driver.errands import Errands
from robopolicy.real_robot.driver.realtime import Grid
from robopolicy.real_robot.wire.client import RosbridgeClient

LOG = logging.getLogger(__name__)
JOIN = 20.0  # s that threads get to end; an errand may be waiting for an answer


class LocalDriver(DriverCore):
    """A ``Driver`` in this process; ``clock`` a ``VirtualClock`` for lock-step."""

    def __init__(self, config: FrankaBridgeConfig, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        self.lock_step = isinstance(clock, VirtualClock)
        super().__init__(config, RosbridgeClient(config.client(self.lock_step), clock), clock)
        self.errands = Errands(self)
        self.error = ""
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def core(self) -> DriverCore:
        """This driver's core, which is itself."""
        return self

    def __enter__(self) -> LocalDriver:
        return self

    def __exit__(self, *exc: object) -> None:
        self.disconnect("an exception in the program" if exc[0] is not None else "disconnected")

    # -- time ----------------------------------------------------------------------------------------------------------

    def tick(self, now: float | None = None) -> TickRecord:
        """One control tick; without threads it first does what else is due, waiting for answers."""
        if not self._threads:
            self.errands.run_due(self.clock.now())
        return super().tick(now)

    def run_thread(self) -> LocalDriver:
        """Tick at 100 Hz in a thread of its own, with another for errands; not in lock-step."""
        if self.lock_step:
            raise RequestRefused("run_thread: in lock-step there is no time of its own; call tick()")
        if not self._threads:
            work = ((self._run, "control"), (lambda: self.errands.run(self._stop), "errands"))
            self._threads = [threading.Thread(target=target, name=name, daemon=True) for target, name in work]
            for thread in self._threads:
                thread.start()
        return self

    def _run(self) -> None:
        grid, began = Grid(self.times.tick), self.clock.now()
        try:
            while not self._stop.is_set():
                due = grid.next(self.clock.now(), began)
                time.sleep(max(0.0, due - self.clock.now()))
                began = self.clock.now()
                self.lateness.add(began - due)
                self.tick(began)
        except Exception as e:
            LOG.exception("the control loop has stopped")
            self.error = f"{type(e).__name__}: {e}"
            super().disconnect(f"error in the control loop: {self.error}")

    def rendezvous(self, timeout: float = 30.0) -> bool:
        """In lock-step, before and after a step of the robot: wait (real time) until every target sent is there and
        everything that the robot said is here; false if the link was lost or ``timeout`` seconds passed."""
        return self.commands.rendezvous(timeout)

    # -- the end -------------------------------------------------------------------------------------------------------

    def disconnect(self, why: str = "disconnected") -> None:
        """See ``Driver``."""
        super().disconnect(why)
        if not self.closed:
            return
        self._stop.set()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(JOIN)
