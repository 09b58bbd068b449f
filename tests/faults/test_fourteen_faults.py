"""The 14 faults that a leading library lets pass or blurs, each with the opposite outcome here.

Numbers are those of the measured table.  Fault 12 (a NaN action in a training batch) needs the training loop and is
held by ``test_training_faults``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from robopolicy.core.errors import CheckpointError, ConfigError, InvalidAction, InvalidObservation
from robopolicy.core.guard import ensure_finite_action
from robopolicy.core.io import write_manifest
from robopolicy.core.specs import IMAGES, STATE, ActionSpace, FeatureStats
from robopolicy.policies.base import Policy
from robopolicy.policies.io import load_policy, save_policy
from robopolicy.policies.normalizer import Affine
from robopolicy.testing.tiny import random_observation, tiny_config, tiny_policy

FRONT = IMAGES + "front"
POLICY = tiny_policy(cameras={"front": (24, 32)})


def observation(**changes) -> dict[str, np.ndarray]:
    return {**random_observation(POLICY, 2), **changes}


def refused(obs, *words: str) -> None:
    with pytest.raises(InvalidObservation) as e:
        POLICY.act(obs)
    text = str(e.value)
    assert all(w in text for w in words), text
    assert "mat1" not in text
    assert "\n" not in text


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_01_a_non_finite_target_never_passes_the_guard_nor_is_clamped(value):
    with pytest.raises(InvalidAction, match="not finite"):
        ensure_finite_action(np.array([0.0, value]), ActionSpace(2, low=(-5.0, -5.0), high=(5.0, 5.0)))


def test_02_nan_in_the_state_is_an_error_with_its_place():
    obs = observation()
    obs[STATE][1, 0, 2] = np.nan
    refused(obs, STATE, "nan", "(1, 0, 2)")


def test_03_an_infinite_pixel_is_an_error_with_its_place():
    image = observation()[FRONT].astype(np.float32) / 255
    image[0, 1, 2, 3, 4] = np.inf
    refused(observation(**{FRONT: image}), FRONT, "inf", "(0, 1, 2, 3, 4)")


def test_04_a_float_image_in_0_255_is_an_error_with_the_remedy():
    refused(observation(**{FRONT: observation()[FRONT].astype(np.float32)}), FRONT, "divide by 255 or pass uint8")


def test_05_an_image_of_another_size_is_an_error_with_both_sizes():
    refused(observation(**{FRONT: np.zeros((2, 2, 3, 32, 32), np.uint8)}), FRONT, "(B, 2, 3, 24, 32)", "32, 32")


def test_06_uint8_images_and_float64_vectors_simply_work():
    obs = observation(**{STATE: observation()[STATE].astype(np.float64)})
    assert obs[FRONT].dtype == np.uint8
    assert np.isfinite(POLICY.act(obs).actions).all()


def test_06_layout_size_and_key_errors_say_what_to_do():
    refused(observation(**{FRONT: np.zeros((2, 2, 24, 32, 3), np.uint8)}), FRONT, "channel-last")
    refused(observation(**{STATE: np.zeros((2, 2, 5), np.float32)}), STATE, "expected shape (B, 2, 3), got (2, 2, 5)")
    refused({STATE: observation()[STATE]}, f"missing key '{FRONT}'")


def test_07_the_batch_size_may_change_in_mid_episode():
    alone = POLICY.act({k: v[1:] for k, v in observation().items()}, [(1, 1)]).actions
    POLICY.act(random_observation(POLICY, 5))
    together = POLICY.act(observation(), [(1, 0), (1, 1)]).actions
    np.testing.assert_allclose(together[1:], alone, atol=1e-5)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_policy(tiny_policy(), tmp_path / "policy")


def test_08_a_missing_tensor_stops_loading_by_name(saved: Path):
    state = load_file(saved / "model.safetensors")
    name = sorted(state)[0]
    del state[name]
    save_file(state, saved / "model.safetensors")
    write_manifest(saved, "policy")
    with pytest.raises(CheckpointError, match=f"missing {name}"):
        load_policy(saved)


def test_09_every_flipped_byte_in_the_weights_is_found(saved: Path):
    weights = saved / "model.safetensors"
    good = weights.read_bytes()
    for at in np.random.default_rng(0).integers(0, len(good), 20):
        data = bytearray(good)
        data[at] ^= 1 << int(at) % 8
        weights.write_bytes(data)
        with pytest.raises(CheckpointError, match="hash"):
            load_policy(saved)
    weights.write_bytes(good)
    assert load_policy(saved).name == "diffusion"


def test_10_truncated_weights_are_found(saved: Path):
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="truncated"):
        load_policy(saved)


def test_11_loading_is_a_function_and_policies_have_no_loading_method():
    methods = [n for n in dir(Policy) if "pretrained" in n or n in ("load", "load_policy", "from_file")]
    assert methods == []


@pytest.mark.parametrize("steps", [0, -1, 101])
def test_13_impossible_step_counts_are_refused_when_configured(steps):
    with pytest.raises(ConfigError, match="num_inference_steps must be in 1"):
        tiny_config(num_inference_steps=steps)
    with pytest.raises(ConfigError, match="num_inference_steps must be in 1"):
        tiny_policy().set_sampler(num_inference_steps=steps)


def test_14_a_constant_feature_stays_bounded_and_returns_as_its_constant():
    affine = Affine(FeatureStats((0.3,), (0.3,), (0.3,), (0.0,), 100), "limits")
    assert abs(float(affine.to_model(torch.tensor([0.3001])))) <= 1.0
    assert float(affine.to_phys(torch.tensor([0.7]))) == pytest.approx(0.3)
