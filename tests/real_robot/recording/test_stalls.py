"""A main thread that stalls loses no frames that the driver still has; a true gap ends the episode."""

from __future__ import annotations

import json

import numpy as np
import pytest

from robopolicy.core.errors import ConfigError
from robopolicy.datasets.episode_meta import episode_meta
from robopolicy.datasets.reader import Reader
from robopolicy.real_robot.control.observations import NoSnapshot
from robopolicy.real_robot.recording.spool import sidecar_path


def columns(root):
    """Every column of the first episode as arrays, without the pictures."""
    pq = pytest.importorskip("pyarrow.parquet")
    rows = [row for p in sorted(root.glob("data/**/*.parquet")) for row in pq.read_table(p).to_pylist()]
    return {key: np.array([r[key] for r in rows]) for key in rows[0] if "images" not in key}


def recorded(make, root, stall=0, fps=20, cameras=()):
    """A line in 1 s, at 50 looks a second but for a stall of so many hundredths in the middle of it."""
    d = make(root, cameras=cameras, fps=fps, image_storage="png")
    d.run()
    d.recorder.begin("go forward")
    d.step(10)
    assert d.recorder.submit(d.line((0.08, 0, 0)))
    d.step(35)
    d.driver.tick(stall)
    d.step((100 - stall) // 2)
    assert d.recorder.recording, d.recorder.marks
    assert d.recorder.end(True)
    assert d.recorder.flush(), d.recorder.ended
    d.close()
    return columns(root), json.loads(sidecar_path(root, 0).read_text())


@pytest.mark.parametrize("stall", [10, 30, 60])
def test_a_stall_loses_no_frame_and_no_observation(rig, tmp_path, stall):
    """Longer than two frames, and even than what ends an episode: the driver has all of it."""
    smooth, _ = recorded(rig, tmp_path / "smooth")
    got, sidecar = recorded(rig, tmp_path / "stalled", stall)
    assert sidecar["ended"] == ""
    assert sidecar["repeated_frames"] == 0
    assert sidecar["seen_late"] >= stall - 4
    assert len(got["timestamp"]) == len(smooth["timestamp"])
    age = got["timestamp"] - got["observation.time.state"]
    assert age.min() >= 0
    assert age.max() <= 0.0201
    # Looks are 20 ms apart and the twin's time is exact: states of equal times are equal.
    speed = 0.08 / 1.0
    np.testing.assert_allclose(got["observation.state"], smooth["observation.state"], atol=0.02 * speed)
    np.testing.assert_array_equal(got["meta.chunk_step"], smooth["meta.chunk_step"])
    np.testing.assert_allclose(got["action"], smooth["action"], atol=1e-6)
    np.testing.assert_allclose(got["action.emitted"], smooth["action.emitted"], atol=0.01)


def test_pictures_of_a_stall_are_their_own_frames_with_their_own_times(rig, tmp_path):
    got, sidecar = recorded(rig, tmp_path / "set", stall=40, fps=10, cameras=("front",))
    assert sidecar["ended"] == ""
    assert sidecar["repeated_frames"] == 0
    assert sidecar["seen_late"] == 3  # 10 Hz for 0.4 s, and the newest was seen by itself
    seen = got["observation.time.front"]
    assert np.diff(seen) == pytest.approx(0.1)  # each picture once
    assert np.abs(seen - got["observation.time.state"]).max() <= 0.0101
    assert (got["timestamp"] - seen).min() >= 0
    assert (got["timestamp"] - seen).max() <= 0.1


def blind(d, monkeypatch, steps):
    """So many looks at nothing in the middle of an episode."""
    d.run()
    d.recorder.begin("blind")
    d.step(30)
    with monkeypatch.context() as patch:
        patch.setattr(d.driver, "snapshot", lambda *a, **k: NoSnapshot("no state"))
        d.step(steps)
    d.step(20)


@pytest.mark.parametrize(("gap", "fps", "steps", "ends"), [
    *((None, 20, 22, False), (None, 20, 40, True)),  # 0.44 s and 0.8 s of half a second
    *((0.2, 20, 8, False), (0.2, 20, 22, True)),
    *((None, 2, 45, False), (1.5, 20, 60, False)),  # two frames are a second
])  # fmt: skip
def test_only_a_gap_beyond_the_bound_ends_an_episode(rig, tmp_path, monkeypatch, gap, fps, steps, ends):
    d = rig(tmp_path / "set", fps=fps, gap=gap)
    # What the driver has of the time is out of reach, too.
    monkeypatch.setattr("robopolicy.real_robot.recording.sights.LATE", 10.0)
    blind(d, monkeypatch, steps)
    assert d.recorder.recording == (not ends)
    assert bool(d.recorder.marks) == ends
    if ends:
        assert d.recorder.marks[0].startswith(f"frames lost: no observation for {gap or 0.5:g} s, the newest is ")
        d.recorder.flush()
        meta = episode_meta(Reader(d.recorder.root), ["success", "ended"])[0]  # kept, and marked
        assert meta["ended"] == d.recorder.marks[0]
        assert not meta["success"]
    d.close()


def test_a_bound_below_a_frame_is_refused(rig, tmp_path):
    with pytest.raises(ConfigError, match="gap"):
        rig(tmp_path / "set", fps=10, gap=0.05)
