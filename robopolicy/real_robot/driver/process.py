"""The control process: a driver's core at 100 Hz and nothing else; no torch, one thread for numbers, high priority.

Run by ``remote.FrankaBridgeRobot`` as ``python -m robopolicy.real_robot.driver.process CHANNEL MEMORY PARENT`` (two
descriptors and a process number), never by hand.  A program of its own and not a forked one: so it holds none of the
policy's memory, locks or libraries, and its caller's main module is not run again.

It ends, always after a hold, the stop target and the command topic taken back, when it is told to; when the policy's
process is gone (its end of the channel closes, or this process gets another parent: whichever shows first); on SIGTERM;
and on an error of its own.  Ctrl-C and a closing terminal are the policy's process's business and ignored here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from typing import Any

from robopolicy.core.configs import build_config
from robopolicy.core.errors import ConfigError, RobopolicyError
from robopolicy.real_robot.clock import SystemClock
from robopolicy.real_robot.control.loop import TELEOP_AGE
from robopolicy.real_robot.control.states import ENGAGED
from robopolicy.real_robot.driver.config import FrankaBridgeConfig
from robopolicy.real_robot.driver.contract import Report, Status
from robopolicy.real_robot.driver.core import DriverCore
from robopolicy.real_robot.driver.errands import Errands
from robopolicy.real_robot.driver.packing import pack_error, pack_json, report_rows
from robopolicy.real_robot.driver.realtime import Grid, Housekeeping, claim_priority
from robopolicy.real_robot.driver.shared import Board, ControlSide, SharedSink, camera_rooms
from robopolicy.real_robot.driver.tapping import QueuedTap
from robopolicy.real_robot.log.runlog import RunLog
from robopolicy.real_robot.log.settings import loop_settings
from robopolicy.real_robot.wire.client import RosbridgeClient

FINE, GONE, TOLD, BROKEN = 0, 3, 4, 5  # exit codes: disconnected; policy's process gone; SIGTERM; an error in here
TEXT = 1000  # letters of a reason that are kept: the status has room for so many, and not for a printed tensor
FLUSH = 0.05  # s that the stop target may take to leave
SLOW = ("connect", "preflight", "recover", "gripper_home")  # these wait for the robot: a thread for each
QUICK = (
    *("ask_to_arm", "confirm_arming", "start", "pause", "resume", "intervene", "release", "estop"),
    *("policy_began", "policy_answered", "policy_failed"),
)


class ControlProcess:
    """See the module.  ``core`` is ticked by ``run`` until something ends it; ``facts`` go into ``Status.extra``."""

    def __init__(
        self, core: DriverCore, board: Board, channel: Connection, parent: int, facts: Mapping[str, Any]
    ) -> None:
        self.core, self.channel, self.parent, self.clock = core, channel, parent, core.clock
        self.side = ControlSide(board)
        self.sink = SharedSink(board, lambda name: -core.sources.observer.ages(0.0)[f"camera.{name}"])
        core.sources.sink = self.sink
        self.grid, self.house = Grid(core.times.tick), Housekeeping(core.clock.now)
        self.facts = dict(facts)
        self.log: RunLog | None = None
        self.tap: QueuedTap | None = None
        self._saying, self._showing = threading.Lock(), threading.Lock()
        self._ending: tuple[str, int, float] | None = None
        self._goodbye: int | None = None
        self._lateness: Mapping[str, float] = {}

    def keep_log(self, folder: str, facts: Mapping[str, Any]) -> None:
        """Write the run's log; call before ``run``.  Raises ``DatasetError`` if the folder cannot be used."""
        self.log = RunLog(folder, loop_settings(self.core.config), self.clock, facts)
        self.core.tap = self.tap = QueuedTap(self.log)

    # -- the loop ------------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Until the end; the exit code."""
        stop = threading.Event()
        for work, name in ((self._listen, "channel"), (lambda: Errands(self.core).run(stop), "errands")):
            threading.Thread(target=work, name=name, daemon=True).start()
        began = self.clock.now()
        try:
            self.house.begin()
            while self._ending is None:
                due = self.grid.next(self.clock.now(), began)
                time.sleep(max(0.0, due - self.clock.now()))
                began = self.clock.now()
                self.core.lateness.add(began - due)
                self._tick(began)
        except Exception as e:
            traceback.print_exc()
            self.end(f"error in the control process: {type(e).__name__}: {e}", BROKEN)
        stop.set()
        return self._leave()

    def _tick(self, now: float) -> None:
        if os.getppid() != self.parent:
            self.end("the policy's process is gone", GONE)
            return
        self._fetch(now)
        record = self.core.tick(now)
        if self.core.ticks % 100 == 0:
            self._lateness = self.core.lateness.summary()
        self.show()
        after = self.clock.now()
        self.house.between(after, now + self.grid.period - after, record.state in ENGAGED)

    def _fetch(self, now: float) -> None:
        """What the policy's process left since the last tick."""
        if (beat := self.side.new_beat()) is not None:
            self.core.heartbeat(beat)
        if (wish := self.side.new_teleop()) is not None and abs(now - wish[1]) <= TELEOP_AGE:
            self.core.teleop(*wish)
        if (chunk := self.side.new_chunk()) is not None:
            self.core.submit(chunk)

    def show(self) -> None:
        """Write the status where the policy's process sees it."""
        with self._showing:
            self.side.show(self._status())

    def _status(self) -> Status:
        status = self.core.status()
        extra = {
            **status.extra,
            **self.facts,
            "lateness": self._lateness,
            "late_worst": self.core.lateness.worst,
            "missed_deadlines": self.grid.skipped,
            "too_large": self.sink.dropped,
            "collector": self.house.facts(),
        }
        recording = status.recording
        if self.log is not None and self.tap is not None:
            recording = f"ended: {self.tap.ended}" if self.tap.ended else self.log.recording
        return dataclasses.replace(status, recording=recording, extra=extra)

    # -- calls ---------------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        try:
            while self._hear(json.loads(self.channel.recv_bytes())):
                pass
        except (EOFError, OSError):
            self.end("the policy's process is gone", GONE)
        except Exception as e:  # from here on nobody would hear an operator's hold
            traceback.print_exc()
            self.end(f"the channel cannot be read: {type(e).__name__}: {e}", BROKEN)

    def _hear(self, message: dict[str, Any]) -> bool:
        """Do what a message asks for; whether there may be another."""
        given = message["arguments"]
        message["arguments"] = {k: v[:TEXT] if isinstance(v, str) else v for k, v in given.items()}
        if message["call"] == "disconnect":
            self._goodbye = message["id"]
            self.end(message["arguments"]["why"], FINE)
            return False
        if message["call"] in SLOW:
            threading.Thread(target=self._answer, args=(message,), name=message["call"], daemon=True).start()
        else:
            self._answer(message)
        return True

    def _answer(self, message: Mapping[str, Any]) -> None:
        try:
            if message["call"] not in (*SLOW, *QUICK):
                raise ConfigError(f"control process: no call '{message['call']}'")
            value = getattr(self.core, message["call"])(**message["arguments"])
            # Who is told that something was done must also see it.
            self.show()
            answer = {"value": report_rows(value) if isinstance(value, Report) else value}
        except Exception as e:
            if not isinstance(e, RobopolicyError):
                traceback.print_exc()
            answer = {"error": pack_error(e)}
        if message["id"]:
            self.say({"id": message["id"], **answer})

    def say(self, message: Mapping[str, Any]) -> None:
        """Send to the policy's process; if it is gone, the loop will notice."""
        with self._saying, contextlib.suppress(OSError):
            self.channel.send_bytes(pack_json(message))

    # -- the end -------------------------------------------------------------------------------------------------------

    def end(self, why: str, code: int) -> None:
        """Have the loop end after this tick; the first reason counts.  From any thread, and from a signal's handler."""
        if self._ending is None:
            self._ending = (why, code, self.clock.now())

    def _leave(self) -> int:
        assert self._ending is not None
        why, code, noticed = self._ending
        stop: float | None = None
        due = False
        with _guarded():
            self.core.pause(why)
            client = self.core.client
            before, due = client.sent, self.core.tick(self.clock.now()).publish is not None
            client.flush(FLUSH)
            # Not merely gone from the queue: a target that waited too long is thrown away there.
            stop = self.clock.now() - noticed if due and client.sent > before else None
        with _guarded():
            self.core.disconnect(why)
        closed = self.clock.now() - noticed
        self._close_log(why)
        self.facts["ended"] = {"why": why, "code": code, "stop_target_after": stop, "closed_after": closed}
        with _guarded():
            self.show()
        if code != FINE:
            lost = "the stop target could not be sent" if due else "no target was being sent"
            told = lost if stop is None else f"stop target sent after {1e3 * stop:.1f} ms"
            with contextlib.suppress(OSError):
                sys.stderr.write(f"control process {os.getpid()}: {why}; {told}, closed after {1e3 * closed:.0f} ms\n")
                sys.stderr.flush()
        if self._goodbye is not None:
            self.say({"id": self._goodbye, "value": None})
        return code

    def _close_log(self, why: str) -> None:
        if self.tap is not None and self.log is not None:
            with _guarded():
                self.tap.close()
                self.log.close(self.tap.ended or why)


@contextlib.contextmanager
def _guarded() -> Iterator[None]:
    """Whatever goes wrong in one step of leaving, the others are still made."""
    try:
        yield
    except Exception:
        traceback.print_exc()


def prepared(start: Mapping[str, Any], channel: Connection, memory: int, parent: int) -> ControlProcess:
    """The control process as its first message describes it."""
    scheduling, warning = claim_priority() if start["realtime"] else ("as started", None)
    config = build_config(FrankaBridgeConfig, start["config"])
    board = Board(camera_rooms({name: config.cameras[name].size for name in config.camera_names}), memory)
    clock = SystemClock()
    core = DriverCore(config, RosbridgeClient(config.client(), clock), clock)
    facts = {"process": os.getpid(), "scheduling": scheduling, "torch": "torch" in sys.modules}
    process = ControlProcess(core, board, channel, parent, facts | {"warnings": [warning] if warning else []})
    if start["log"] is not None:
        process.keep_log(start["log"], start["facts"])
    return process


def main(arguments: list[str]) -> int:
    """Entry point; see the module."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    handle, memory, parent = map(int, arguments)
    channel = Connection(handle)
    try:
        process = prepared(json.loads(channel.recv_bytes()), channel, memory, parent)
    except (EOFError, OSError):
        return GONE
    except RobopolicyError as e:
        channel.send_bytes(pack_json({"id": 0, "error": pack_error(e)}))
        return BROKEN
    signal.signal(signal.SIGTERM, lambda *_: process.end("SIGTERM", TOLD))
    process.show()
    process.say({"id": 0, "value": None})
    return process.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
