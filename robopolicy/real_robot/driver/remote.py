"""``FrankaBridgeRobot``: a driver whose control loop runs in a process of its own, whatever this one is busy with.

Commands go over a channel and wait for their answer; chunks, heartbeats and a human's wishes are left in shared memory
and wait for nothing; status and observations are read from there.  When the control process is gone every call raises
``ControlProcessLost``; when this process is gone the control process stops the arm and ends (``process``).
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robopolicy.core.configs import dump_config
from robopolicy.core.errors import ControlProcessLost, LinkDown, RequestRefused, ServiceFailed
from robopolicy.real_robot.clock import Clock, SystemClock
from robopolicy.real_robot.control.observations import NoSnapshot, Snapshot
from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.driver.child import Child
from robopolicy.real_robot.driver.config import FrankaBridgeConfig
from robopolicy.real_robot.driver.contract import Report, Status
from robopolicy.real_robot.driver.operator_calls import OperatorCalls
from robopolicy.real_robot.driver.packing import no_chunk, report_of
from robopolicy.real_robot.driver.shared import Board, Mirror, PolicySide, camera_rooms
from robopolicy.real_robot.driver.sources import Sources
from robopolicy.real_robot.safety.types import Setpoint

LOG = logging.getLogger(__name__)
START = 60.0  # s that the control process may take to start
ANSWER = 5.0  # s that a call may take that waits for nothing outside
# s without a word of the control process, which speaks at every tick (10 ms), after which it counts as frozen.  A busy
# machine delays it by tenths of a second, and the arm does not wait for this: the guard's lease ends after 0.15 s.
# Less than ``ANSWER``, so that who asks is told why.
FROZEN = 2.0
BEGINNINGS = ("ask_to_arm", "confirm_arming", "start", "resume", "intervene", "recover", "preflight", "gripper_home")
PATIENCE: Mapping[str, float] = {"connect": 60.0, "preflight": 90.0, "recover": 30.0, "disconnect": 15.0}


class FrankaBridgeRobot(OperatorCalls):
    """A ``Driver`` (see there) with a control process, which this starts and ``disconnect`` ends.

    Args:
        config: the set-up.
        log: a new folder for the run's log (``log.RunLog``), written by the control process; none unless given.
        facts: what the log is to say about the run besides (JSON).
        realtime: whether the control process asks for a real-time priority; without one, ticks come late under load.

    Raises ``ControlProcessLost`` if the control process does not start.  Also a context manager.
    """

    def __init__(
        self,
        config: FrankaBridgeConfig,
        log: str | Path | None = None,
        facts: Mapping[str, Any] | None = None,
        realtime: bool = True,
    ) -> None:
        self.config = config
        self.clock: Clock = SystemClock()
        self._owner = os.getpid()
        self._last: Status | None = None
        self._stale = 0
        self._leaving = self._closed = False
        self._board = Board(camera_rooms({name: config.cameras[name].size for name in config.camera_names}))
        self._side = PolicySide(self._board)
        self._mirror = Mirror(self._board, lambda: Sources(config).observer)
        folder = None if log is None else str(Path(log).resolve())
        first = {"config": dump_config(config), "log": folder, "facts": dict(facts or {}), "realtime": realtime}
        self._child = Child(self._board.block.fd, first, self._gone)
        self._lock = self._child.lock
        atexit.register(self.disconnect)
        try:
            self._child.ready(START)
        except BaseException:
            self._child.process.terminate()
            self._close()
            raise

    @property
    def pid(self) -> int:
        """The control process's number."""
        return self._child.process.pid

    def _gone(self) -> str:
        """The control process is: keep what it last said, give the memory back."""
        last = self._last_seen()
        self._board.close()
        return f"; it was {last.state.value} ({last.why or 'no reason given'})" if last is not None else ""

    def _last_seen(self) -> Status | None:
        """The newest status; once the memory is given back, the last one."""
        with contextlib.suppress(ValueError):
            self._last = self._side.status() or self._last
        return self._last

    def _check(self) -> None:
        if self._closed:
            raise LinkDown("disconnected; make a new FrankaBridgeRobot")
        self._child.check()

    def _frozen(self) -> str:
        """Why the control process counts as frozen, or nothing."""
        with self._lock:
            for _ in range(2):  # this process may itself have stood still between looking and asking the time
                last = self._last_seen()
                silent = self.clock.now() - last.now if last is not None else 0.0
                if silent <= FROZEN or self._leaving:
                    return ""
        return (
            f"the control process {self.pid} has been silent for {silent:.1f} s, limit {FROZEN:g} s: it is stopped or "
            "starved, and the controller keeps the last target; look at the arm, then disconnect()"
        )

    def _call(self, name: str, /, **arguments: Any) -> Any:
        self._check()
        if name in BEGINNINGS and (problem := self._frozen()):
            raise RequestRefused(f"{name}: {problem}")
        return self._child.call(name, PATIENCE.get(name, ANSWER), arguments)

    # -- seeing --------------------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """See ``Driver``; after ``disconnect`` the last one.  ``ages["status"]``: seconds since it was so; above 2 s
        ``problem`` says that the control process is frozen."""
        with self._lock:
            if not self._closed:
                self._check()
            last = self._last_seen()
            if last is None:
                raise LinkDown("the control process has not said anything yet; wait a moment")
            counters = {**last.counters, "stale": last.counters.get("stale", 0) + self._stale}
            problem = self._frozen() or last.problem
            ages = {**last.ages, "status": self.clock.now() - last.now}
            return dataclasses.replace(last, counters=counters, ages=ages, problem=problem)

    def snapshot(self, steps: int = 1, dt: float = 0.1) -> Snapshot | NoSnapshot:
        """See ``Driver``."""
        with self._lock:
            self._check()
            trouble = self._frozen() or self.status().extra.get("clock_trouble")
            if trouble is not None:
                return NoSnapshot(trouble)
            return self._mirror.snapshot(self.clock.now(), steps, dt)

    # -- left in shared memory -----------------------------------------------------------------------------------------

    def submit(self, chunk: Waypoints) -> bool:
        """See ``Driver``.  Numbers that are refused do not leave this process; the control loop is told, stops there,
        and counts the refusal.  A frozen control process takes none (``Status.problem``)."""
        with self._lock:
            self._check()
            status = self.status()
            if frozen := self._frozen():
                LOG.warning("chunk %d refused: %s", chunk.chunk, frozen)
            if frozen or status.state is not State.RUNNING or chunk.epoch != status.epoch:
                self._stale += 1
                return False
            problem = chunk.problem()
            if problem is not None:
                LOG.warning("%s", problem)
                chunk = no_chunk(chunk.epoch, chunk.chunk)
            self._side.submit(chunk)
            return problem is None

    def heartbeat(self) -> None:
        """See ``Driver``."""
        with self._lock:
            self._check()
            self._side.beat(self.clock.now())

    def teleop(self, wish: Setpoint) -> None:
        """See ``Driver``."""
        with self._lock:
            self._check()
            self._side.teleop(wish, self.clock.now())

    # -- asked for -----------------------------------------------------------------------------------------------------

    def connect(self, monitor_only: bool = True) -> None:
        """See ``Driver``."""
        self._call("connect", monitor_only=monitor_only)

    def preflight(self) -> Report:
        """See ``Driver``."""
        report = report_of(self._call("preflight"))
        assert report is not None
        return report

    def gripper_home(self) -> None:
        """See ``Driver``."""
        self._call("gripper_home")

    def policy_began(self) -> None:
        """See ``Driver``."""
        self._check()
        self._child.tell("policy_began", {})

    def policy_answered(self) -> None:
        """See ``Driver``."""
        self._check()
        self._child.tell("policy_answered", {})

    def policy_failed(self, why: str) -> None:
        """See ``Driver``."""
        self._call("policy_failed", why=why)

    # -- the end -------------------------------------------------------------------------------------------------------

    def disconnect(self, why: str = "disconnected") -> None:
        """See ``Driver``; ends the control process, however it fares, and gives the shared memory back."""
        if os.getpid() != self._owner:  # a forked worker that ends: the arm is not its business
            return
        with self._lock:
            again, self._leaving = self._leaving, True
        try:
            if not again and not self._closed:
                with contextlib.suppress(ControlProcessLost, ServiceFailed):
                    self._call("disconnect", why=why)
        finally:
            self._close()

    def _close(self) -> None:
        self._closed = True
        self._child.close()
        with self._lock:
            self._last_seen()
            self._board.close()
        atexit.unregister(self.disconnect)

    def __enter__(self) -> FrankaBridgeRobot:
        return self

    def __exit__(self, *exc: object) -> None:
        self.disconnect("an exception in the program" if exc[0] is not None else "disconnected")
