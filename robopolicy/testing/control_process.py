"""The control process for real, for tests: a driver in its own process before a twin in a third one."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.driver.config import FrankaBridgeConfig
from robopolicy.real_robot.driver.contract import Status
from robopolicy.real_robot.driver.remote import FrankaBridgeRobot
from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.limits import TIMEOUT_CAPS, Timeouts
from robopolicy.real_robot.log.reader import read_log

# Patience with everything but what is tested: the machine may be busy.
WAITS = ("ping_interval", "ping_timeout", "state_soft", "state_hard", "loopback_soft", "loopback_hard", "service")
PATIENT = Timeouts(**{name: TIMEOUT_CAPS[name] for name in WAITS})
STEP = 0.10 * 0.01 * 1.001  # m a tick: the default limits' speed
LEAD = 0.05  # m


class Arm:
    """The twin's process."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "robopolicy.testing.arm_process", *options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._to, self._from = self.process.stdin, self.process.stdout
        self.url = self._from.readline().strip()

    def ask(self, line: str = "report") -> dict[str, Any]:
        """Its answer to a line."""
        self._to.write(line + "\n")
        answer: dict[str, Any] = json.loads(self._from.readline())
        return answer

    def until_quiet(self, seconds: float = 0.3, patience: float = 20.0) -> dict[str, Any]:
        """The report once no command came for ``seconds``, with all commands since the last one."""
        heard: list[Any] = []
        end = time.monotonic() + patience
        while time.monotonic() < end:
            report = self.ask()
            heard += report["commands"]
            if not report["publishers"] and (not heard or report["now"] - heard[-1][0] > seconds):
                return {**report, "commands": heard}
            time.sleep(0.05)
        raise AssertionError("commands go on")

    def close(self) -> None:
        """End it."""
        self._to.close()
        self.process.wait(20)
        self._from.close()


def ready(robot: FrankaBridgeRobot) -> None:
    """Connect and look until everything is green: on a busy machine the round trip may not be, at first."""
    robot.connect(monitor_only=False)
    for _ in range(8):
        report = robot.preflight()
        if report.green:
            break
    assert report.green, report.failures()


def arm(robot: FrankaBridgeRobot) -> None:
    """Both steps of arming."""
    robot.ask_to_arm("tester")
    robot.confirm_arming("tester")


@contextlib.contextmanager
def running(arm_: Arm, log: Path | None = None, **settings: Any) -> Iterator[FrankaBridgeRobot]:
    """A robot that runs, at the end of its first plan."""
    config = FrankaBridgeConfig(**{"url": arm_.url, "timeouts": PATIENT, **settings})
    with FrankaBridgeRobot(config, log=log) as robot:
        ready(robot)
        arm(robot)
        robot.start()
        yield robot


def chunk(robot: FrankaBridgeRobot, metres: float, seconds: float, number: int = 1) -> Waypoints:
    """A straight line along y from the present plan's pose, in steps of 0.1 s."""
    status = robot.status()
    at = status.emitted if status.emitted is not None else status.measured
    assert at is not None
    n = max(2, round(seconds / 0.1))
    steps = np.linspace(0, metres, n + 1)[1:, None] * np.array((0.0, 1.0, 0.0))
    track = Pose(at.position + steps, np.tile(at.quaternion, (n, 1)))
    begin = robot.clock.now() + robot.config.arm_latency + 0.1
    return Waypoints(track, begin + 0.1 * np.arange(1, n + 1), 0.1, status.epoch, None, number)


def until(robot: FrankaBridgeRobot, *states: State, patience: float = 20.0) -> Status:
    """The status once it is in one of the states."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        status = robot.status()
        if status.state in states:
            return status
        time.sleep(0.01)
    raise AssertionError(f"still {status.state}: {status.why}")


def lines_of(log: Path) -> list[dict[str, Any]]:
    """What a log says besides ticks and chunks."""
    return [json.loads(line) for line in (log / "events.jsonl").read_text().splitlines()]


def changes(log: Path, to: str) -> list[float]:
    """When, by its own clock, the control loop changed to a state by itself."""
    return [x["at"] for x in lines_of(log) if "change" in x and x["change"]["to"] == to]


def steps_of(log: Path) -> np.ndarray:
    """Metres between consecutive targets as the log has all of them, longest first."""
    track = read_log(log).published()[1]
    return np.sort(np.linalg.norm(np.diff(track.position, axis=0), axis=-1))[::-1]


def mapped() -> int:
    """Pieces of shared memory that this process still has."""
    return Path("/proc/self/maps").read_text().count("memfd:robopolicy")


def until_ticks(robot: FrankaBridgeRobot, more: int) -> Status:
    """The status so many ticks later."""
    goal = robot.status().counters["ticks"] + more
    while (status := robot.status()).counters["ticks"] < goal:
        time.sleep(0.01)
    return status
