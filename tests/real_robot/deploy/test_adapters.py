"""Snapshots as observations, chunks as dated poses, and what does not fit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from robopolicy.core.chunk import ActionChunk
from robopolicy.core.errors import ConfigError, InvalidObservation
from robopolicy.core.specs import (
    ENVIRONMENT_STATE,
    STATE,
    ActionSpec,
    FeatureKind,
    FeatureSpec,
    ObservationSpec,
)
from robopolicy.real_robot.control.checks import feature_differences
from robopolicy.real_robot.deploy.adapters import make_adapter, measured_follow
from robopolicy.real_robot.deploy.channels import PANDA_STATE, read_state, state_feature
from robopolicy.real_robot.driver.config import CameraConfig, FrankaBridgeConfig
from robopolicy.real_robot.frames import yaw_of
from robopolicy.sim.arm import ACTION_SPACE

ACTION = ActionSpec(ACTION_SPACE, horizon=6, n_obs_steps=2, n_action_steps=4, dt=0.05)
FRONT = FeatureSpec("observation.images.front", (3, 8, 10), FeatureKind.IMAGE)
OBJECTS = FeatureSpec(ENVIRONMENT_STATE, (2,), FeatureKind.STATE, ("c", "a"))
WANTED = ObservationSpec((state_feature(), OBJECTS, FRONT))


def test_an_observation_is_the_policys_own(snapshot):
    seen = make_adapter(WANTED, ACTION).observation(snapshot)
    assert list(seen) == [STATE, ENVIRONMENT_STATE, FRONT.key]
    assert seen[STATE].shape == (1, 2, 5)
    assert seen[STATE].dtype == np.float32
    # The yaw does not depend on the quaternion's sign.
    assert seen[STATE][0] == pytest.approx(np.array(((0.4, 0, 0.2, 0.1, 0.08), (0.41, 0, 0.19, 0.2, 0.06))), abs=1e-6)
    assert seen[ENVIRONMENT_STATE][0].tolist() == [[3, 1], [6, 4]]  # by name, in the policy's order
    assert seen[FRONT.key].shape == (1, 2, 3, 8, 10)
    assert seen[FRONT.key][0, 0, :, 0, 0].tolist() == [200, 0, 0]  # channels first, red first


def test_other_channels_have_their_own_names(snapshot):
    names = ("joint_1", "joint_7", "tcp_qx", "tcp_qw", "gripper_open", "tcp_rot6d_0", "force_z")
    values = read_state(snapshot, names)
    assert values[1, :2].tolist() == [0, 6]
    assert values[1, 4] == pytest.approx(0.75)
    assert (values[:, 3] >= 0).all()  # w, whatever sign the last command had
    assert state_feature(names).unit == "rad, N"


def test_what_a_snapshot_lacks_is_said(snapshot):
    adapter = make_adapter(WANTED, ACTION)
    with pytest.raises(InvalidObservation, match="set 'objects'"):
        adapter.observation(dataclasses.replace(snapshot, objects=None))
    with pytest.raises(InvalidObservation, match="nothing of 'c'"):
        adapter.observation(dataclasses.replace(snapshot, object_names=("a", "b", "d")))
    with pytest.raises(InvalidObservation, match="no camera 'front'"):
        adapter.observation(dataclasses.replace(snapshot, frames={}))
    wide = dataclasses.replace(FRONT, shape=(3, 9, 10))
    with pytest.raises(InvalidObservation, match="8 x 10, expected 9 x 10"):
        make_adapter(ObservationSpec((wide,)), ACTION).observation(snapshot)


def test_waypoints_begin_at_the_newest_observation_and_are_dated_when_the_tool_shall_be_there(snapshot):
    actions = np.zeros((1, 6, 5), np.float32)
    actions[0, :, 0], actions[0, :, 3], actions[0, :, 4] = np.arange(6) / 100, 0.2, 0.5
    chunk = ActionChunk.stamped(actions, ACTION, observed_at=5.0)
    way = make_adapter(WANTED, ACTION, follows=0.11).waypoints(chunk, snapshot, epoch=3, number=7)
    assert way.stamps == pytest.approx(5.11 + 0.05 * np.arange(5))
    assert way.track.position[:, 0] == pytest.approx(np.arange(1, 6) / 100)
    assert yaw_of(way.track.quaternion) == pytest.approx(np.full(5, 0.2))
    assert way.gripper == pytest.approx(np.full(5, 0.04))
    assert (way.epoch, way.chunk, way.dt) == (3, 7, 0.05)
    assert way.problem() is None


def robot(**changes):
    front = {"front": CameraConfig(size=(8, 10))}
    return FrankaBridgeConfig(**{"objects": "/twin/objects", "cameras": front, **changes})


def differences(config=None, objects=("a", "b", "c"), wanted=WANTED):
    adapter = make_adapter(wanted, ACTION)
    offered = adapter.offered(config or robot(), objects)
    return [str(d) for d in feature_differences(wanted, offered, ACTION, adapter.space, adapter.fps)]


def test_F37_a_robot_that_fits_has_no_differences_and_others_show_them():
    assert differences() == []
    assert any(ENVIRONMENT_STATE in d for d in differences(robot(objects=None)))
    assert any("names" in d or "shape" in d for d in differences(objects=("a", "b")))
    assert any("size" in d for d in differences(robot(cameras={"front": CameraConfig(size=(16, 20))})))
    assert any("front" in d for d in differences(robot(cameras={})))
    degrees = dataclasses.replace(state_feature(), unit="m, deg")
    assert any("unit" in d for d in differences(wanted=ObservationSpec((degrees,))))


@pytest.mark.parametrize(
    ("feature", "says"),
    [
        (FeatureSpec(STATE, (5,), FeatureKind.STATE), "does not say what its 5 channels are"),
        (FeatureSpec(STATE, (1,), FeatureKind.STATE, ("tcp_xx",)), "did you mean 'tcp_x'"),
        (FeatureSpec("task", (), FeatureKind.LANGUAGE), "say what it shall do"),
        (FeatureSpec("observation.depth.front", (1, 8, 10), FeatureKind.DEPTH), "offers no depth"),
        (FeatureSpec("observation.other", (2,), FeatureKind.STATE), "does not offer observation.other"),
    ],
)
def test_what_a_robot_does_not_have_is_refused_before_anything_moves(feature, says):
    with pytest.raises(ConfigError, match=says):
        make_adapter(ObservationSpec((feature,)), ACTION)


def test_names_may_be_stated_for_a_policy_without(snapshot):
    plain = ObservationSpec((FeatureSpec(STATE, (5,), FeatureKind.STATE),))
    assert make_adapter(plain, ACTION, names=PANDA_STATE).observation(snapshot)[STATE].shape == (1, 2, 5)
    with pytest.raises(ConfigError, match="2 names for 5"):
        make_adapter(plain, ACTION, names=PANDA_STATE[:2])


def test_keyposes_are_refused():
    with pytest.raises(ConfigError, match="no dates"):
        make_adapter(WANTED, dataclasses.replace(ACTION, dt=0.0))


def test_how_long_a_tool_follows_its_actions_is_measured():
    times = 0.05 * np.arange(200)
    tool = np.stack([np.sin(k * times) for k in (0.7, 1.1, 1.9)], axis=-1)
    ahead = np.stack([np.sin(k * (times + 0.13)) for k in (0.7, 1.1, 1.9)], axis=-1)
    assert measured_follow([ahead] * 2, [tool] * 2, 0.05) == pytest.approx(0.13, abs=0.011)
    assert measured_follow([tool], [tool], 0.05) == 0.0
