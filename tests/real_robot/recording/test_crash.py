"""What is left after a kill, on a full disk, and behind a slow encoder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from robopolicy.core.errors import DatasetError
from robopolicy.datasets.reader import Reader
from robopolicy.datasets.writer import Writer
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.recording.recorder import Recorder
from robopolicy.real_robot.recording.spool import SIDECARS, sidecar_path


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A dataset whose recorder was killed in the middle of its third episode."""
    pytest.importorskip("mujoco")
    root = tmp_path_factory.mktemp("killed") / "set"
    script = Path(__file__).parent / "conftest.py"
    run = subprocess.Popen([sys.executable, str(script), str(root)], stdout=subprocess.PIPE, text=True)
    try:
        assert "episode 3" in run.stdout.readline()
    finally:
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        run.stdout.close()
    return root


@pytest.mark.render
def test_a_kill_in_the_third_episode_leaves_two_that_our_reader_opens(killed):
    reader = Reader(killed)
    assert len(reader.episodes) == 2
    assert reader.num_frames > 20
    assert reader.columns["action"].shape == (reader.num_frames, 5)
    assert np.isfinite(reader.columns["action"]).all()
    pictures = reader.frames("observation.images.front", np.array((0, reader.num_frames - 1)))
    assert pictures.shape == (2, 3, 48, 64)
    assert all(sidecar_path(killed, episode.index).is_file() for episode in reader.episodes)


@pytest.mark.slow
@pytest.mark.render
def test_a_kill_in_the_third_episode_leaves_two_that_lerobot_opens(killed, tmp_path, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("lerobot.datasets.lerobot_dataset", reason="lerobot is not installed")
        import datasets
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    found = module.LeRobotDataset("local/killed", root=killed)
    assert found.num_episodes == 2
    item = found[len(found) - 1]
    assert item["observation.images.front"].shape == (3, 48, 64)
    assert item["intervention"].item() is False
    assert item["task"] == "go to and fro"


@pytest.mark.render
def test_recording_goes_on_after_a_kill(killed, rig):
    orphan = sidecar_path(killed, 2)
    orphan.write_text("{}")  # as written just before a save that never came
    desk = rig(killed, cameras=("front",), image_storage="png")
    try:
        assert not orphan.exists()
        desk.run()
        desk.recorder.begin("once more")
        desk.step(40)
        assert desk.recorder.end(True)
        assert desk.recorder.flush(), desk.recorder.ended
        assert desk.recorder.episodes == 3
    finally:
        desk.close()
    assert [e.index for e in Reader(killed).episodes] == [0, 1, 2]
    assert orphan.is_file()


def run_on(d, n=4):
    d.run()
    d.recorder.begin("to and fro")
    for k in range(n):
        d.recorder.submit(d.line((0.03 * (-1) ** k, 0, 0), 0.6))
        d.step(40)


def test_F39_a_full_disk_ends_the_recording_and_not_the_run(desk, monkeypatch):
    d = desk()
    run_on(d, 1)
    d.recorder.end(True)
    d.recorder.flush()
    add = Writer.add_frame

    def full(self, *given, **more):
        if len(self._buffer) >= 5:
            raise DatasetError(f"{self.root}: writing failed (No space left on device)")
        add(self, *given, **more)

    monkeypatch.setattr(Writer, "add_frame", full)
    d.recorder.begin("more")
    for k in range(3):
        d.recorder.submit(d.line((0.03 * (-1) ** k, 0, 0), 0.6))
        d.step(40)
    assert not d.recorder.flush()
    assert "No space left" in d.recorder.ended
    assert d.driver.status().state is State.RUNNING
    assert d.driver.tick().publish is not None
    d.recorder.end(True)
    d.recorder.close()
    assert len(Reader(d.recorder.root).episodes) == 1
    assert "No space left" in (d.recorder.root / SIDECARS / "ended.json").read_text()


def test_F39_an_encoder_that_hangs_ends_the_recording_and_holds_nobody_up(desk, monkeypatch):
    stuck = threading.Event()
    add = Writer.add_frame

    def slow(self, *given, **more):
        stuck.wait(60)
        add(self, *given, **more)

    monkeypatch.setattr(Writer, "add_frame", slow)
    monkeypatch.setattr("robopolicy.real_robot.recording.recorder.WAITING", 1.0)
    d = desk()
    began = time.monotonic()
    run_on(d)
    assert time.monotonic() - began < 40  # not the 60 s that a frame takes
    assert "too slow" in d.recorder.ended
    assert d.driver.status().state is State.RUNNING
    stuck.set()
    d.recorder.close()
    assert d.recorder.episodes == 0


def test_whatever_is_wrong_with_a_frame_is_not_the_loops_problem(desk, monkeypatch):
    d = desk()
    monkeypatch.setattr(d.recorder.features.adapter.__class__, "observation", lambda self, snapshot: 1 / 0)
    run_on(d, 1)
    assert not d.recorder.flush()
    assert "ZeroDivisionError" in d.recorder.ended
    assert d.driver.status().state is State.RUNNING


def test_a_folder_that_is_no_recording_is_refused(desk, tmp_path):
    d = desk()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(DatasetError, match="not empty"):
        Recorder(d.driver, tmp_path / "other", 10, d.recorder.features)
