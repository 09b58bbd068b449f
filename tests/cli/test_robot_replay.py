"""Logs again: offline to the bit, and their motion through session, plan and filter."""

from __future__ import annotations

import importlib.util
import shutil
import zlib
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("mujoco")

from robopolicy.cli._robot_session import MotionPerformer, Session
from robopolicy.cli.main import main
from robopolicy.cli.robot_replay import path_maker
from robopolicy.core.errors import ConfigError
from robopolicy.real_robot.clock import VirtualClock
from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.limits import SafetyLimits
from robopolicy.real_robot.log.format import HEADER, ROW, Has
from robopolicy.real_robot.log.reader import read_log
from robopolicy.real_robot.log.runlog import RunLog
from robopolicy.real_robot.log.settings import LoopSettings
from robopolicy.real_robot.motions import Player, Sine
from robopolicy.real_robot.twin.config import TwinConfig
from robopolicy.testing.driver import HERE, FakeDriver, plain_board
from robopolicy.testing.twin_driver import TwinDriver


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Folder of a run of 4 s on the twin: a sine along y."""
    folder = tmp_path_factory.mktemp("runs") / "sine"
    tap = RunLog(folder, LoopSettings(), VirtualClock(100.0), {"policy": "sine"})
    driver = TwinDriver(TwinConfig(lock_step=True, cameras=()), tap=tap)
    driver.arm()
    driver.start()
    performer = MotionPerformer(driver, lambda status: Player(Sine(status.emitted, "y", 0.03, 0.25, 12.0)))
    assert Session(driver, performer, plain_board()[0], "Ada", False, 4.0, sleep=lambda s: driver.tick(2)).run() == 0
    driver.tick(20)
    tap.close("done")
    return folder


def test_a_log_is_replayed_identically_and_drawn(log, tmp_path, capsys):
    page, recording = tmp_path / "run.html", tmp_path / "run.rrd"
    words = ["--page", str(page)]
    if importlib.util.find_spec("rerun") is not None:
        words += ["--rerun", str(recording)]
    assert main(["robot", "replay", str(log), *words]) == 0
    out = capsys.readouterr().out
    assert "identical: every decision, bit for bit" in out
    assert "Tool y" in page.read_text()
    assert "--rerun" not in words or recording.stat().st_size > 10_000


def test_a_bit_that_differs_is_named(log, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(log, copy)
    data = bytearray((copy / "ticks.bin").read_bytes())
    row = np.frombuffer(data, ROW, offset=HEADER.size)[200:201].copy()
    row["emitted_position"][0, 1] += 1e-12
    row["crc"] = zlib.crc32(row.tobytes()[:-4])
    data[HEADER.size + 200 * ROW.itemsize : HEADER.size + 201 * ROW.itemsize] = row.tobytes()
    (copy / "ticks.bin").write_bytes(bytes(data))
    assert main(["robot", "replay", str(copy)]) == 1
    out = capsys.readouterr().out
    assert "different: tick 200" in out
    assert "emitted_position" in out


def test_what_is_no_log_is_one_line_and_2(tmp_path, capsys):
    assert main(["robot", "replay", str(tmp_path)]) == 2
    assert "expected the folder of a run's log" in capsys.readouterr().err


def test_a_recorded_motion_is_played_at_its_share_of_the_speed(log):
    logged = read_log(log)
    times, track = logged.published()
    driver = FakeDriver()
    make = path_maker(logged, 0.5, True, SafetyLimits())
    player = make(driver.status())
    begin = track.position[0]
    way = np.linalg.norm(begin - HERE.position)
    approach = player.motion.duration - (times[-1] - times[0]) / 0.5
    assert approach >= max(2 * way / 0.10, 1.0) - 1e-6  # at half the speed limit
    assert player.motion.at(0.0)[0].position == pytest.approx(HERE.position)
    middle = 0.5 * (times[0] + times[-1])
    k = int(np.searchsorted(times, middle))
    there = player.motion.at(approach + (times[k] - times[0]) / 0.5)[0]
    assert there.position == pytest.approx(track.position[k], abs=1e-9)


def test_the_hand_closes_where_it_closed(log):
    """A width that was sent with a pose was there a tenth of a second before the arm was."""
    logged = read_log(log)
    times, _ = logged.published()
    k, rows = 200, logged.rows.copy()
    sent = np.flatnonzero((rows["has"] & Has.PUBLISHED) > 0)
    rows["has"][sent] |= int(Has.EMITTED_GRIPPER)
    rows["emitted_width"][sent[:k]], rows["emitted_width"][sent[k:]] = 0.08, 0.02
    player = path_maker(replace(logged, rows=rows), 0.5, True, SafetyLimits())(FakeDriver().status())
    approach = player.motion.duration - (times[-1] - times[0]) / 0.5
    sooner = logged.settings.latency - logged.settings.gripper_latency
    assert sooner == pytest.approx(0.1)
    closes = approach + (times[k] - sooner - times[0]) / 0.5
    assert player.motion.at(closes - 0.03)[1] == 0.08
    assert player.motion.at(closes + 0.03)[1] == 0.02


def test_an_arm_that_stands_elsewhere_is_refused(log):
    status = FakeDriver().status()
    away = replace(status, emitted=Pose(HERE.position + np.array((0.1, 0.1, 0.0)), HERE.quaternion))
    make = path_maker(read_log(log), 0.25, False, SafetyLimits())
    with pytest.raises(ConfigError, match=r"mm and .* from where the record begins.*--approach"):
        make(away)
