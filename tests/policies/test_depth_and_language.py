"""Any head reads depth and language: the contract, a few training steps, the vocabulary, a camera that was moved."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import CAMERA_POSE, DEPTH, IMAGES, STATE, TASK, ObservationSpec
from robopolicy.policies.setup import select_features
from robopolicy.testing.check_policy import check_policy
from robopolicy.testing.tiny import TINY_ENCODER, random_batch, tiny_camera, tiny_policy, tiny_spec

FRONT = DEPTH + "front"
CLOUD = TINY_ENCODER.point_cloud
COLOURED = dataclasses.replace(TINY_ENCODER, point_cloud=dataclasses.replace(CLOUD, use_color=True, keep_images=False))
CASES = {
    "depth": (tiny_spec(3, None, {"front": (12, 16)}), TINY_ENCODER, 3 + 8),
    "colour": (tiny_spec(0, {"front": (24, 24)}, {"front": (24, 24)}, moving=["front"]), COLOURED, 8),
    "picture beside": (tiny_spec(0, {"front": (24, 24)}, {"front": (24, 24)}), TINY_ENCODER, 8 + 8),
    "language": (tiny_spec(3, language=True), TINY_ENCODER, 3 + 4),
}


@pytest.mark.parametrize("case", CASES)
def test_the_diffusion_head_learns_and_keeps_its_contract(case):
    spec, encoder, step_dim = CASES[case]
    policy = tiny_policy(observation_spec=spec, encoder=encoder)
    assert policy.encoder.step_dim == step_dim
    policy.train()
    optimizer = torch.optim.AdamW(policy.optim_groups(1e-3, 1e-4))
    batch = random_batch(policy, 8)
    noise = policy.draw_training_noise(8, torch.Generator().manual_seed(0))
    losses = []
    for _ in range(4):
        loss = policy.loss(batch, noise)[0].mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in policy.encoder.parameters() if p.requires_grad)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    optimizer.zero_grad()
    check_policy(policy)


def test_sentences_of_a_training_batch_are_one_a_row():
    policy = tiny_policy(observation_spec=tiny_spec(3, language=True))
    batch = random_batch(policy, 4)
    noise = policy.draw_training_noise(4, torch.Generator().manual_seed(0))
    by_step = policy.loss(batch, noise)[0]
    by_row = policy.loss({**batch, TASK: batch[TASK][:, 0]}, noise)[0]
    assert torch.equal(by_step, by_row)


def test_the_sentence_changes_the_action():
    policy = tiny_policy(observation_spec=tiny_spec(3, language=True))
    state = {STATE: np.zeros((1, 2, 3), np.float32)}
    first, second = (policy.act({**state, TASK: [[s, s]]}, [(1, 0)]).actions for s in TINY_ENCODER.language.vocabulary)
    assert not np.array_equal(first, second)


def test_null_keys_read_neither_depth_nor_language():
    spec = tiny_spec(3, {"front": (8, 8)}, {"front": (8, 8)}, moving=["front"], language=True)
    assert select_features(spec, None).keys == (STATE, IMAGES + "front")


def test_a_moving_depth_camera_brings_its_pose_and_any_data_have_a_task():
    spec = tiny_spec(3, {"front": (8, 8)}, {"front": (8, 8)}, moving=["front"])
    chosen = select_features(spec, [FRONT, TASK])
    assert chosen.keys == (FRONT, TASK, CAMERA_POSE + "front")
    assert select_features(chosen, chosen.keys) == chosen


def test_a_policy_calibrated_to_a_moved_camera_sees_the_same_world():
    """A flat floor, seen from 1 m in training and from 1.5 m where the policy runs."""
    policy = tiny_policy(observation_spec=tiny_spec(0, None, {"front": (8, 8)}))
    camera = dataclasses.replace(policy.observation_spec[FRONT], camera=tiny_camera((8, 8), (0.0, 0.0, 1.5)))
    place = ObservationSpec((camera,))
    high = {FRONT: np.full((1, 2, 1, 8, 8), 1.5, np.float32)}
    wrong = policy.encode(high).vector
    policy.calibrate(place)
    assert policy.observation_spec == place
    right = policy.encode(high).vector
    assert not torch.allclose(wrong, right)
    rig = policy.encoder.depth.rig
    floor = rig.xyz(FRONT, {FRONT: torch.full((1, 1, 8, 8), 1.5)})[:, 2]
    torch.testing.assert_close(floor, torch.zeros_like(floor))
    check_policy(policy, ["save_load"])  # the new calibration is saved too


def test_a_pose_that_nothing_reads_is_refused():
    spec = ObservationSpec(tiny_spec(3, None, {"front": (8, 8)}, moving=["front"]).features[::2])
    with pytest.raises(ConfigError, match=r"camera_pose\.front: nothing reads it without observation\.depth\.front"):
        tiny_policy(observation_spec=spec)


def test_calibrating_without_depth_changes_nothing():
    policy = tiny_policy(3, {"front": (24, 24)})
    before = policy.observation_spec
    policy.calibrate(tiny_spec(1))
    assert policy.observation_spec is before


def test_a_place_without_calibration_is_refused():
    policy = tiny_policy(observation_spec=tiny_spec(0, None, {"front": (8, 8)}))
    bare = ObservationSpec((dataclasses.replace(policy.observation_spec[FRONT], camera=None),))
    with pytest.raises(ConfigError, match="no calibration"):
        policy.calibrate(bare)
