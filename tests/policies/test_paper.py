"""``paper.yaml``: every variant is a valid configuration and builds exactly the published number of parameters."""

from __future__ import annotations

import pytest
import torch
import yaml

from robopolicy.core.specs import ACTION, STATE, ActionSpace
from robopolicy.policies.base import Policy
from robopolicy.policies.registry import make_policy, policy_config
from robopolicy.resources import resource
from robopolicy.testing.tiny import tiny_spec, unit_stats

PAPER = yaml.safe_load(resource("policies/diffusion/paper.yaml").read_text())
TRAINING = {
    "batch_size",
    "lr",
    "betas",
    "eps",
    "weight_decay",
    "warmup_steps",
    "schedule",
    "epochs",
    "ema_power",
    "ema_max_decay",
}


def build(variant: dict) -> Policy:
    """The policy on the meta device: shapes without memory."""
    cameras = {f"cam{i}": tuple(size) for i, size in enumerate(variant["observation"].get("cameras", []))}
    state = variant["observation"]["state"]
    stats = {STATE: unit_stats(state), ACTION: unit_stats(variant["action"])}
    with torch.device("meta"):
        return make_policy(
            policy_config(variant["policy"]), tiny_spec(state, cameras), ActionSpace(variant["action"]), 10.0, stats
        )


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", PAPER["variants"])
def test_parameter_counts_to_the_unit(name):
    variant = PAPER["variants"][name]
    policy = build(variant)
    built = {"network": count(policy.net), "encoder": count(policy.encoder)}
    assert {k: built[k] for k in variant["parameters"]} == variant["parameters"]
    assert set(variant["training"]) == TRAINING


def test_the_variants_cover_both_backbones_and_all_observations():
    kinds = {(v["policy"]["backbone"], "cameras" in v["observation"]) for v in PAPER["variants"].values()}
    assert kinds == {(b, c) for b in ("unet", "transformer") for c in (True, False)}


def test_cameras_may_number_none_to_four():
    assert {len(v["observation"].get("cameras", [])) for v in PAPER["variants"].values()} >= {0, 1, 2, 4}
