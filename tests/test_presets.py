"""Every preset is read and fits its environment; its policy has a finite loss, finite gradients and finite actions."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from robopolicy.core.specs import ACTION, CHAIN_IS_PAD, ActionSpace, FeatureKind, ObservationSpec
from robopolicy.policies.base import Policy
from robopolicy.policies.registry import make_policy
from robopolicy.resources import resource
from robopolicy.sim.registry import make_env
from robopolicy.sim.robotwin.contract import RATE_HZ, robotwin_spec
from robopolicy.testing.tiny import random_batch, random_observation, unit_stats
from robopolicy.training.config import TrainConfig
from robopolicy.training.config_load import load_config

CONFIGS = resource("configs")
OTHERS = ("suites", "critics", "finetune")  # no policies
PRESETS = sorted(p.relative_to(CONFIGS).as_posix() for p in CONFIGS.glob("*/*.yaml") if p.parent.name not in OTHERS)
ROWS = 2


@cache
def specs(name: str, options: str) -> tuple[ObservationSpec, ActionSpace, float]:
    """What an environment shows and takes, and its rate; asked once for all presets that name it."""
    if name == "ogbench_cube":
        pytest.importorskip("ogbench", reason="the preset's environment is in the extra [ogbench]")
    if name.startswith("robosuite_") and find_spec("robosuite") is None:
        pytest.skip("the preset's environment needs robosuite: pip install --no-deps robosuite==1.5.2")
    if name == "robotwin":  # needs a checkout of RoboTwin; what it offers is known without
        spec, space = robotwin_spec(language=False)
        return spec, space, RATE_HZ
    env = make_env(name, **yaml.safe_load(options))
    try:
        return env.observation_spec, env.action_space, env.fps
    finally:
        env.close()


def policy_of(config: TrainConfig) -> Policy:
    spec, space, fps = specs(config.env.name, yaml.safe_dump(dict(config.env.kwargs)))
    stats = {f.key: unit_stats(f.shape[0]) for f in spec.of_kind(FeatureKind.STATE)}
    stats[ACTION] = unit_stats(space.dim)
    torch.manual_seed(0)
    return make_policy(config.policy, spec, space, fps, stats)


def batch_of(policy: Policy) -> dict[str, Any]:
    """A random training batch, of chains where the policy needs them."""
    if not policy.needs.chained:
        return random_batch(policy, ROWS)
    chain = policy.needs.max_chain
    flat = random_batch(policy, ROWS * chain)
    chains = {k: v.reshape(ROWS, chain, *v.shape[1:]) for k, v in flat.items()}
    return {**chains, CHAIN_IS_PAD: np.zeros((ROWS, chain), bool)}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains_and_acts(preset):
    config = load_config(CONFIGS / preset)
    policy = policy_of(config).train()
    noise = policy.draw_training_noise(ROWS, torch.Generator().manual_seed(0))
    loss = policy.loss(batch_of(policy), noise)[0]
    assert loss.shape == (ROWS,)
    loss.mean().backward()
    grads = {n: p.grad for n, p in policy.named_parameters() if p.grad is not None}
    assert bool(loss.isfinite().all())
    assert all(bool(g.isfinite().all()) for g in grads.values())
    assert sum(float(g.abs().sum()) for g in grads.values()) > 0
    chunk = policy.eval().act(random_observation(policy, ROWS), [(0, row) for row in range(ROWS)])
    assert chunk.executable.shape == (ROWS, config.policy.n_action_steps, policy.action_spec.dim)
    assert np.isfinite(chunk.actions).all()


def test_every_task_folder_and_head_has_a_preset():
    """An empty glob would make the test above say nothing."""
    assert len(PRESETS) >= 25
    heads = {load_config(CONFIGS / p).policy.type for p in PRESETS}
    assert heads == {"diffusion", "flow", "beso", "ebt", "seed_policy", "diffuser_actor_3d"}
