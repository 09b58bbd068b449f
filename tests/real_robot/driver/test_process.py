"""The control process for real: its own process, a socket, and a twin in a third one.

Times are the control process's own where a limit of the failure table is asserted: its log has them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from robopolicy.core.errors import ControlProcessLost, DatasetError, LinkDown, RequestRefused
from robopolicy.real_robot.clock import SystemClock
from robopolicy.real_robot.control.observations import Snapshot
from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.driver.config import CameraConfig, FrankaBridgeConfig
from robopolicy.real_robot.driver.contract import Driver, Status
from robopolicy.real_robot.driver.pictures import decode
from robopolicy.real_robot.driver.process import BROKEN, GONE, ControlProcess
from robopolicy.real_robot.driver.remote import FROZEN, FrankaBridgeRobot
from robopolicy.real_robot.driver.shared import Board
from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.limits import TIMEOUT_CAPS, Timeouts
from robopolicy.real_robot.log.reader import read_log
from robopolicy.real_robot.report.words import plain_line
from robopolicy.real_robot.safety.types import Setpoint

# Patience with everything but what is tested: the machine may be busy.
WAITS = ("ping_interval", "ping_timeout", "state_soft", "state_hard", "loopback_soft", "loopback_hard", "service")
PATIENT = Timeouts(**{name: TIMEOUT_CAPS[name] for name in WAITS})
STEP = 0.10 * 0.01 * 1.001  # m a tick: the default limits' speed
LEAD = 0.05  # m


class Arm:
    """The twin's process."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, str(Path(__file__).parent / "arm_process.py"), *options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.url = self.process.stdout.readline().strip()

    def ask(self, line: str = "report") -> dict:
        self.process.stdin.write(line + "\n")
        return json.loads(self.process.stdout.readline())

    def until_quiet(self, seconds: float = 0.3, patience: float = 20.0) -> dict:
        """The report once no command came for ``seconds``, with all commands since the last one."""
        heard, end = [], time.monotonic() + patience
        while time.monotonic() < end:
            report = self.ask()
            heard += report["commands"]
            if not report["publishers"] and (not heard or report["now"] - heard[-1][0] > seconds):
                return {**report, "commands": heard}
            time.sleep(0.05)
        raise AssertionError("commands go on")

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


def ready(robot: FrankaBridgeRobot) -> None:
    """Connect and look until everything is green: on a busy machine the round trip may not be, at first."""
    robot.connect(monitor_only=False)
    for _ in range(8):
        report = robot.preflight()
        if report.green:
            break
    assert report.green, report.failures()


def arm(robot: FrankaBridgeRobot) -> None:
    robot.ask_to_arm("tester")
    robot.confirm_arming("tester")


@contextlib.contextmanager
def running(arm_: Arm, log: Path | None = None, **settings: object) -> Iterator[FrankaBridgeRobot]:
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
    n = max(2, round(seconds / 0.1))
    steps = np.linspace(0, metres, n + 1)[1:, None] * np.array((0.0, 1.0, 0.0))
    track = Pose(at.position + steps, np.tile(at.quaternion, (n, 1)))
    begin = robot.clock.now() + robot.config.arm_latency + 0.1
    return Waypoints(track, begin + 0.1 * np.arange(1, n + 1), 0.1, status.epoch, None, number)


def until(robot: FrankaBridgeRobot, *states: State, patience: float = 20.0) -> Status:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        status = robot.status()
        if status.state in states:
            return status
        time.sleep(0.01)
    raise AssertionError(f"still {status.state}: {status.why}")


def lines_of(log: Path) -> list[dict]:
    """What a log says besides ticks and chunks."""
    return [json.loads(line) for line in (log / "events.jsonl").read_text().splitlines()]


def changes(log: Path, to: str) -> list[float]:
    """When, by its own clock, the control loop changed to a state by itself."""
    return [x["at"] for x in lines_of(log) if "change" in x and x["change"]["to"] == to]


def steps_of(log: Path) -> np.ndarray:
    """Metres between consecutive targets as the log has all of them, longest first."""
    track = read_log(log).published()[1]
    return np.sort(np.linalg.norm(np.diff(track.position, axis=0), axis=-1))[::-1]


@pytest.fixture(scope="module")
def twin():
    made = Arm()
    yield made
    made.close()


def mapped() -> int:
    """Pieces of shared memory that this process still has."""
    return Path("/proc/self/maps").read_text().count("memfd:robopolicy")


def test_the_control_process_is_lean_and_keeps_the_contract(twin, tmp_path):
    before = mapped()
    with running(twin, log=tmp_path / "log") as robot:
        assert isinstance(robot, Driver)
        status = robot.status()
        assert status.extra["process"] == robot.pid != os.getpid()
        assert status.extra["torch"] is False
        assert status.extra["collector"]["automatic"] is False
        assert status.extra["collector"]["frozen"] > 10_000
        assert status.extra["scheduling"] == "SCHED_RR 20" or len(status.extra["warnings"]) == 1
        assert status.preflight.green
        assert status.recording == str(tmp_path / "log")
        with pytest.raises(RequestRefused, match="start: not in state running"):
            robot.start()
        with pytest.raises(RequestRefused, match="connected before"):
            robot.connect()
        shot = robot.snapshot(2, 0.05)
        assert isinstance(shot, Snapshot)
        np.testing.assert_allclose(shot.poses.position[-1], status.measured.position, atol=0.01)
        assert robot.submit(chunk(robot, 0.02, 0.5))
        assert not robot.submit(stale(robot))
        assert until_ticks(robot, 60).counters["stale"] == 1
        moved = robot.status()
        assert 0.005 < moved.emitted.position[1] - status.measured.position[1] < 0.025
        robot.pause("enough")
        assert robot.status().state is State.HOLD  # who was told must also see it
        assert robot.status().why == "enough"
        assert mapped() == before + 1
        pid = robot.pid
    last = robot.status()
    assert last.extra["ended"]["code"] == 0
    assert 0 <= last.extra["ended"]["stop_target_after"] < 0.05
    with pytest.raises(LinkDown, match="make a new"):
        robot.start()
    robot.disconnect()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert mapped() == before
    calls = [x["call"] for x in lines_of(tmp_path / "log") if "call" in x]
    assert calls[:5] == ["ask_to_arm", "confirm_arming", "start", "start", "pause"]
    assert json.loads((tmp_path / "log" / "end.json").read_text())["complete"]
    twin.until_quiet()


def stale(robot: FrankaBridgeRobot) -> Waypoints:
    made = chunk(robot, 0.02, 0.5)
    return Waypoints(made.track, made.stamps, made.dt, made.epoch - 1)


def until_ticks(robot: FrankaBridgeRobot, more: int) -> Status:
    goal = robot.status().counters["ticks"] + more
    while (status := robot.status()).counters["ticks"] < goal:
        time.sleep(0.01)
    return status


def test_F09_numbers_that_are_none_are_refused_on_both_sides(twin, tmp_path):
    with running(twin, log=tmp_path / "log") as robot:
        good = chunk(robot, 0.05, 1.0)
        position = good.track.position.copy()
        position[3, 1] = np.nan
        bad = Waypoints(Pose(position, good.track.quaternion), good.stamps, 0.1, good.epoch)
        assert robot.submit(good)
        assert not robot.submit(bad)
        status = until_ticks(robot, 5)
        assert (status.state, status.counters["refused"]) == (State.RUNNING, 1)
        # Past this side's check, as if it did not exist: the control loop has its own.
        robot._side.submit(bad)
        assert "second refused chunk" in until(robot, State.FAULT).why
        assert robot.status().counters["refused"] == 2
        robot.disconnect()
    assert np.isfinite([c[2] for c in twin.until_quiet()["commands"]]).all()


def test_F22_a_policy_that_hangs_or_raises_leaves_a_control_process_that_holds(twin, tmp_path):
    with running(twin, log=tmp_path / "log") as robot:
        robot.submit(chunk(robot, 0.02, 0.5))
        robot.policy_began()  # and never answers
        end = until_plan(robot)
        status = until(robot, State.FAULT)
        assert "no answer for" in status.why
        os.kill(robot.pid, 0)
        assert until_ticks(robot, 20).state is State.FAULT
        robot.recover("tester")
        until(robot, State.READY, patience=60)
        arm(robot)
        robot.start()
        robot.submit(chunk(robot, 0.02, 0.5))
        asked = robot.clock.now()
        robot.policy_failed("ValueError: shapes")
        assert "ValueError: shapes" in until(robot, State.FAULT).why
        raised = robot.clock.now()
    faults = changes(tmp_path / "log", "fault")
    assert len(faults) == 2
    assert 0 < faults[0] - end <= 1.0
    assert asked <= faults[1] <= raised
    heard = twin.until_quiet()["commands"]
    assert np.sum([asked <= c[0] <= raised + 1 for c in heard]) > 0  # the stop target goes on being sent


def until_plan(robot: FrankaBridgeRobot) -> float:
    """End of the plan that was just submitted."""
    begin = robot.clock.now()
    for _ in range(1000):
        end = robot.status().plan_end
        if end is not None and end > begin + 0.1:
            return end
        time.sleep(0.005)
    raise AssertionError("no plan")


def test_F23_when_the_control_process_is_killed_every_call_says_so_and_nothing_is_left(twin):
    before = mapped()
    with running(twin) as robot:
        robot.submit(chunk(robot, 0.08, 1.0))
        until_ticks(robot, 60)
        tool = twin.ask()["tool"]
        memory = robot._board.block.fd
        os.kill(robot.pid, signal.SIGKILL)
        killed = time.monotonic()
        wish = Setpoint(np.zeros(3), np.array((1.0, 0.0, 0.0, 0.0)))
        calls = (
            *(robot.status, robot.snapshot, robot.heartbeat, robot.start, robot.policy_began, robot.preflight),
            *(robot.estop, lambda: robot.submit(None), lambda: robot.teleop(wish)),
        )
        while not robot._child.lost and time.monotonic() < killed + 10:
            time.sleep(0.01)
        for call in calls:
            with pytest.raises(ControlProcessLost, match=r"ended \(killed by SIGKILL\); it was running \(started\)"):
                call()
        with pytest.raises(OSError):
            os.fstat(memory)
        report = twin.until_quiet()
        assert report["clients"] == []
        assert all(c[0] < killed + 0.5 for c in report["commands"])
        time.sleep(1.0)
        assert np.linalg.norm(np.subtract(twin.ask()["tool"], tool)) <= LEAD
    assert mapped() == before


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


def test_F25_a_dead_man_that_is_no_longer_heard_holds(twin, tmp_path):
    with FrankaBridgeRobot(
        FrankaBridgeConfig(url=twin.url, timeouts=PATIENT, dead_man=True), log=tmp_path / "log"
    ) as robot:
        ready(robot)
        with beating(robot) as beats:
            arm(robot)
            robot.start()
            robot.submit(chunk(robot, 0.05, 1.0))
            time.sleep(0.6)
            assert robot.status().state is State.RUNNING
        assert "operator" in until(robot, State.HOLD).why
    held = changes(tmp_path / "log", "hold")
    assert 0.28 <= held[0] - beats[-1] <= 0.35


@contextlib.contextmanager
def beating(robot: FrankaBridgeRobot) -> Iterator[list[float]]:
    """The operator's heartbeat at 20 Hz, from a thread as a teleoperation device would; when each was."""
    beats, stop = [], threading.Event()

    def beat() -> None:
        with contextlib.suppress(PermissionError, AttributeError):  # of this thread only: the tests' machine is busy
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(10))
        while not stop.is_set():
            robot.heartbeat()
            beats.append(robot.clock.now())
            stop.wait(0.05)

    thread = threading.Thread(target=beat)
    thread.start()
    time.sleep(0.1)
    try:
        yield beats
    finally:
        stop.set()
        thread.join()


def test_F41_while_a_human_commands_the_policy_does_not(twin, tmp_path):
    with running(twin, log=tmp_path / "log") as robot:
        policy = chunk(robot, 0.10, 1.5)
        assert robot.submit(policy)
        until_ticks(robot, 60)
        robot.intervene()
        status = robot.status()
        assert status.state is State.HUMAN
        assert status.epoch == policy.epoch + 1
        began, at = robot.clock.now(), status.emitted
        up = Pose(at.position + np.array((0.0, 0.0, 0.03)), at.quaternion)
        for _ in range(60):
            assert not robot.submit(policy)  # of before, and there is no other in HUMAN
            robot._side.submit(policy)  # even past this side's check
            robot.teleop(Setpoint(up.position, up.quaternion, left=0.0))
            time.sleep(0.02)
        assert robot.status().counters["stale"] >= 60
        ended = robot.clock.now()
        robot.release()
        assert robot.status().state is State.HOLD
    during = np.array([c[2] for c in twin.until_quiet()["commands"] if began + 0.5 <= c[0] <= ended])
    assert len(during) > 20
    assert np.ptp(during[:, 1]) < 0.002  # nothing of the policy's way along y
    assert during[-1, 2] - at.position[2] == pytest.approx(0.03, abs=0.003)


PARENT = """
import json, os, signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests in the background ignores them
signal.signal(signal.SIGHUP, signal.SIG_DFL)
sys.path.insert(0, sys.argv[3])
import test_process as t
from pathlib import Path
arm_ = type("Arm", (), {"url": sys.argv[1]})
try:
    with t.running(arm_, log=Path(sys.argv[4])) as robot:
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
        [sys.executable, "-c", PARENT, twin.url, how, str(Path(__file__).parent), str(folder / "log")],
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


@pytest.mark.slow
@pytest.mark.render
def test_pictures_come_across_and_wishes_of_a_watcher_do_not():
    twin = Arm("--camera")
    try:
        camera = CameraConfig(size=(96, 128), fps=10)
        config = FrankaBridgeConfig(url=twin.url, timeouts=PATIENT, cameras={"front": camera})
        with FrankaBridgeRobot(config) as robot:
            assert robot.snapshot().why == "clock: the robot's time is not known"
            robot.connect()
            for _ in range(400):
                shot = robot.snapshot(2, 0.1)
                if isinstance(shot, Snapshot) and shot.valid.all():
                    break
                time.sleep(0.05)
            assert [decode(f).shape for f in shot.frames["front"]] == [(96, 128, 3)] * 2
            assert shot.frames["front"][0].time < shot.frames["front"][1].time == shot.time
            assert set(shot.ages) == {"state", "gripper", "front"}
            with pytest.raises(RequestRefused, match="only watches"):
                robot.ask_to_arm("tester")
            assert not robot.submit(chunk(robot, 0.02, 0.5))
        assert twin.ask()["commands"] == []
    finally:
        twin.close()


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
