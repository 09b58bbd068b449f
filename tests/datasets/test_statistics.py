"""Statistics: equal to NumPy over the arrays, constants marked, upstream's two faults named."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from robopolicy.core.errors import ConfigError, DatasetError
from robopolicy.datasets.reader import Reader
from robopolicy.datasets.statistics import compute_stats, image_stats, level_counts, vector_stats
from robopolicy.datasets.statistics_check import (
    AVERAGED_QUANTILES,
    IMAGE_STD_OVERFLOW,
    STATS_DIFFER,
    check_stored_stats,
)
from robopolicy.testing.datasets import make_tiny_dataset

CAMERA = "observation.images.cam0"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_dataset(tmp_path_factory.mktemp("s"), "v3.0", 3, (30, 20, 25), images="image", size=(16, 16))


def test_vectors_equal_numpy(tiny):
    reader = Reader(tiny)
    stats = compute_stats(reader)
    assert set(stats) == {CAMERA, "observation.state", "action", "next.reward"}
    for key in ("observation.state", "action"):
        values = reader.columns[key].astype(np.float64)
        s = stats[key]
        for name in ("min", "max", "mean", "std"):
            np.testing.assert_allclose(getattr(s, name), getattr(values, name)(axis=0), rtol=1e-12)
        np.testing.assert_allclose([s.q01, s.q99], np.quantile(values, [0.01, 0.99], axis=0), rtol=1e-12)
        assert s.count == 75
        assert s.constant == (False,) * values.shape[1]


def test_images_equal_numpy(tiny):
    reader = Reader(tiny)
    s = compute_stats(reader, [CAMERA], image_frames=1000)[CAMERA]
    pixels = reader.frames(CAMERA, np.arange(75)).transpose(1, 0, 2, 3).reshape(3, -1) / 255.0
    np.testing.assert_allclose(s.mean, pixels.mean(axis=1), rtol=1e-9)
    np.testing.assert_allclose(s.std, pixels.std(axis=1), rtol=1e-9)
    np.testing.assert_allclose([s.min, s.max], [pixels.min(axis=1), pixels.max(axis=1)])
    expected = np.quantile(pixels, [0.01, 0.99], axis=1, method="inverted_cdf")
    np.testing.assert_allclose([s.q01, s.q99], expected)
    assert s.count == 75
    cached = compute_stats(reader, [CAMERA], frames={CAMERA: reader.frames(CAMERA, np.arange(75))}, image_frames=1000)
    assert cached[CAMERA] == s


def test_a_black_and_white_image():
    images = np.zeros((2, 3, 4, 4), np.uint8)
    images[1] = 255
    s = image_stats(level_counts(images), 2)
    assert (s.mean, s.std, s.q01, s.q99) == ((0.5,) * 3, (0.5,) * 3, (0.0,) * 3, (1.0,) * 3)


def test_episodes_restrict_the_statistics(tiny):
    reader = Reader(tiny)
    part = compute_stats(reader, ["action"], episodes=[2, 0])["action"]
    rows = np.r_[0:30, 50:75]
    np.testing.assert_allclose(part.mean, reader.columns["action"][rows].astype(float).mean(axis=0))
    assert part.count == 55


def test_constant_channels_are_marked():
    values = np.zeros((50, 3), np.float32)
    values[:, 1] = np.linspace(0, 5e-5, 50)
    values[:, 2] = np.linspace(0, 5e-3, 50)
    assert vector_stats(values).constant == (True, True, False)
    assert vector_stats(values, range_floor=1e-2).constant == (True, True, True)
    assert vector_stats(values, range_floor=1e-6).constant == (True, False, False)


def test_nan_is_located(tiny, tmp_path):
    root = make_tiny_dataset(tmp_path, "v2.1", 2, 12, cameras=0)
    path = root / "data/chunk-000/episode_000001.parquet"
    table = pq.read_table(path)
    rewards = table["next.reward"].to_numpy().copy()
    rewards[7] = np.nan
    pq.write_table(table.set_column(table.column_names.index("next.reward"), "next.reward", [rewards]), path)
    with pytest.raises(DatasetError, match=r"'next.reward' is not finite in episode 1, frame 7"):
        compute_stats(Reader(root))
    with pytest.raises(ConfigError, match="did you mean 'action'"):
        compute_stats(Reader(root), ["actio"])


def test_right_stored_statistics_raise_nothing(tiny):
    reader = Reader(tiny)
    assert check_stored_stats(reader, compute_stats(reader, image_frames=1000)) == []


def test_stale_statistics_are_named(tmp_path):
    root = make_tiny_dataset(tmp_path, "v2.0", 2, 12, cameras=0)
    stored = json.loads((root / "meta/stats.json").read_text())
    stored["action"]["max"][0] += 1
    (root / "meta/stats.json").write_text(json.dumps(stored))
    reader = Reader(root)
    (defect,) = check_stored_stats(reader, compute_stats(reader))
    assert defect.code == STATS_DIFFER
    assert "max of 'action'" in defect.message


@pytest.mark.shared_data
def test_the_faults_of_lerobots_recorder_are_named(shared_data):
    reader = Reader(shared_data / "pusht/lerobot_v30")
    stats = compute_stats(reader)
    np.testing.assert_allclose(stats["action"].q01, (42, 81), atol=1)
    np.testing.assert_allclose(stats["action"].q99, (450, 478), atol=1)
    np.testing.assert_allclose(stats["observation.image"].std, (0.101, 0.071, 0.077), atol=4e-3)
    found = {(d.code, d.message.split("'")[1]) for d in check_stored_stats(reader, stats)}
    assert found == {
        (IMAGE_STD_OVERFLOW, "observation.image"),
        (AVERAGED_QUANTILES, "action"),
        (AVERAGED_QUANTILES, "observation.state"),
        (AVERAGED_QUANTILES, "observation.environment_state"),
    }
    honest = Reader(shared_data / "g1_bottle/lerobot_v30_lowdim50")
    assert check_stored_stats(honest, compute_stats(honest)) == []
