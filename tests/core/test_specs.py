"""Specs refuse contradictions, survive a round trip, and say what differs."""

from __future__ import annotations

import pytest

from robopolicy.core.errors import ActionSpaceMismatch, ConfigError
from robopolicy.core.specs import (
    ActionSpace,
    ActionSpec,
    CameraModel,
    ChannelKind,
    FeatureKind,
    FeatureSpec,
    FeatureStats,
    ObservationSpec,
    action_spec_from_dict,
    kind_of_key,
    observation_spec_from_dict,
    stats_from_dict,
    to_dict,
)

SPACE = ActionSpace(
    dim=2, names=("x", "y"), mode="absolute", frame="base", low=(0.0, 0.0), high=(512.0, 512.0), unit="px"
)


@pytest.mark.parametrize(
    ("horizon", "n_obs", "n_action", "fits"),
    [(16, 2, 8, True), (16, 2, 15, True), (16, 2, 16, False), (4, 2, 4, False), (1, 1, 1, True)],
)
def test_executed_steps_must_fit_the_horizon(horizon, n_obs, n_action, fits):
    if fits:
        spec = ActionSpec(SPACE, horizon, n_obs, n_action, 0.1)
        assert spec.exec_slice == slice(n_obs - 1, n_obs - 1 + n_action)
    else:
        with pytest.raises(ConfigError, match=f"raise horizon to {n_action + n_obs - 1}"):
            ActionSpec(SPACE, horizon, n_obs, n_action, 0.1)


def test_specs_round_trip_through_plain_data():
    camera = CameraModel(tuple(range(9)), tuple(range(16)))
    obs = ObservationSpec(
        (
            FeatureSpec("observation.state", (2,), FeatureKind.STATE, names=("x", "y"), unit="px"),
            FeatureSpec("observation.images.front", (3, 96, 64), FeatureKind.IMAGE, camera=camera),
        )
    )
    assert observation_spec_from_dict(to_dict(obs)) == obs
    action = ActionSpec(ActionSpace(dim=3, kinds=(ChannelKind.EUCLIDEAN,) * 2 + (ChannelKind.BINARY,)), 16, 2, 8, 0.1)
    assert action_spec_from_dict(to_dict(action)) == action
    stats = {"action": FeatureStats((0.0,), (1.0,), (0.5,), (0.1,), 7, (0.0,), (1.0,), (False,))}
    assert stats_from_dict(to_dict(stats)) == stats


@pytest.mark.parametrize(
    ("space", "fps", "word"),
    [
        (ActionSpace(dim=3), 10.0, "dim"),
        (ActionSpace(dim=2, mode="delta"), 10.0, "mode"),
        (ActionSpace(dim=2, frame="ee"), 10.0, "frame"),
        (ActionSpace(dim=2, names=("y", "x")), 10.0, "names"),
        (SPACE, 20.0, "rate"),
    ],
)
def test_mismatch_names_what_differs(space, fps, word):
    spec = ActionSpec(SPACE, 16, 2, 8, 0.1)
    spec.check_matches(SPACE, 10.0, "the robot")
    with pytest.raises(ActionSpaceMismatch, match=word):
        spec.check_matches(space, fps, "the robot")


def test_what_a_dataset_does_not_state_is_not_compared():
    unstated = ActionSpec(ActionSpace(dim=2, names=("x", "y")), 16, 2, 8, 0.1)
    unstated.check_matches(SPACE, 10.0, "the robot")
    with pytest.raises(ActionSpaceMismatch, match="frame: policy ee, the robot base"):
        ActionSpec(ActionSpace(dim=2, frame="ee"), 16, 2, 8, 0.1).check_matches(SPACE, 10.0, "the robot")


def test_unknown_key_suggests_the_nearest():
    obs = ObservationSpec((FeatureSpec("observation.images.front", (3, 8, 8), FeatureKind.IMAGE),))
    with pytest.raises(KeyError, match=r"did you mean 'observation\.images\.front'"):
        obs["observation.images.frnt"]


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("observation.images.top", "image"),
        ("observation.image", "image"),
        ("observation.depth.top", "depth"),
        ("task", "language"),
        ("goal.state", "goal"),
        ("observation.state", "state"),
    ],
)
def test_kind_follows_from_the_key(key, kind):
    assert kind_of_key(key) == FeatureKind(kind)


def test_channel_last_image_shape_is_refused():
    with pytest.raises(ConfigError, match="channel-first"):
        FeatureSpec("observation.images.front", (96, 96, 3), FeatureKind.IMAGE)
