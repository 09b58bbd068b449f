"""Films and records agree, frame by frame."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.evaluation import video
from robopolicy.evaluation.rollout import FILM_SIDE, evaluate
from robopolicy.evaluation.video import CAPTION, GAP, RUNNING, SOLVED, TILE, VideoWriter, captioned, read_frames
from robopolicy.testing.policies import GoalPolicy, StillPolicy


def solved(frame: np.ndarray) -> bool:
    """Whether the caption has the colour of success (compression moves colours a little)."""
    strip = frame[-6:-2, 4:-4].reshape(-1, 3).mean(0)
    distances = [float(np.abs(strip - np.array(c)).sum()) for c in (RUNNING, SOLVED)]
    assert min(distances) < 30
    return distances[1] < distances[0]


def test_every_frame_shows_what_the_record_says(tmp_path):
    env = {"name": "point_reach", "kwargs": {"max_steps": 14}}
    record = evaluate(GoalPolicy.for_point_reach(), env, 6, workers=1, videos=4, out=tmp_path / "e", progress=False)
    assert record.videos == tuple(f"e/episode_{i:04d}.mp4" for i in range(4))
    assert len({e.success for e in record.episodes[:4]}) == 2, "the sample must have both outcomes"
    for name, episode in zip(record.videos, record.episodes, strict=False):
        frames = list(read_frames(tmp_path / name))
        assert len(frames) == episode.length + 1
        assert frames[0].shape == (FILM_SIDE + CAPTION, FILM_SIDE, 3)
        states = [solved(f) for f in frames]
        first = states.index(True) if any(states) else None
        assert first == episode.first_success_step
        assert all(states[first:]) if first is not None else not any(states)


def test_captions_count_steps_and_name_the_first_success(tmp_path, monkeypatch):
    texts = []
    original = video.captioned
    monkeypatch.setattr(video, "captioned", lambda *args: texts.append(args[1:]) or original(*args))
    record = evaluate(
        GoalPolicy.for_point_reach(), "point_reach", 1, workers=0, videos=1, out=tmp_path / "e", progress=False
    )
    (episode,) = record.episodes
    task, left, state, _ = zip(*texts, strict=True)
    assert set(task) == {"move the point to the goal"}
    assert list(left) == [f"#0 seed 100000 · step {i}" for i in range(episode.length + 1)]
    assert set(state[:-1]) == {"not solved yet"}
    assert state[-1] == f"success at step {episode.first_success_step}"


def test_grid_is_as_long_as_the_longest(tmp_path):
    record = evaluate(
        GoalPolicy.for_point_reach(), "point_reach", 3, workers=0, videos=3, out=tmp_path / "g", progress=False
    )
    frames = list(read_frames(tmp_path / "g" / "grid.mp4"))
    assert len(frames) == max(e.length for e in record.episodes) + 1
    assert frames[0].shape[1] == 2 * (TILE + GAP)


@pytest.mark.parametrize("fault", ["raise", "crash"])
def test_a_lost_episode_leaves_no_film(tmp_path, fault):
    env = {"name": "point_reach", "kwargs": {"faults": {fault: [100_001]}, "max_steps": 10}}
    record = evaluate(StillPolicy.for_point_reach(), env, 3, workers=1, videos=2, out=tmp_path / "v", progress=False)
    assert [e.status for e in record.episodes] == ["ok", "error", "ok"]
    assert [p.name for p in (tmp_path / "v").iterdir()] == ["episode_0000.mp4"]
    assert record.videos == ("v/episode_0000.mp4",)


def test_an_episode_that_is_repeated_is_filmed_from_its_start(tmp_path):
    kwargs = {"faults": {"crash": [100_000]}, "fault_once_dir": str(tmp_path), "max_steps": 10}
    env = {"name": "point_reach", "kwargs": kwargs}
    record = evaluate(StillPolicy.for_point_reach(), env, 1, workers=1, videos=1, out=tmp_path / "v", progress=False)
    assert record.episodes[0].attempts == 2
    assert len(list(read_frames(tmp_path / "v" / "episode_0000.mp4"))) == 11


def test_long_task_names_are_cut_not_spilled():
    picture = np.zeros((64, 160, 3), np.uint8)
    framed = captioned(picture, "pick up the very small red cube and put it on the other one " * 3, "#1", "x", False)
    margin = framed[64:, -6:].reshape(-1, 3)
    assert framed.shape == (64 + CAPTION, 160, 3)
    assert (margin == RUNNING).all()


def test_odd_sizes_are_written(tmp_path):
    with VideoWriter(tmp_path / "odd.mp4", 12.5) as writer:
        for i in range(3):
            writer.add(np.full((33, 47, 3), 40 * i, np.uint8))
    assert [f.shape for f in read_frames(tmp_path / "odd.mp4")] == [(32, 46, 3)] * 3
