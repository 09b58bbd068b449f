"""Quaternions, rotation vectors, six numbers and interpolation keep their rules for any input."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from robopolicy.core.errors import ConfigError
from robopolicy.real_robot import frames as fr
from robopolicy.sim.panda_model import downward as downward_matrix
from robopolicy.sim.robosuite import rotations

parts = st.floats(-1, 1).filter(lambda v: v == 0 or abs(v) > 1e-6)
quaternions = arrays(np.float64, 4, elements=parts).filter(lambda q: np.linalg.norm(q) > 0.1).map(fr.normalised)
vectors = arrays(np.float64, 3, elements=st.floats(-1.8, 1.8)).filter(lambda v: np.linalg.norm(v) < 3.1)
quick = settings(max_examples=60, deadline=None)


def same_rotation(a, b, tolerance=1e-9):
    return np.linalg.norm(fr.difference(fr.normalised(a), fr.normalised(b))) < tolerance


@quick
@given(quaternions)
def test_orders_are_inverse_and_agree_with_mujoco(q):
    np.testing.assert_array_equal(fr.xyzw_of_wxyz(fr.wxyz_of_xyzw(q)), q)
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, fr.wxyz_of_xyzw(q))
    np.testing.assert_allclose(fr.matrix_of_quaternion(q), matrix.reshape(3, 3), atol=1e-12)


@quick
@given(quaternions)
def test_matrix_and_back_is_the_same_rotation_with_w_not_negative(q):
    back = fr.quaternion_of_matrix(fr.matrix_of_quaternion(q))
    assert same_rotation(back, q)
    assert back[3] >= 0
    assert np.linalg.norm(back) == pytest.approx(1.0, abs=1e-12)


@quick
@given(vectors)
def test_rotation_vectors_round_trip_and_agree_with_rodrigues(v):
    q = fr.quaternion_of_vector(v)
    np.testing.assert_allclose(fr.vector_of_quaternion(q), v, atol=1e-9)
    np.testing.assert_allclose(fr.matrix_of_quaternion(q), rotations.from_vector(v), atol=1e-9)


@quick
@given(quaternions, quaternions)
def test_difference_turns_start_into_end_and_is_at_most_half_a_turn(a, b):
    way = fr.difference(a, b)
    assert np.linalg.norm(way) <= np.pi + 1e-12
    assert same_rotation(fr.turned(a, way), b, 1e-7)
    np.testing.assert_allclose(np.linalg.norm(way), np.linalg.norm(fr.difference(b, a)), atol=1e-9)


@quick
@given(quaternions, quaternions)
def test_hemisphere_keeps_the_rotation_and_never_faces_away(q, reference):
    near = fr.hemisphere(q, reference)
    assert near @ reference >= 0
    assert same_rotation(near, q)


@quick
@given(quaternions, quaternions, st.floats(0, 1))
def test_slerp_goes_evenly_along_the_short_way(a, b, t):
    middle = fr.slerp(a, b, t)
    whole = np.linalg.norm(fr.difference(a, b))
    if whole < np.pi - 1e-3:  # half a turn has two short ways
        assert np.linalg.norm(fr.difference(a, middle)) == pytest.approx(t * whole, abs=1e-8)
        assert np.linalg.norm(fr.difference(middle, b)) == pytest.approx((1 - t) * whole, abs=1e-8)
    assert np.linalg.norm(middle) == pytest.approx(1.0, abs=1e-9)
    assert middle @ a >= -1e-12


@quick
@given(quaternions, vectors)
def test_rotate_is_the_matrix_product(q, v):
    np.testing.assert_allclose(fr.rotate(q, v), fr.matrix_of_quaternion(q) @ v, atol=1e-12)


@pytest.mark.parametrize("form", ["rows", "columns"])
def test_six_numbers_round_trip_and_ignore_scale(form):
    q = fr.normalised(np.random.default_rng(0).normal(size=(50, 4)))
    six = fr.six_of_quaternion(q, form)
    assert all(same_rotation(a, b) for a, b in zip(fr.quaternion_of_six(3 * six, form), q, strict=True))


def test_six_numbers_by_rows_are_those_of_the_simulators():
    q = fr.normalised(np.random.default_rng(1).normal(size=4))
    matrix = fr.matrix_of_quaternion(q)
    np.testing.assert_allclose(fr.six_of_quaternion(q), rotations.to_rows(matrix), atol=1e-12)
    np.testing.assert_allclose(fr.six_of_quaternion(q, "columns"), rotations.to_rows(matrix.T), atol=1e-12)


@pytest.mark.parametrize("six", [np.zeros(6), (1, 0, 0, 2, 0, 0), (1, 0, np.nan, 0, 1, 0), (1, 1, 1, 1, 1, 1)])
def test_what_is_no_rotation_becomes_nan_and_never_some_rotation(six):
    assert np.isnan(fr.quaternion_of_six(six)).all()
    assert np.isnan(fr.normalised(np.zeros(4))).all()


def test_downward_is_that_of_the_embedded_tasks_and_yaw_comes_back():
    yaw = np.linspace(-3.1, 3.1, 41)
    np.testing.assert_allclose(fr.matrix_of_quaternion(fr.downward(yaw)), downward_matrix(yaw), atol=1e-12)
    np.testing.assert_allclose(fr.yaw_of(fr.downward(yaw)), yaw, atol=1e-12)
    np.testing.assert_array_equal(fr.downward(0.0), (1, 0, 0, 0))


def test_everything_works_over_leading_axes():
    rng = np.random.default_rng(2)
    a, b = fr.normalised(rng.normal(size=(2, 3, 5, 4)))
    one = fr.slerp(a[1, 2], b[1, 2], 0.3)
    np.testing.assert_allclose(fr.slerp(a, b, np.full((3, 5), 0.3))[1, 2], one)
    pose = fr.Pose(rng.normal(size=(3, 5, 3)), a)
    np.testing.assert_allclose(fr.Pose.of_matrix(pose.matrix()).position, pose.position)
    assert pose.matrix().shape == (3, 5, 4, 4)


def test_at_time_interpolates_inside_and_holds_the_ends():
    track = fr.Pose(np.array(((0, 0, 0), (1, 0, 0), (1, 2, 0))), fr.downward(np.array((0, 0.2, 0.2))))
    stamps = (10.0, 11.0, 13.0)
    np.testing.assert_allclose(fr.at_time(stamps, track, 10.25).position, (0.25, 0, 0))
    np.testing.assert_allclose(fr.yaw_of(fr.at_time(stamps, track, 10.25).quaternion), 0.05)
    np.testing.assert_allclose(fr.at_time(stamps, track, 12.0).position, (1, 1, 0))
    np.testing.assert_allclose(fr.at_time(stamps, track, 9.0).position, (0, 0, 0))
    np.testing.assert_allclose(fr.at_time(stamps, track, 99.0).position, (1, 2, 0))
    with pytest.raises(ConfigError, match="N >= 1 stamps"):
        fr.at_time((), fr.Pose(np.zeros((0, 3)), np.zeros((0, 4))), 1.0)


def test_a_pose_of_the_wrong_shape_is_refused_and_a_pose_is_read_only():
    with pytest.raises(ConfigError, match=r"expected a position \(..., 3\)"):
        fr.Pose(np.zeros(3), np.zeros(3))
    pose = fr.Pose(np.zeros(3), fr.IDENTITY)
    with pytest.raises(ValueError, match="read-only"):
        pose.position[0] = 1.0
    assert pose.finite()
    assert not fr.Pose((0, np.inf, 0), fr.IDENTITY).finite()
