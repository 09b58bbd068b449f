"""The tuple arithmetic is that of ``frames``."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.real_robot import frames
from robopolicy.real_robot.safety import vectors

RNG = np.random.default_rng(0)
QUATERNIONS = frames.normalised(RNG.normal(size=(30, 4)))
WAYS = np.concatenate((RNG.normal(size=(20, 3)), 1e-6 * RNG.normal(size=(9, 3)), np.zeros((1, 3))))


def test_rotations_agree_with_frames():
    for a, b, way in zip(QUATERNIONS, QUATERNIONS[::-1], WAYS, strict=True):
        ta, tb = tuple(a.tolist()), tuple(b.tolist())
        assert vectors.multiply(ta, tb) == pytest.approx(frames.multiply(a, b), abs=1e-12)
        assert vectors.turned(ta, tuple(way.tolist())) == pytest.approx(frames.turned(a, way), abs=1e-12)
        assert vectors.difference(ta, tb) == pytest.approx(frames.difference(a, b), abs=1e-9)
        assert vectors.vertical_row(ta) == pytest.approx(frames.matrix_of_quaternion(a)[2], abs=1e-12)
        assert vectors.angle(ta, tb) == pytest.approx(np.linalg.norm(frames.difference(a, b)), abs=1e-9)


def test_a_capped_vector_keeps_its_direction():
    assert vectors.capped((3.0, 0.0, 4.0), 1.0) == pytest.approx((0.6, 0.0, 0.8))
    assert vectors.capped((0.3, 0.0, 0.4), 1.0) == (0.3, 0.0, 0.4)
    assert vectors.capped((0.0, 0.0, 0.0), 1.0) == (0.0, 0.0, 0.0)
