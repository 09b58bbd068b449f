"""Batches of windows: shapes, keys, values, subsets, options and refusals."""

import numpy as np
import pytest

from robopolicy.core.errors import ConfigError, DatasetError
from robopolicy.core.specs import FeatureKind, FeatureSpec, ObservationSpec
from robopolicy.datasets.reader import Reader
from robopolicy.datasets.windows import Windows
from robopolicy.testing.datasets import TASKS, make_tiny_dataset

CAMERA = "observation.images.cam0"


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return Reader(make_tiny_dataset(tmp_path_factory.mktemp("w"), "v3.0", 3, (20, 5, 12), cameras=1, size=(24, 32)))


def state(reader):
    return reader.observation_spec().select(["observation.state"])


def test_shapes_and_keys(reader, tmp_path):
    windows = Windows(reader, reader.observation_spec(), 2, 16, 8, cache_dir=tmp_path, progress=False)
    assert len(windows) == 13 + 0 + 5
    batch = windows.gather(np.array([0, 4, 17]))
    shapes = {k: (v.shape, str(v.dtype)) for k, v in batch.items()}
    assert shapes == {
        CAMERA: ((3, 2, 3, 24, 32), "uint8"),
        "observation.state": ((3, 2, 4), "float32"),
        "action": ((3, 16, 2), "float32"),
        "action_is_pad": ((3, 16), "bool"),
        "index": ((3,), "int64"),
        "episode_index": ((3,), "int64"),
    }
    assert batch["index"].tolist() == [0, 4, 25 + 4]
    assert batch["episode_index"].tolist() == [0, 0, 2]
    np.testing.assert_array_equal(batch[CAMERA][1], reader.frames(CAMERA, np.array([3, 4])))
    np.testing.assert_array_equal(batch["action"][1], reader.columns["action"][3:19])
    assert all(v.flags.c_contiguous for v in batch.values())


def test_gather_does_not_alias_the_dataset(reader):
    windows = Windows(reader, state(reader), 2, 16, 8)
    before = reader.columns["action"].copy()
    windows.gather(np.array([0]))["action"][...] = 9
    np.testing.assert_array_equal(reader.columns["action"], before)
    with pytest.raises(ValueError, match="read-only"):
        reader.columns["action"][0] = 1


def test_episodes_choose_by_id(reader):
    part = Windows(reader, state(reader), 2, 16, 8, episodes=[2])
    whole = Windows(reader, state(reader), 2, 16, 8)
    assert len(part) == 5
    a, b = part.gather(np.arange(5)), whole.gather(np.arange(13, 18))
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])
    with pytest.raises(DatasetError, match="episode 9"):
        Windows(reader, state(reader), 2, 16, 8, episodes=[9])


def test_one_observation_step_and_long_history(reader):
    one = Windows(reader, state(reader), 1, 8, 8)
    assert one.gather(np.array([3]))["action_is_pad"].any() == np.False_
    np.testing.assert_array_equal(one.gather(np.array([3]))["action"][0], reader.columns["action"][3:11])
    long = Windows(reader, state(reader), 6, 8, 3)
    first = long.gather(np.array([0]))["observation.state"][0]
    np.testing.assert_array_equal(first, np.repeat(reader.columns["observation.state"][:1], 6, axis=0))


def test_short_episodes(reader):
    assert len(Windows(reader, state(reader), 2, 16, 8, short_episodes="pad")) == 13 + 1 + 5
    with pytest.raises(DatasetError, match="no windows: the longest of 1 episodes has 5 frames"):
        Windows(reader, state(reader), 2, 16, 8, episodes=[1])


def test_deltas_extra_keys_and_tasks(reader):
    spec = ObservationSpec((*state(reader).features, FeatureSpec("task", (), FeatureKind.LANGUAGE)))
    windows = Windows(
        reader, spec, 2, 4, 2, anchors="all", deltas={"observation.state": [-7, 0, 3]}, extra_keys=["next.reward"]
    )
    assert len(windows) == 37
    batch = windows.gather(np.array([20, 24, 36]))
    np.testing.assert_array_equal(batch["observation.state"][1], reader.columns["observation.state"][[20, 24, 24]])
    assert batch["observation.state_is_pad"].tolist() == [
        [True, False, False],
        [True, False, True],
        [False, False, True],
    ]
    np.testing.assert_array_equal(batch["next.reward"][2], reader.columns["next.reward"][[35, 36, 36, 36]])
    assert batch["task"].tolist() == [TASKS[1], TASKS[1], TASKS[0]]
    with pytest.raises(ConfigError, match="whole frames"):
        Windows(reader, spec, 2, 4, 2, deltas={"action": [0.5]})


def test_sizes_come_from_the_spec_or_the_argument(reader, tmp_path):
    small = FeatureSpec(CAMERA, (3, 12, 16), FeatureKind.IMAGE)
    spec = ObservationSpec((small,))
    windows = Windows(reader, spec, 1, 4, 2, cache_dir=tmp_path)
    assert windows.gather(np.array([0]))[CAMERA].shape == (1, 1, 3, 12, 16)
    windows = Windows(reader, spec, 1, 4, 2, image_sizes={CAMERA: (8, 8)}, cache_dir=tmp_path)
    assert windows.gather(np.array([0]))[CAMERA].shape == (1, 1, 3, 8, 8)
    with pytest.raises(ConfigError, match="did you mean"):
        Windows(reader, spec, 1, 4, 2, image_sizes={"observation.images.cam1": (8, 8)})


def test_bad_requests_are_explained(reader):
    with pytest.raises(ConfigError, match="must be >= 1"):
        Windows(reader, state(reader), 0, 4, 2)
    wrong = ObservationSpec((FeatureSpec("observation.state", (7,), FeatureKind.STATE),))
    with pytest.raises(DatasetError, match=r"shape \(4,\), the observation spec says \(7,\)"):
        Windows(reader, wrong, 2, 4, 2)
    missing = ObservationSpec((FeatureSpec("observation.stat", (4,), FeatureKind.STATE),))
    with pytest.raises(DatasetError, match=r"did you mean 'observation\.state'"):
        Windows(reader, missing, 2, 4, 2)
