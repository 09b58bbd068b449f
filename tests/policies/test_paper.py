"""``policies/*/paper.yaml``: every variant is a valid configuration and builds exactly the published parameters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from robopolicy.core.specs import ACTION, STATE, ActionSpace
from robopolicy.policies.base import Policy
from robopolicy.policies.registry import POLICIES, make_policy, policy_config
from robopolicy.resources import resource
from robopolicy.testing.tiny import tiny_spec, unit_stats

PAPERS = {
    path.parent.name: yaml.safe_load(path.read_text()).get("variants", {})
    for path in sorted(Path(str(resource("policies"))).glob("*/paper.yaml"))
    if path.parent.name in POLICIES  # fine-tuning methods have cards too
}
CASES = [(head, name) for head, variants in PAPERS.items() for name in variants]
PARTS = {"observation", "policy", "training", "parameters"}
PLAIN = {"state", "cameras"}  # observations that a tiny spec can say
RECIPE = {
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


@pytest.mark.parametrize(("head", "name"), CASES)
def test_parameter_counts_to_the_unit(head, name):
    variant = PAPERS[head][name]
    if set(variant["observation"]) - PLAIN or "state" not in variant["observation"]:
        pytest.skip(f"observes more than states and cameras: counted in the tests of {head}")
    policy = build(variant)
    built = {"network": count(policy.net), "encoder": count(policy.encoder), "total": count(policy)}
    assert variant["parameters"], "a variant without any count holds nothing"
    assert {k: built[k] for k in variant["parameters"]} == variant["parameters"]


@pytest.mark.parametrize(("head", "name"), CASES)
def test_variants_are_whole_and_of_their_head(head, name):
    variant = PAPERS[head][name]
    assert set(variant) >= PARTS
    assert policy_config(variant["policy"]).type == head
    assert {"batch_size", "lr"} <= set(variant["training"])


def test_diffusion_policy_s_recipes_are_complete():
    assert all(set(v["training"]) == RECIPE for v in PAPERS["diffusion"].values())


def test_the_variants_cover_both_backbones_and_all_observations():
    kinds = {(v["policy"]["backbone"], "cameras" in v["observation"]) for v in PAPERS["diffusion"].values()}
    assert kinds == {(b, c) for b in ("unet", "transformer") for c in (True, False)}


def test_cameras_may_number_none_to_four():
    assert {len(v["observation"].get("cameras", [])) for v in PAPERS["diffusion"].values()} >= {0, 1, 2, 4}
