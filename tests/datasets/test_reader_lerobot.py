"""Equality with ``lerobot.LeRobotDataset``: values, frames, padding, ``delta_timestamps``, subsets, window set."""

import warnings

import numpy as np
import pytest

from robopolicy.datasets.reader import Reader
from robopolicy.datasets.windows import Windows
from robopolicy.testing.datasets import make_tiny_dataset

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SETS = {
    "pusht": ("pusht/lerobot_v30", "observation.image"),
    "g1": ("g1_bottle/lerobot_v30_4ep", "observation.images.cam_high"),
    "bridge": ("bridge_mini/lerobot_v30", "observation.images.image_1"),
}


@pytest.fixture(scope="module")
def lerobot_dataset(tmp_path_factory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("lerobot.datasets.lerobot_dataset", reason="lerobot is not installed")
        import datasets

    saved = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("hf")

    def open_dataset(root, **kwargs):
        return module.LeRobotDataset("local/set", root=root, video_backend="pyav", **kwargs)

    yield open_dataset
    datasets.config.HF_DATASETS_CACHE = saved


def deltas_in_seconds(reader, frames):
    return {key: [d / reader.fps for d in values] for key, values in frames.items()}


def assert_same_sample(batch, i, sample, keys):
    for key in keys:
        theirs = sample[key].numpy()
        ours = batch[key][i]
        if ours.dtype == np.uint8:
            assert np.abs(ours / np.float32(255) - theirs).max() * 255 < 1e-3
        else:
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(batch[f"{key}_is_pad"][i], sample[f"{key}_is_pad"].numpy())


@pytest.mark.shared_data
@pytest.mark.parametrize("name", SETS)
def test_samples_equal_lerobots(shared_data, lerobot_dataset, name):
    folder, camera = SETS[name]
    reader = Reader(shared_data / folder)
    deltas = {camera: [-1, 0], "observation.state": [-3, 0], "action": list(range(-1, 15))}
    theirs = lerobot_dataset(shared_data / folder, delta_timestamps=deltas_in_seconds(reader, deltas))
    assert len(theirs) == reader.num_frames
    ends = [r for e in reader.episodes[:3] for r in (e.start, e.start + 1, e.stop - 1)]
    rows = np.unique([*ends, *np.random.default_rng(0).integers(0, reader.num_frames, 8)])
    frames = {row: reader.frames(camera, rows_of(reader, row, [-1, 0])) for row in rows}
    state_only = reader.observation_spec().select(["observation.state"])
    windows = Windows(
        reader, state_only, 1, 16, 8, anchors="all", deltas={k: v for k, v in deltas.items() if k != camera}
    )
    batch = windows.gather(rows)
    for i, row in enumerate(rows):
        sample = theirs[int(row)]
        assert_same_sample(batch, i, sample, ["observation.state", "action"])
        assert np.abs(frames[row] / np.float32(255) - sample[camera].numpy()).max() * 255 < 1e-3
        assert sample["task"] == reader.task_of(row)
        assert int(sample["index"]) == batch["index"][i]
        assert int(sample["episode_index"]) == batch["episode_index"][i]


def rows_of(reader, row, deltas):
    episode = next(e for e in reader.episodes if e.start <= row < e.stop)
    return np.clip(row + np.array(deltas), episode.start, episode.stop - 1)


@pytest.mark.shared_data
def test_windows_are_those_lerobots_policy_trains_on(shared_data, lerobot_dataset):
    reader = Reader(shared_data / "bridge_mini/lerobot_v30")
    from lerobot.datasets.sampler import EpisodeAwareSampler

    theirs = lerobot_dataset(reader.root)
    episodes = theirs.meta.episodes
    sampler = EpisodeAwareSampler(
        episodes["dataset_from_index"], episodes["dataset_to_index"], drop_n_last_frames=16 - 8 - 2 + 1
    )
    windows = Windows(reader, reader.observation_spec().select(["observation.state"]), 2, 16, 8)
    assert windows.anchors.row.tolist() == list(sampler)


def test_lerobot_loads_the_tiny_dataset_and_agrees(tmp_path, lerobot_dataset):
    root = make_tiny_dataset(tmp_path / "tiny", "v3.0", 3, (9, 12, 10), cameras=2, size=(32, 48))
    reader = Reader(root, episodes=[1, 2])
    deltas = {key: [-2, 0, 1] for key in (*reader.camera_keys, "observation.state", "action")}
    theirs = lerobot_dataset(root, delta_timestamps=deltas_in_seconds(reader, deltas))
    whole = Windows(
        Reader(root), Reader(root).observation_spec(), 1, 3, 1, anchors="all", deltas=deltas, in_memory=True
    )
    part = Windows(reader, reader.observation_spec(), 1, 3, 1, anchors="all", deltas=deltas, in_memory=True)
    batch, subset = whole.gather(np.arange(31)), part.gather(np.arange(22))
    for i in range(31):
        sample = theirs[i]
        assert_same_sample(batch, i, sample, deltas)
        assert sample["task"] == reader.tasks[int(sample["task_index"])]
    for key, values in subset.items():
        np.testing.assert_array_equal(values, batch[key][9:])
