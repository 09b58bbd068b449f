"""Whole runs of a policy with a memory: chains through the loop, validation along them, and exact resume."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robopolicy.policies.io import load_policy
from robopolicy.testing.datasets import make_tiny_dataset
from robopolicy.testing.tiny import random_observation
from robopolicy.testing.training import final_tensors, losses, tiny_train_config
from robopolicy.training.checkpoint import latest_checkpoint
from robopolicy.training.loop import train

MEMORY = {"num_state": 3, "dim": 8, "depth": 1, "heads": 2, "max_chain": 3}
CHANGES = {
    "policy.observation_keys": None,
    "policy.encoder.temporal": MEMORY,
    "dataset.val_ratio": 0.3,
    "validation.every": 3,
    "grad_accumulation": 2,
    "batch_size": 4,
    "steps": 6,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_tiny_dataset(tmp_path_factory.mktemp("data"), episodes=4, length=20, size=(24, 24))


def test_six_steps_equal_three_and_three(data, tmp_path):
    config = tiny_train_config(data, {**CHANGES, "dataset.cache_dir": str(tmp_path / "cache")})
    train(config, tmp_path / "straight", progress=False)
    assert train(config, tmp_path / "halves", progress=False, stop_at=3).step == 3
    assert train(config, tmp_path / "halves", resume=True, progress=False).step == 6
    want, got = final_tensors(tmp_path / "straight"), final_tensors(tmp_path / "halves")
    assert [name for name in want if not torch.equal(want[name], got[name])] == []
    assert losses(tmp_path / "straight") == losses(tmp_path / "halves")
    policy = load_policy(latest_checkpoint(tmp_path / "straight") / "policy")
    assert policy.needs.max_chain == 3
    assert np.isfinite(policy.act(random_observation(policy, 2)).actions).all()
