"""kill -9 at any point of a recording: every closed episode is readable and exact, and recording goes on."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from robopolicy.core import io
from robopolicy.core.errors import DatasetError
from robopolicy.datasets.hashing import hash_arrays
from robopolicy.datasets.reader import Reader
from robopolicy.datasets.writer import Writer
from robopolicy.testing.recordings import CAMERA, FPS, record_episode, toy_frames, toy_length, toy_specs

POINTS = ["before_videos", "after_video", "after_data", "after_tasks", "after_episodes", "after_stats", "after_info"]


class Killed(BaseException):
    """Stands for the end of the process at a fault point."""


def episode_hashes(root, count):
    """Hashes of the first ``count`` episodes on disk and those they must have; checks the frames on the way."""
    reader = Reader(root)
    spec, _ = toy_specs()
    found, wanted = [], []
    for episode in reader.episodes[:count]:
        rows = slice(episode.start, episode.stop)
        keys = ("observation.state", "observation.environment_state", "action")
        found.append(hash_arrays({k: reader.columns[k][rows] for k in keys}))
        frames = list(toy_frames(episode.index, spec))
        obs = {k: np.stack([f["obs"][k] for f in frames]) for k in keys[:2]}
        wanted.append(hash_arrays({**obs, "action": np.stack([f["action"] for f in frames])}))
        images = reader.frames(CAMERA, np.arange(episode.start, episode.stop)).astype(int)
        assert np.abs(images - np.stack([f["obs"][CAMERA] for f in frames])).mean() < 3
    return found, wanted


@pytest.mark.parametrize("point", POINTS)
def test_dying_at_each_point_of_the_second_save(tmp_path, monkeypatch, point):
    spec, space = toy_specs()
    writer = Writer(tmp_path / "d", FPS, spec, space, robot_type="toy")
    record_episode(writer, 0)

    def fault(name: str) -> None:
        if name == point:
            raise Killed

    monkeypatch.setattr(io, "fault_point", fault)
    with pytest.raises(Killed):
        record_episode(writer, 1)
    monkeypatch.undo()
    closed = 2 if point == "after_info" else 1
    assert json.loads((tmp_path / "d/meta/info.json").read_text())["total_episodes"] == closed
    found, wanted = episode_hashes(tmp_path / "d", closed)
    assert found == wanted
    assert len(found) == closed

    resumed = Writer.resume(tmp_path / "d")
    assert resumed.num_episodes == closed
    assert not list(tmp_path.rglob("*partial*"))
    for index in range(closed, 4):
        record_episode(resumed, index)
    resumed.finalize()
    found, wanted = episode_hashes(tmp_path / "d", 4)
    assert found == wanted
    assert len(found) == 4
    stats = json.loads((tmp_path / "d/meta/stats.json").read_text())
    assert stats["action"]["count"] == [sum(toy_length(i) for i in range(4))]


def kill_and_check(tmp_path, seeds):
    """Two SIGKILLs a seed; returns how many episodes were closed in all."""
    command = [sys.executable, "-m", "robopolicy.testing.recordings", "kill", str(tmp_path), *map(str, seeds)]
    subprocess.run(command, check=True, timeout=560)
    total = 0
    for seed in seeds:
        root, log = tmp_path / str(seed), tmp_path / f"{seed}.log"
        closed = len(log.read_text().split()) if log.exists() else 0
        info = root / "meta/info.json"  # a kill before the first one is written leaves nothing to read
        assert (json.loads(info.read_text())["total_episodes"] if info.exists() else 0) >= closed
        if closed:
            found, wanted = episode_hashes(root, closed)
            assert len(found) == closed
            assert found == wanted
        total += closed
    return total


def test_twelve_random_kills(tmp_path):
    assert kill_and_check(tmp_path, range(6)) > 6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fifty_random_kills_and_lerobot_reads_the_survivors(tmp_path):
    lerobot = pytest.importorskip("lerobot.datasets.lerobot_dataset")
    assert kill_and_check(tmp_path, range(100, 125)) > 25
    for seed in sorted(int(p.stem) for p in tmp_path.glob("*.log"))[:2]:
        root = tmp_path / str(seed)
        closed = len((tmp_path / f"{seed}.log").read_text().split())
        theirs = lerobot.LeRobotDataset("local/toy", root=root, episodes=list(range(closed)), video_backend="pyav")
        assert len(theirs) == sum(toy_length(i) for i in range(closed))
        last = list(toy_frames(closed - 1, toy_specs()[0]))[-1]
        np.testing.assert_array_equal(theirs[len(theirs) - 1]["action"].numpy(), last["action"])
        assert np.abs(theirs[len(theirs) - 1][CAMERA].numpy() * 255 - last["obs"][CAMERA]).mean() < 3


def test_kill_before_the_first_info_leaves_a_folder_that_can_be_used_again(tmp_path):
    spec, space = toy_specs()
    (tmp_path / "d/meta").mkdir(parents=True)
    (tmp_path / "d/meta" / f"{io.PARTIAL}info.json-0123").write_text("{")
    record_episode(Writer(tmp_path / "d", FPS, spec, space, robot_type="toy"), 0)
    found, wanted = episode_hashes(tmp_path / "d", 1)
    assert found == wanted
    assert not list(tmp_path.rglob("*partial*"))


def test_full_disk_is_named_and_loses_no_closed_episode(tmp_path):
    limits = [300, 2500, 9000, 62000, 66000, 67000, 68000]
    command = [sys.executable, "-m", "robopolicy.testing.recordings", "full", str(tmp_path), *map(str, limits)]
    subprocess.run(command, check=True, timeout=560)
    total = 0
    for limit in limits:
        error = (tmp_path / f"{limit}.err").read_text()
        assert "writing failed" in error
        assert "Writer.resume" in error
        log = tmp_path / f"{limit}.log"
        closed = len(log.read_text().split()) if log.exists() else 0
        assert f"the {closed} closed episodes are safe" in error
        if closed:
            found, wanted = episode_hashes(tmp_path / str(limit), closed)
            assert found == wanted
            resumed = Writer.resume(tmp_path / str(limit))
            assert resumed.num_episodes == closed
            record_episode(resumed, closed)
            found, wanted = episode_hashes(tmp_path / str(limit), closed + 1)
            assert found == wanted
        total += closed
    assert total >= 5


def test_a_writer_that_was_interrupted_refuses_to_go_on(tmp_path, monkeypatch):
    spec, space = toy_specs()
    writer = Writer(tmp_path / "d", FPS, spec, space)
    record_episode(writer, 0)

    def fault(name: str) -> None:
        if name == "after_data":
            raise Killed

    monkeypatch.setattr(io, "fault_point", fault)
    with pytest.raises(Killed):
        record_episode(writer, 1)
    monkeypatch.undo()
    with pytest.raises(DatasetError, match="the 1 closed episodes are safe"):
        writer.add_frame(**next(toy_frames(0, spec)))
