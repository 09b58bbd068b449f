"""The control process for real, and the policy's: what becomes of the arm where one of them stands still or ends.

Times are the control process's own where a limit of the failure table is asserted: its log has them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing import Pipe
from types import SimpleNamespace

import numpy as np
import pytest

from robopolicy.core.errors import DatasetError, RequestRefused
from robopolicy.real_robot.clock import SystemClock
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.driver.config import FrankaBridgeConfig
from robopolicy.real_robot.driver.process import BROKEN, GONE, ControlProcess
from robopolicy.real_robot.driver.remote import FROZEN, FrankaBridgeRobot
from robopolicy.real_robot.driver.shared import Board
from robopolicy.real_robot.limits import Timeouts
from robopolicy.real_robot.report.words import plain_line
from robopolicy.testing.control_process import (
    LEAD,
    PATIENT,
    STEP,
    changes,
    chunk,
    mapped,
    running,
    steps_of,
    until,
    until_ticks,
)


def test_F24_F43_a_pause_of_the_whole_process_holds_and_is_not_made_up_for(twin, tmp_path):
    with running(twin, log=tmp_path / "log") as robot:
        robot.submit(chunk(robot, 0.10, 1.5))
        until_ticks(robot, 60)
        os.kill(robot.pid, signal.SIGSTOP)  # what a swap storm or a stop-the-world collection looks like
        time.sleep(0.2)
        os.kill(robot.pid, signal.SIGCONT)
        resumed = robot.clock.now()
        status = until(robot, State.HOLD)
        assert "late" in status.why
        assert status.counters["late"] >= 1
        assert until_ticks(robot, 30).extra["missed_deadlines"] >= 15  # counted with the tick after
        robot.resume()
        until_ticks(robot, 10)
    commands = twin.until_quiet()["commands"]
    stamps = np.array([c[1] for c in commands])
    gap = int(np.argmax(np.diff(stamps)))
    assert np.diff(stamps)[gap] >= 0.19
    # The grid is taken up where time is: no two commands closer than half a period (less what sending them takes).
    assert (np.diff(stamps)[gap + 1 : gap + 30] > 0.004).all()
    # All but the two stop targets (of this pause, and at the end), which lie near the arm.
    steps = steps_of(tmp_path / "log")
    assert steps[0] <= LEAD
    assert steps[2] <= STEP
    held = changes(tmp_path / "log", "hold")
    assert held[0] - resumed < 0.1


def test_F24_a_control_process_that_stands_still_is_told_of_and_given_nothing_to_do(twin):
    with running(twin) as robot:
        robot.submit(chunk(robot, 0.05, 1.0))
        assert until_ticks(robot, 30).problem == ""
        os.kill(robot.pid, signal.SIGSTOP)
        try:
            seen, end = [], time.monotonic() + 20
            while not (seen and seen[-1][1]) and time.monotonic() < end:
                status = robot.status()
                seen.append((status.ages["status"], status.problem))
                time.sleep(0.02)
            assert seen[-1][1].startswith(f"the control process {robot.pid} has been silent for ")
            assert min(age for age, problem in seen if problem) > FROZEN  # no false alarm before
            assert not robot.submit(chunk(robot, 0.05, 1.0))
            assert "silent for" in robot.snapshot().why
            for call in (robot.start, robot.resume, robot.intervene, robot.preflight):
                with pytest.raises(RequestRefused, match="silent for"):
                    call()
            assert "PROBLEM: the control process" in plain_line(robot.status(), PATIENT)
        finally:
            os.kill(robot.pid, signal.SIGCONT)
        until(robot, State.HOLD, State.FAULT)  # it does not go on by itself, and the alarm ends
        assert until_ticks(robot, 5).problem == ""


PARENT = """
import json, os, signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests in the background ignores them
signal.signal(signal.SIGHUP, signal.SIG_DFL)
import robopolicy.testing.control_process as t
from pathlib import Path
arm_ = type("Arm", (), {"url": sys.argv[1]})
try:
    with t.running(arm_, log=Path(sys.argv[3])) as robot:
        robot.submit(t.chunk(robot, 0.10, 3.0))
        t.until_ticks(robot, 60)
        print(robot.pid, flush=True)
        if sys.argv[2] == "worker" and os.fork() == 0:  # a data loader, say: it holds copies of everything open
            for fd in (0, 1, 2):
                os.close(fd)
            time.sleep(15)
            os._exit(0)
        if sys.argv[2] == "exception":
            raise ValueError("user code")
        time.sleep(30)
finally:
    print(json.dumps(robot.status().extra["ended"]), flush=True)
"""


SLOW = [pytest.param(how, marks=pytest.mark.slow) for how in ("SIGINT", "SIGTERM", "exception", "SIGHUP", "worker")]


@pytest.mark.parametrize("how", ["SIGKILL", *SLOW])
def test_F40_F25_whatever_ends_the_program_the_arm_is_stopped_first(twin, tmp_path, how):
    # 50 ms are the row's number; a busy machine may be late, but not four times in a row.
    took = [ended_by(how, twin, tmp_path / "0")]
    while min(took) > 0.05 and len(took) < 4:
        took.append(ended_by(how, twin, tmp_path / str(len(took))))
    assert min(took) <= 0.05, took


def ended_by(how, twin, folder):
    """Seconds until the stop target was sent; everything else is asserted here."""
    folder.mkdir()
    twin.ask()
    program = subprocess.Popen(
        [sys.executable, "-c", PARENT, twin.url, how, str(folder / "log")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    pid = int(program.stdout.readline())
    if how != "exception":
        time.sleep(0.2)
        program.send_signal(getattr(signal, how, signal.SIGKILL))
    out, err = program.communicate(timeout=60)
    assert program.returncode != 0
    if how in ("SIGINT", "exception"):
        ended = json.loads(out)
        assert ended["why"] == "an exception in the program"
        took = ended["stop_target_after"]
    else:
        line = next(x for x in err.splitlines() if x.startswith("control process"))
        assert "the policy's process is gone" in line
        took = float(line.split("stop target sent after ")[1].split(" ms")[0]) / 1e3
    report = twin.until_quiet()
    assert report["publishers"] == []  # un-advertised
    assert report["clients"] == []
    # The stop target lies near the arm, which lags; every other step keeps the limit.
    steps = steps_of(folder / "log")
    assert steps[0] <= LEAD
    assert steps[1] <= STEP
    assert json.loads((folder / "log" / "end.json").read_text())["complete"]
    for _ in range(500):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 0)
            time.sleep(0.02)
            continue
        break
    else:
        raise AssertionError("the control process is still there")
    return took


def test_a_control_process_that_cannot_start_says_why(twin, tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "x").touch()
    before = mapped()
    with pytest.raises(DatasetError, match="not empty"):
        FrankaBridgeRobot(FrankaBridgeConfig(url=twin.url), log=tmp_path / "log")
    assert mapped() == before


def listening(*frames: bytes) -> tuple[ControlProcess, list[str]]:
    """A control process that has heard ``frames`` and the end of its channel, and what a policy was said to die of."""
    ours, theirs = Pipe()
    told: list[str] = []
    core = SimpleNamespace(clock=SystemClock(), times=Timeouts(), sources=SimpleNamespace())
    core.policy_failed = lambda why: told.append(why)
    process = ControlProcess(core, Board(()), theirs, os.getpid(), {})  # type: ignore[arg-type]
    process.show = lambda: None  # type: ignore[method-assign]
    for frame in frames:
        ours.send_bytes(frame)
    ours.close()
    process._listen()
    return process, told


def test_F40_a_channel_that_cannot_be_read_ends_the_control_process(capfd):
    process, _ = listening(b'{"id": 1, "call"')
    why, code, _ = process._ending
    assert (code, why.split(":")[0]) == (BROKEN, "the channel cannot be read")


def test_F22_a_policy_that_dies_with_a_book_is_told_in_a_page():
    book = json.dumps({"id": 0, "call": "policy_failed", "arguments": {"why": "tensor(" + "0.0, " * 20_000}})
    process, told = listening(book.encode())
    assert process._ending[1] == GONE
    assert [len(why) for why in told] == [1000]
