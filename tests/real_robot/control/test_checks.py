"""A checkpoint and a robot that differ are told apart before anything is armed."""

from __future__ import annotations

import dataclasses

import pytest

from robopolicy.core.errors import ActionSpaceMismatch
from robopolicy.core.specs import IMAGES, STATE, ActionSpace, ActionSpec, FeatureKind, FeatureSpec, ObservationSpec
from robopolicy.real_robot.control.checks import feature_differences, require_same_features

NAMES = ("x", "y", "z", "yaw", "width")
SPACE = ActionSpace(5, NAMES, None, "absolute", "base", unit="m, rad")
ACTION = ActionSpec(SPACE, 16, 2, 8, 0.1)
CAMERA = FeatureSpec(IMAGES + "front", (3, 96, 96), FeatureKind.IMAGE)
TOOL = FeatureSpec(STATE, (5,), FeatureKind.STATE, NAMES, "m, rad")
SEEN = ObservationSpec((TOOL, CAMERA))


def test_F37_equal_features_pass_and_more_of_them_too():
    more = ObservationSpec((*SEEN.features, FeatureSpec(IMAGES + "wrist", (3, 96, 96), FeatureKind.IMAGE)))
    assert feature_differences(SEEN, more, ACTION, SPACE, 10.0) == []
    require_same_features(SEEN, more, ACTION, SPACE, 10.0)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (dataclasses.replace(CAMERA, shape=(3, 84, 84)), "size: policy (3, 84, 84), robot (3, 96, 96)"),
        (dataclasses.replace(CAMERA, key=IMAGES + "frnt"), "did you mean 'observation.images.front'"),
        (dataclasses.replace(TOOL, names=("y", "x", "z", "yaw", "width")), "names"),
        (dataclasses.replace(TOOL, unit="mm, rad"), "unit: policy mm, rad, robot m, rad"),
        (dataclasses.replace(TOOL, shape=(4,), names=None), "shape"),
    ],
)
def test_F37_observations_that_differ(wanted, said):
    (found,) = feature_differences(ObservationSpec((wanted,)), SEEN, ACTION, SPACE, 10.0)
    assert said in str(found)


@pytest.mark.parametrize(
    ("space", "fps", "said"),
    [
        (dataclasses.replace(SPACE, names=("x", "y", "z", "width", "yaw")), 10.0, "action names"),
        (dataclasses.replace(SPACE, mode="delta"), 10.0, "mode: policy absolute, robot delta"),
        (dataclasses.replace(SPACE, frame="tool"), 10.0, "frame"),
        (dataclasses.replace(SPACE, unit="m, deg"), 10.0, "unit"),
        (SPACE, 15.0, "rate: policy 10 Hz, robot 15 Hz"),
        (ActionSpace(4), 10.0, "dim: policy 5, robot 4"),
    ],
)
def test_F37_actions_that_differ(space, fps, said):
    assert said in "; ".join(map(str, feature_differences(SEEN, SEEN, ACTION, space, fps)))


def test_F37_the_refusal_shows_all_differences_at_once():
    other = ObservationSpec((dataclasses.replace(TOOL, unit="mm"),))
    with pytest.raises(ActionSpaceMismatch) as e:
        require_same_features(SEEN, other, ACTION, SPACE, 20.0)
    for part in ("unit", "does not offer it", "10 Hz"):
        assert part in str(e.value)
