"""The border for depth, camera poses and sentences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robopolicy.core.errors import InvalidObservation
from robopolicy.core.specs import CAMERA_POSE, DEPTH, TASK
from robopolicy.policies.validation import ObservationChecker
from robopolicy.testing.tiny import tiny_spec

FRONT, POSE = DEPTH + "front", CAMERA_POSE + "front"
SPEC = tiny_spec(0, None, {"front": (4, 6)}, moving=["front"], language=True)


@pytest.fixture
def checker() -> ObservationChecker:
    return ObservationChecker(SPEC, n_obs_steps=2)


def good() -> dict[str, object]:
    poses = np.broadcast_to(np.eye(4, dtype=np.float32), (3, 2, 4, 4))
    return {FRONT: np.ones((3, 2, 1, 4, 6), np.float32), POSE: poses, TASK: [["lift it"] * 2] * 3}


def message(checker: ObservationChecker, **changes: object) -> str:
    with pytest.raises(InvalidObservation) as caught:
        checker.check({**good(), **changes})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_return_is_a_depth_of_zero(checker):
    depth = np.ones((3, 2, 1, 4, 6))
    depth[0, 0, 0, 0, 0] = 0.0
    out = checker.check({**good(), FRONT: depth})
    assert out[FRONT].dtype == torch.float32
    assert float(out[FRONT].min()) == 0.0


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.full((3, 2, 1, 4, 6), -0.1, np.float32), "negative"),
        (np.full((3, 2, 1, 4, 6), 1200.0, np.float32), "millimetres"),
        (np.full((3, 2, 1, 4, 6), 800, np.uint16), "millimetres"),
        (np.full((3, 2, 1, 4, 6), np.nan, np.float32), "nan at index"),
        (np.ones((3, 2, 4, 6), np.float32), "expected shape"),
    ],
)
def test_wrong_depth_is_refused_with_the_remedy(checker, value, words):
    told = message(checker, **{FRONT: value})
    assert words in told
    assert FRONT in told


def test_wrong_poses_are_refused_with_the_remedy(checker):
    poses = np.array(good()[POSE])
    shifted = poses.copy()
    shifted[..., :3, 3] = 0.4
    checker.check({**good(), POSE: shifted})
    mirrored = shifted * np.array([1.0, -1.0, 1.0, 1.0], np.float32)
    assert "mirror" in message(checker, **{POSE: mirrored})
    assert "orthonormal" in message(checker, **{POSE: shifted * 1.01})
    assert "transposed" in message(checker, **{POSE: shifted.swapaxes(-1, -2)})
    assert "expected shape" in message(checker, **{POSE: shifted.reshape(3, 2, 16)})


@pytest.mark.parametrize(
    "value",
    [
        [["lift it"] * 2] * 3,
        (("lift it", "lift it"),) * 3,
        np.full((3, 2), "lift it"),
        np.array(["lift it"] * 3),
        np.array(["lift it"] * 3, dtype=object),
    ],
)
def test_sentences_come_as_lists_or_arrays(checker, value):
    out = checker.check({**good(), TASK: value})[TASK]
    assert out.shape == (3, 2)
    assert set(out.ravel()) == {"lift it"}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("lift it", "got str"),
        (["lift it"] * 3, "got a list of str"),
        ([["lift it"]] * 3, "lists of [1] strings"),
        ([["lift it"] * 2] * 2, "batch of 2"),
        ([["lift it", ""]] * 3, "an empty sentence at index (0, 1)"),
        ([["lift it", None]] * 3, "NoneType at index (0, 1)"),
        (np.zeros((3, 2)), "array of float64"),
        (np.full((3, 3), "lift it"), "shape (3, 3)"),
        ([], "got a list of nothing"),
    ],
)
def test_wrong_sentences_are_refused_with_the_remedy(checker, value, words):
    told = message(checker, **{TASK: value})
    assert words in told
    assert told.startswith(TASK)


def test_training_batches_skip_the_search_for_bad_values(checker):
    depth = np.full((3, 2, 1, 4, 6), np.nan, np.float32)
    checker.check({**good(), FRONT: depth}, values=False)
    with pytest.raises(InvalidObservation, match="expected shape"):
        checker.check({**good(), FRONT: depth[:, :1]}, values=False)
