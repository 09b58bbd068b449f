"""Hindsight goals: which frames they are, that all later frames are equally likely, and what is marked."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.core.errors import ConfigError, DatasetError
from robopolicy.core.needs import WindowNeeds
from robopolicy.core.specs import FeatureKind, FeatureSpec, ObservationSpec
from robopolicy.datasets.chains import ChainedWindows
from robopolicy.datasets.goals import goal_starts
from robopolicy.datasets.reader import Reader
from robopolicy.datasets.windows import Windows
from robopolicy.testing.datasets import make_tiny_dataset

CAMERA = "observation.images.cam0"
STATE = "observation.state"
STATE_GOAL = FeatureSpec("goal." + STATE, (4,), FeatureKind.GOAL)
IMAGE_GOAL = FeatureSpec("goal." + CAMERA, (3, 12, 16), FeatureKind.GOAL)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_tiny_dataset(tmp_path_factory.mktemp("g"), "v3.0", 3, (20, 5, 12), cameras=1, size=(24, 32))


@pytest.fixture(scope="module")
def reader(root):
    return Reader(root)


def windows(reader, *goals, steps=1, observe=(STATE,), **options):
    spec = ObservationSpec((*reader.observation_spec().select(observe).features, *goals))
    needs = WindowNeeds(goal_steps=steps)
    return Windows(reader, spec, 2, 4, 2, needs=needs, in_memory=True, progress=False, anchors="all", **options)


def test_draws_choose_uniformly_among_later_rows():
    draws = np.linspace(0, 1, 4000, endpoint=False)
    starts, is_pad = goal_starts(np.full(4000, 6), np.full(4000, 10), draws)
    assert not is_pad.any()
    assert np.bincount(starts, minlength=11).tolist() == [0] * 7 + [1000] * 4
    top = np.nextafter(1.0, 0.0)
    assert goal_starts(np.array([6]), np.array([10]), np.array([top]))[0].tolist() == [10]


def test_no_later_row_is_marked_and_stays_in_the_episode():
    starts, is_pad = goal_starts(np.array([10, 9]), np.array([10, 10]), np.array([0.7, 0.7]))
    assert (starts.tolist(), is_pad.tolist()) == ([10, 10], [True, False])


@pytest.mark.parametrize("draws", [[1.0, 0.0], [-0.1, 0.0], [0.5]])
def test_wrong_draws_are_refused(draws):
    with pytest.raises(ConfigError, match="goal draws"):
        goal_starts(np.array([0, 1]), np.array([5, 5]), np.array(draws))


def test_goals_are_later_frames_of_the_mirrored_column(reader):
    chosen = windows(reader, STATE_GOAL)
    rows = np.array([0, 3, 19, 20, 24, 36])
    batch = chosen.gather(rows, np.array([0.0, 0.5, 0.9, 0.99, 0.0, 0.5]))
    assert batch[STATE_GOAL.key].shape == (6, 1, 4)
    goal_rows = [1, 4 + 8, 19, 24, 24, 36]
    np.testing.assert_array_equal(batch[STATE_GOAL.key][:, 0], reader.columns[STATE][goal_rows])
    assert batch["goal_is_pad"].tolist() == [False, False, True, False, True, True]
    np.testing.assert_array_equal(batch[STATE][:, -1], reader.columns[STATE][rows])


def test_without_draws_goals_are_the_last_frame(reader):
    batch = windows(reader, STATE_GOAL, steps=2).gather(np.array([0, 22]))
    np.testing.assert_array_equal(batch[STATE_GOAL.key], reader.columns[STATE][[[19, 19], [24, 24]]])
    assert not batch["goal_is_pad"].any()


def test_long_goals_repeat_the_last_frame(reader):
    batch = windows(reader, STATE_GOAL, steps=3).gather(np.array([0, 17]), np.array([0.0, 0.0]))
    np.testing.assert_array_equal(batch[STATE_GOAL.key], reader.columns[STATE][[[1, 2, 3], [18, 19, 19]]])


def test_image_goals_come_from_the_frame_cache_observed_or_not(reader):
    rows, draws = np.array([2, 21]), np.array([0.5, 0.4])
    want = reader.frames(CAMERA, np.array([3 + 8, 22 + 1]), (12, 16))
    goal_only = windows(reader, IMAGE_GOAL).gather(rows, draws)
    np.testing.assert_array_equal(goal_only[IMAGE_GOAL.key][:, 0], want)
    assert CAMERA not in goal_only
    both = windows(reader, IMAGE_GOAL, STATE_GOAL, observe=(STATE, CAMERA), image_sizes={CAMERA: (12, 16)})
    batch = both.gather(rows, draws)
    np.testing.assert_array_equal(batch[IMAGE_GOAL.key][:, 0], want)
    assert batch[CAMERA].shape == (2, 2, 3, 12, 16)
    assert list(both.caches) == [CAMERA]


def test_goals_that_cannot_be_had_are_explained(reader):
    with pytest.raises(ConfigError, match="must have one size"):
        windows(reader, IMAGE_GOAL, observe=(STATE, CAMERA))
    with pytest.raises(DatasetError, match=r"no feature 'observation\.stat'.*observation\.state"):
        windows(reader, FeatureSpec("goal.observation.stat", (4,), FeatureKind.GOAL))
    with pytest.raises(DatasetError, match=r"shape \(4,\), the observation spec says \(5,\)"):
        windows(reader, FeatureSpec("goal.observation.state", (5,), FeatureKind.GOAL))
    with pytest.raises(DatasetError, match="observations have none"):
        windows(reader)


def test_a_chain_has_one_goal_after_its_last_window(reader):
    plain = windows(reader, STATE_GOAL)
    chained = ChainedWindows(plain, WindowNeeds(chain_stride=3, max_chain=4, goal_steps=1))
    batch = chained.gather(np.array([0, 1]), np.array([0.0, 0.5]))
    assert batch["index"].tolist() == [[0, 3, 6, 9], [12, 15, 18, 18]]
    want = reader.columns[STATE][[[10] * 4, [19] * 4]]
    np.testing.assert_array_equal(batch[STATE_GOAL.key][:, :, 0], want)
    assert batch["goal_is_pad"].shape == (2, 4)
