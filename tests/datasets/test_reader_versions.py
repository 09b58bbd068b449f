"""The same data in the three LeRobot versions reads the same, and reading changes nothing on disk."""

import hashlib

import numpy as np
import pytest

from robopolicy.core.errors import ConfigError, DatasetError
from robopolicy.core.specs import FeatureKind
from robopolicy.datasets.reader import Reader
from robopolicy.testing.datasets import TASKS, make_tiny_dataset, tiny_episodes

CAMERAS = ("observation.images.cam0", "observation.images.cam1")
LENGTHS = (9, 14, 11)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    return {
        version: make_tiny_dataset(root / version, version, 3, LENGTHS, cameras=2, size=(24, 32))
        for version in ("v2.0", "v2.1", "v3.0")
    }


def digest(root):
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return [(p.relative_to(root).as_posix(), hashlib.sha256(p.read_bytes()).hexdigest()) for p in files]


@pytest.mark.parametrize("version", ["v2.0", "v2.1", "v3.0"])
def test_columns_hold_what_was_written(tiny, version):
    before = digest(tiny[version])
    reader = Reader(tiny[version])
    made = tiny_episodes(3, LENGTHS, 0, (24, 32), 4, 0)
    assert reader.version == version
    assert reader.defects == []
    assert [(e.index, e.start, e.length) for e in reader.episodes] == [(0, 0, 9), (1, 9, 14), (2, 23, 11)]
    for key in ("observation.state", "action"):
        values = reader.columns[key]
        assert values.flags.c_contiguous
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, np.concatenate([e.columns[key] for e in made]))
    np.testing.assert_array_equal(reader.columns["index"], np.arange(34))
    np.testing.assert_array_equal(reader.columns["episode_index"], np.repeat([0, 1, 2], LENGTHS))
    np.testing.assert_array_equal(np.flatnonzero(reader.columns["next.done"]), [8, 22, 33])
    assert [reader.task_of(r) for r in (0, 9, 33)] == [TASKS[0], TASKS[1], TASKS[0]]
    reader.frames(CAMERAS[0], np.arange(5))
    assert digest(tiny[version]) == before


def test_frames_are_identical_in_all_versions(tiny):
    rows = np.random.default_rng(0).permutation(34)
    frames = {v: [Reader(root).frames(c, rows) for c in CAMERAS] for v, root in tiny.items()}
    drawn = np.concatenate([e.images[CAMERAS[0]] for e in tiny_episodes(3, LENGTHS, 2, (24, 32), 4, 0)])
    assert frames["v3.0"][0].shape == (34, 3, 24, 32)
    for version in ("v2.0", "v2.1"):
        np.testing.assert_array_equal(frames[version], frames["v3.0"])
    error = np.abs(frames["v3.0"][0].transpose(0, 2, 3, 1).astype(int) - drawn[rows])
    assert error.mean() < 6  # lossy, half-resolution colour; another frame would be off by far more
    np.testing.assert_array_less(error.mean(axis=(1, 2, 3)), 12)


def test_a_subset_keeps_global_numbers_and_its_own_rows(tiny):
    whole = Reader(tiny["v3.0"])
    for root in tiny.values():
        part = Reader(root, episodes=[2, 0])
        assert [(e.index, e.start) for e in part.episodes] == [(0, 0), (2, 9)]
        kept = np.r_[0:9, 23:34]
        assert part.num_frames == len(kept)
        for key in whole.columns:
            np.testing.assert_array_equal(part.columns[key], whole.columns[key][kept])
        np.testing.assert_array_equal(
            part.frames(CAMERAS[1], np.array([0, 9, 19])), whole.frames(CAMERAS[1], kept[[0, 9, 19]])
        )
        assert part.task_of(9) == whole.task_of(23)
        with pytest.raises(DatasetError, match="episode 1 is not among"):
            part.episode(1)


def test_unknown_and_repeated_episodes_are_refused(tiny):
    with pytest.raises(DatasetError, match=r"no episodes \[7\]"):
        Reader(tiny["v2.1"], episodes=[0, 7])
    with pytest.raises(ConfigError, match="twice"):
        Reader(tiny["v3.0"], episodes=[1, 1])
    with pytest.raises(ConfigError, match="chooses nothing"):
        Reader(tiny["v3.0"], episodes=[])


def test_specs_come_from_info(tiny):
    reader = Reader(tiny["v2.0"])
    spec = reader.observation_spec()
    assert spec.keys == (*CAMERAS, "observation.state")
    assert spec[CAMERAS[0]].shape == (3, 24, 32)
    assert spec[CAMERAS[0]].kind is FeatureKind.IMAGE
    assert spec["observation.state"].names == ("state0", "state1", "state2", "state3")
    assert reader.action_space().dim == 2
    assert reader.action_space().names == ("action0", "action1")
    assert reader.fps == 10


def test_pictures_in_tables_are_lossless(tmp_path):
    for version in ("v2.1", "v3.0"):
        root = make_tiny_dataset(tmp_path / version, version, 2, 6, cameras=1, size=(20, 28), images="image")
        reader = Reader(root)
        drawn = np.concatenate([e.images[CAMERAS[0]] for e in tiny_episodes(2, 6, 1, (20, 28), 4, 0)])
        rows = np.array([11, 0, 5, 5])
        np.testing.assert_array_equal(reader.frames(CAMERAS[0], rows), drawn[rows].transpose(0, 3, 1, 2))


def test_frames_can_be_resized(tiny):
    reader = Reader(tiny["v3.0"])
    full = reader.frames(CAMERAS[0], np.array([3]))
    half = reader.frames(CAMERAS[0], np.array([3]), size=(12, 16))
    mean = full.reshape(1, 3, 12, 2, 16, 2).astype(float).mean(axis=(3, 5))
    assert np.abs(half - mean).max() <= 0.75
    with pytest.raises(DatasetError, match="did you mean"):
        reader.frames("observation.images.cam2", np.array([0]))
    with pytest.raises(DatasetError, match="rows must lie"):
        reader.frames(CAMERAS[0], np.array([34]))


def test_a_missing_local_path_is_not_looked_up_on_the_hub(tmp_path, monkeypatch):
    def download(*args, **kwargs):
        raise AssertionError("went to the network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for source in (tmp_path / "nothing", "./nothing", "data/nothing", str(tmp_path / "a" / "b")):
        with pytest.raises(DatasetError, match="no such dataset folder"):
            Reader(source)


def test_hub_ids_are_found_at_home_and_then_downloaded(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path))
    (tmp_path / "me").mkdir()
    (tmp_path / "me" / "recorded").symlink_to(tiny["v3.0"])
    assert Reader("me/recorded").num_frames == 34
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: asked.append((a, k)) or str(tiny["v2.1"]))
    assert Reader("someone/pusht", revision="v2.1").version == "v2.1"
    assert asked == [(("someone/pusht",), {"repo_type": "dataset", "revision": "v2.1"})]


def test_nothing_heavy_is_imported(repo_root):
    import subprocess
    import sys

    code = (
        "import sys, robopolicy.datasets.windows, robopolicy.datasets.statistics;"
        "print([m for m in ('torch', 'lerobot', 'pandas', 'datasets') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=repo_root / "tests", capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"
