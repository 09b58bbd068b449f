"""Real datasets: the pairs in two versions agree, PushT equals its zarr original, its windows are counted right."""

import numpy as np
import pytest

from robopolicy.datasets.reader import Reader
from robopolicy.datasets.windows import Windows

pytestmark = pytest.mark.shared_data


def test_g1_before_and_after_conversion(shared_data):
    old = Reader(shared_data / "g1_bottle/lerobot_v21_2ep")
    new = Reader(shared_data / "g1_bottle/lerobot_v30_4ep", episodes=[0, 1])
    assert old.num_frames == new.num_frames == 498
    assert set(old.keys) == set(new.keys)
    for key in old.columns:
        np.testing.assert_array_equal(old.columns[key], new.columns[key])
    rows = np.array([0, 1, 100, 220, 221, 222, 497])
    camera = old.camera_keys[0]
    np.testing.assert_array_equal(old.frames(camera, rows), new.frames(camera, rows))
    assert old.action_space().names == new.action_space().names
    assert old.action_space().names[3] == "kLeftElbow"  # the names are a list in a list there
    assert old.task_of(300) == new.task_of(300) == "Pick up the yellow bottle on the table."


def test_pusht_v21_is_the_start_of_v30(shared_data):
    old = Reader(shared_data / "pusht/lerobot_v21_12ep")
    new = Reader(shared_data / "pusht/lerobot_v30", episodes=range(12))
    assert old.num_frames == new.num_frames == 1684
    for key in old.columns:
        np.testing.assert_array_equal(old.columns[key], new.columns[key])
    rows = np.arange(0, 1684, 97)
    a, b = (r.frames("observation.image", rows).astype(int) for r in (old, new))
    assert np.abs(a - b).mean() < 2  # two encodings of the same pictures


def test_pusht_equals_its_zarr_original(shared_data):
    import zarr

    store = zarr.storage.ZipStore(shared_data / "pusht/pusht_cchi_v7_replay.zarr.zip", mode="r")
    group = zarr.open_group(store, mode="r")
    reader = Reader(shared_data / "pusht/lerobot_v30")
    ends = group["meta/episode_ends"][:]
    np.testing.assert_array_equal([e.stop for e in reader.episodes], ends)
    np.testing.assert_array_equal(reader.columns["action"], group["data/action"][:])
    np.testing.assert_array_equal(reader.columns["observation.state"], group["data/state"][:, :2])
    keypoints = group["data/keypoint"][:].reshape(-1, 18).astype(np.float32)
    np.testing.assert_array_equal(reader.columns["observation.environment_state"], keypoints)
    rows = np.arange(0, 25650, 1103)
    frames = reader.frames("observation.image", rows).transpose(0, 2, 3, 1).astype(int)
    images = np.stack([group["data/img"][int(r)] for r in rows]).astype(int)
    assert np.abs(frames - images).mean(axis=(1, 2, 3)).max() < 2
    store.close()


def test_pusht_has_the_published_number_of_windows(shared_data):
    reader = Reader(shared_data / "pusht/lerobot_v30")
    assert (len(reader.episodes), reader.num_frames) == (206, 25650)
    windows = Windows(reader, reader.observation_spec().select(["observation.state"]), 2, 16, 8)
    assert len(windows) == 24208
    batch = windows.gather(np.array([0, len(windows) - 1]))
    np.testing.assert_array_equal(batch["action"][1, 8:], np.repeat(reader.columns["action"][-1:], 8, axis=0))


def test_bridge_pictures_and_tasks(shared_data):
    reader = Reader(shared_data / "bridge_mini/lerobot_v30")
    assert len(reader.camera_keys) == 3
    assert len({reader.task_of(e.start) for e in reader.episodes}) == 4
    for episode in reader.episodes:
        assert episode.tasks == (reader.task_of(episode.start),)
    assert reader.frames("observation.images.image_2", np.array([119, 0])).shape == (2, 3, 64, 64)
