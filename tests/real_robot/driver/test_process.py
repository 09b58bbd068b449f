"""The control process for real: its own process, a socket, and a twin in a third one; what it does for the policy.

Times are the control process's own where a limit of the failure table is asserted: its log has them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from robopolicy.core.errors import ControlProcessLost, LinkDown, RequestRefused
from robopolicy.real_robot.control.observations import Snapshot
from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.driver.config import CameraConfig, FrankaBridgeConfig
from robopolicy.real_robot.driver.contract import Driver
from robopolicy.real_robot.driver.pictures import decode
from robopolicy.real_robot.driver.remote import FrankaBridgeRobot
from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.safety.types import Setpoint
from robopolicy.testing.control_process import (
    LEAD,
    PATIENT,
    Arm,
    arm,
    changes,
    chunk,
    lines_of,
    mapped,
    ready,
    running,
    until,
    until_ticks,
)


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
