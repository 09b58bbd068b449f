"""Whole runs of policies that need more than plain windows: through the loop and validation, and exact resume."""

from __future__ import annotations

import pytest
import torch

from robopolicy.policies.io import load_policy
from robopolicy.testing.datasets import make_tiny_dataset
from robopolicy.testing.training import final_tensors, losses, tiny_train_config
from robopolicy.training.checkpoint import latest_checkpoint
from robopolicy.training.loop import train

MEMORY = {"policy.encoder.temporal": {"num_state": 3, "dim": 8, "depth": 1, "heads": 2, "max_chain": 3}}
BESO = {
    "type": "beso",
    "observation_keys": ["observation.state"],
    "goal_keys": ["observation.state"],
    "goal_steps": 2,
    "horizon": 8,
    "n_action_steps": 4,
    "backbone": "gpt",
    "gpt": {"n_layer": 1, "n_head": 2, "n_emb": 16},
}
CASES = {
    "chains": {"policy.observation_keys": None, **MEMORY},
    "goals": {"policy": BESO},
    "goals in chains": {"policy": BESO, **MEMORY},
}
NEEDS = {"chains": (3, 0), "goals": (0, 2), "goals in chains": (3, 2)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_tiny_dataset(tmp_path_factory.mktemp("data"), episodes=4, length=20, size=(24, 24))


@pytest.mark.parametrize("case", CASES)
def test_four_steps_equal_two_and_two(data, tmp_path, case):
    loop = {"dataset.val_ratio": 0.3, "validation.every": 2, "grad_accumulation": 2, "batch_size": 4, "steps": 4}
    config = tiny_train_config(data, {**loop, "dataset.cache_dir": str(tmp_path / "cache"), **CASES[case]})
    train(config, tmp_path / "straight", progress=False)
    assert train(config, tmp_path / "halves", progress=False, stop_at=2).step == 2
    assert train(config, tmp_path / "halves", resume=True, progress=False).step == 4
    want, got = final_tensors(tmp_path / "straight"), final_tensors(tmp_path / "halves")
    assert [name for name in want if not torch.equal(want[name], got[name])] == []
    assert losses(tmp_path / "straight") == losses(tmp_path / "halves")
    needs = load_policy(latest_checkpoint(tmp_path / "straight") / "policy").needs
    assert (needs.max_chain, needs.goal_steps) == NEEDS[case]
