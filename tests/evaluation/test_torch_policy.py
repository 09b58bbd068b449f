"""A real Diffusion Policy through the pool: the same bits for every number of workers."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from robopolicy.core.specs import ACTION, ENVIRONMENT_STATE, STATE
from robopolicy.evaluation.provenance import policy_hash
from robopolicy.evaluation.rollout import evaluate
from robopolicy.policies.registry import make_policy
from robopolicy.testing.envs import PointReach
from robopolicy.testing.tiny import tiny_config, unit_stats


def image_policy(seed: int = 0):
    env = PointReach(image=True)
    stats = {key: unit_stats(2) for key in (STATE, ENVIRONMENT_STATE, ACTION)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = tiny_config(horizon=8, n_action_steps=4)
        return make_policy(config, env.observation_spec, env.action_space, env.fps, stats).eval()


@pytest.mark.parametrize(
    ("sampler", "variants"), [("ddim", [(0, True), (1, True), (2, False), (4, True)]), ("ddpm", [(0, True), (2, True)])]
)
def test_outcomes_are_bit_equal_for_any_number_of_workers(sampler, variants):
    policy = image_policy()
    policy = make_policy(
        dataclasses.replace(policy.config, sampler=sampler),
        policy.observation_spec,
        policy.action_spec.space,
        policy.fps,
        policy.stats,
    ).eval()
    env = {"name": "point_reach", "kwargs": {"image": True, "max_steps": 12, "slow_every": 2}}
    seen = []
    for workers, lazy in variants:
        record = evaluate(policy, env, 10, workers=workers, slots=6, progress=False, lazy=lazy)
        assert record.errors == 0
        seen.append([dataclasses.replace(e, wall_s=0.0) for e in record.episodes])
    assert len({e.sum_reward for e in seen[0]}) > 7
    assert all(s == seen[0] for s in seen)


def test_policy_hash_sees_every_weight():
    policy = image_policy()
    before = policy_hash(policy)
    assert before == policy_hash(image_policy())
    assert before != policy_hash(image_policy(seed=1))
    parameter = next(policy.parameters())
    with torch.no_grad():
        parameter.view(-1)[0] += 1e-6
    assert policy_hash(policy) != before
    assert policy_hash(object()) is None
    assert policy_hash(torch.nn.Linear(2, 2).to(torch.bfloat16)) is not None
