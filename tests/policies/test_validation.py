"""The observation border: what passes, what is refused, and what the messages say."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from robopolicy.core.errors import InvalidObservation
from robopolicy.core.specs import IMAGES, STATE, FeatureKind, FeatureSpec, ObservationSpec
from robopolicy.policies.validation import ObservationChecker

FRONT = IMAGES + "front"
SPEC = ObservationSpec(
    (
        FeatureSpec(STATE, (3,), FeatureKind.STATE, names=("x", "y", "z")),
        FeatureSpec(FRONT, (3, 8, 12), FeatureKind.IMAGE),
    )
)


def good(batch: int = 2) -> dict[str, np.ndarray]:
    return {STATE: np.zeros((batch, 2, 3), np.float32), FRONT: np.full((batch, 2, 3, 8, 12), 7, np.uint8)}


@pytest.fixture
def checker() -> ObservationChecker:
    return ObservationChecker(SPEC, n_obs_steps=2)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_float_vector_passes_as_float32(checker, dtype):
    assert checker.check({**good(), STATE: good()[STATE].astype(dtype)})[STATE].dtype == torch.float32


def test_uint8_images_stay_uint8_and_share_memory(checker):
    obs = good()
    image = checker.check(obs)[FRONT]
    assert image.dtype == torch.uint8
    assert image.data_ptr() == obs[FRONT].ctypes.data


def test_views_other_byte_orders_and_read_only_arrays_pass(checker):
    flipped = {STATE: good()[STATE][:, ::-1], FRONT: good()[FRONT][..., ::-1]}
    swapped = {**good(), STATE: good()[STATE].astype(">f4")}
    frozen = good()
    frozen[STATE].setflags(write=False)
    for obs in (flipped, swapped, frozen):
        assert set(checker.check(obs)) == {STATE, FRONT}


def test_tensors_pass_and_lose_their_gradient(checker):
    state = torch.zeros(2, 2, 3, requires_grad=True)
    out = checker.check({STATE: state, FRONT: torch.rand(2, 2, 3, 8, 12)})
    assert not out[STATE].requires_grad


def message(checker, **changes) -> str:
    names = {"state": STATE, "front": FRONT}
    with pytest.raises(InvalidObservation) as e:
        checker.check({**good(), **{names[k]: v for k, v in changes.items()}})
    return str(e.value)


def test_non_finite_values_are_located(checker):
    state = good()[STATE]
    state[1, 0, 2] = np.nan
    assert "observation.state: nan at index (1, 0, 2) (z)" in message(checker, state=state)
    image = good()[FRONT].astype(np.float32) / 255
    image[0, 1, 2, 3, 4] = np.inf
    assert "observation.images.front: inf at index (0, 1, 2, 3, 4)" in message(checker, front=image)


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((2, 2, 8, 12, 3), "channel-last"),
        ((2, 3, 8, 12), "add the batch dimension"),
        ((3, 8, 12), "add the batch and time dimensions"),
        ((2, 2, 3, 16, 12), "resize to the size the policy was trained on"),
        ((2, 3, 3, 8, 12), "the policy looks at 2 observation steps"),
        ((0, 2, 3, 8, 12), "the batch is empty"),
    ],
)
def test_wrong_shapes_come_with_the_remedy(checker, shape, hint):
    text = message(checker, front=np.zeros(shape, np.uint8))
    assert "expected shape (B, 2, 3, 8, 12), got" in text
    assert hint in text


def test_float_images_in_another_range_come_with_the_remedy(checker):
    pixels = np.full((2, 2, 3, 8, 12), 200, np.float32)
    assert "divide by 255 or pass uint8" in message(checker, front=pixels)
    assert "undo the normalisation" in message(checker, front=-pixels / 255)


def test_resampling_overshoot_is_forgiven(checker):
    image = np.full((2, 2, 3, 8, 12), 1 + 5e-4, np.float32)
    assert checker.check({**good(), FRONT: image})


def test_missing_keys_name_the_nearest_that_is_there(checker):
    obs = good()
    obs["observation.images.frnt"] = obs.pop(FRONT)
    with pytest.raises(
        InvalidObservation, match=r"missing key 'observation.images.front'.*did you mean 'observation.images.frnt'"
    ):
        checker.check(obs)


def test_batches_of_different_sizes_are_refused(checker):
    assert "batch of 3, the other keys have 2" in message(checker, front=good(3)[FRONT])


def test_extra_keys_are_reported_once(checker, caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            checker.check({**good(), "observation.extra": np.zeros(1), "task": ["push"]})
    assert [r.getMessage() for r in caplog.records] == ["observation keys the policy does not read: observation.extra"]


def test_values_can_be_left_to_the_training_guard(checker):
    state = np.full((2, 2, 3), np.nan, np.float32)
    assert checker.check({**good(), STATE: state}, values=False)[STATE].isnan().all()
    with pytest.raises(InvalidObservation, match="expected a mapping"):
        checker.check([1, 2])
