"""Turns are averaged and interpolated as turns, in the form of the newest; numbers as numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from robopolicy.core.chunk import ActionChunk
from robopolicy.core.specs import ActionSpace, ActionSpec, ChannelKind
from robopolicy.sim.arm import ACTION_SPACE
from robopolicy.wrappers.execution import make_executor
from robopolicy.wrappers.execution.averages import Averager, Mixer, other_vector, rotation_to_six, six_to_rotation
from robopolicy.wrappers.execution.executors import value_at

QUATERNION = ActionSpace(4, names=("qx", "qy", "qz", "qw"), mode="absolute")
WXYZ = ActionSpace(4, names=("qw", "qx", "qy", "qz"), mode="absolute")
VECTOR = ActionSpace(3, names=("rx", "ry", "rz"), mode="absolute")
SIX = ActionSpace(6, kinds=(ChannelKind.ROT6D,) * 6)
DT = 0.1


def yawed(*yaws):
    return np.array([(0.4, 0.0, 0.2, yaw, 1.0) for yaw in yaws], np.float32)


def test_yaw_is_averaged_on_the_circle_near_the_newest():
    mean = Averager(ACTION_SPACE, decay=0.0).mean(yawed(3.1, -3.1))
    assert mean[3] == pytest.approx(-math.pi, abs=1e-5)  # 0 as plain numbers: the hand would turn round
    assert Averager(ACTION_SPACE, decay=0.0).mean(yawed(-3.1, 3.1))[3] == pytest.approx(math.pi, abs=1e-5)
    assert mean[[0, 1, 2, 4]] == pytest.approx((0.4, 0.0, 0.2, 1.0))


def test_yaw_without_a_wrap_is_the_plain_mean():
    averager = Averager(ACTION_SPACE, decay=0.3)
    said = yawed(0.4, -0.9, 1.1)
    assert averager.mean(said)[3] == pytest.approx(averager.weights(3) @ said[:, 3], abs=1e-6)


def test_changes_per_step_are_plain_numbers():
    space = ActionSpace(2, names=("dx", "yaw"), mode="delta")
    assert Averager(space, decay=0.0).mean(np.array([(0.0, 3.1), (0.0, -3.1)]))[1] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("space", [QUATERNION, WXYZ])
def test_quaternions_of_either_sign_are_averaged_and_stay_of_length_one(space):
    order = [QUATERNION.names.index(name) for name in space.names]
    angles = (0.2, 0.6, 1.3)
    said = np.array([Rotation.from_euler("y", a).as_quat()[order] for a in angles])
    averager = Averager(space, decay=0.1)
    want = Rotation.from_euler("y", averager.weights(3) @ angles).as_quat()[order]
    for signs in ((1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1)):
        mean = averager.mean(said * np.array(signs)[:, None])
        assert mean == pytest.approx(signs[-1] * want, abs=1e-9)  # in the newest's sign
        assert np.linalg.norm(mean) == pytest.approx(1.0)
    assert np.linalg.norm(averager.mean(1.2 * said)) == pytest.approx(1.0)


def test_a_quaternion_of_length_nothing_breaks_nothing():
    said = np.array([np.zeros(4), (0.0, 0.0, 0.0, 1.0)])
    assert Averager(QUATERNION, decay=0.0).mean(said).tolist() == [0.0, 0.0, 0.0, 1.0]


def test_rotation_vectors_of_a_hand_that_points_down():
    """Half a turn about a level axis: the vector of a hand tilted a little either way points to and fro."""
    a, b = np.array((math.pi - 0.1, 0.0, 0.0)), np.array((-math.pi + 0.1, 0.0, 0.0))
    mean = Averager(VECTOR, decay=0.0).mean(np.stack((a, b)))
    assert np.abs(mean) == pytest.approx((math.pi, 0.0, 0.0), abs=1e-9)
    assert mean @ b > 0
    assert Rotation.from_rotvec(other_vector(a)).as_matrix() == pytest.approx(Rotation.from_rotvec(a).as_matrix())
    assert other_vector(np.zeros((2, 3))).tolist() == np.zeros((2, 3)).tolist()


def test_six_numbers_are_orthonormal_after_mixing():
    said = np.stack([rotation_to_six(Rotation.from_euler("x", a)) for a in (0.0, 2.0)])
    mean = Averager(SIX, decay=0.0).mean(said)
    assert mean == pytest.approx(rotation_to_six(Rotation.from_euler("x", 1.0)), abs=1e-9)
    assert six_to_rotation(mean[None]).as_matrix()[0][:, 0] == pytest.approx(mean[:3])
    assert np.linalg.norm(mean.reshape(2, 3), axis=1) == pytest.approx((1.0, 1.0))


@pytest.mark.parametrize(("share", "yaw", "grip"), [(0.25, 3.12, 0.0), (0.75, -3.12, 1.0)])
def test_what_lies_between_two_steps_turns_the_short_way_and_switches_at_once(share, yaw, grip):
    kinds = (ChannelKind.EUCLIDEAN, ChannelKind.BINARY)
    mixer = Mixer(ActionSpace(2, names=("yaw", "grip"), kinds=kinds, mode="absolute"))
    values = np.array([(3.10, 0.0), (-3.10, 1.0)])
    found = value_at(np.array((0.0, DT)), values, share * DT, DT, mixer)
    assert found == pytest.approx((yaw, grip), abs=2e-3)


def chunk(spec, t, yaw):
    return ActionChunk.stamped(np.tile(yawed(yaw), (1, spec.horizon, 1)), spec, t)


def test_an_ensemble_does_not_turn_the_hand_round():
    spec = ActionSpec(ACTION_SPACE, horizon=8, n_obs_steps=1, n_action_steps=4, dt=DT)
    executor = make_executor("ensemble", spec, decay=0.0)
    executor.took(chunk(spec, 0.0, 3.1), 0.0, 0.0)
    sent = executor.took(chunk(spec, 0.15, -3.1), 0.15, 0.15).actions[0, :, 3]
    assert np.abs(sent[:6]) == pytest.approx(math.pi, abs=1e-5)
    assert sent[-1] == pytest.approx(-3.1)
