"""Learning-rate oracle and optimiser construction."""

from __future__ import annotations

import pytest
import torch

from robopolicy.testing.tiny import tiny_policy
from robopolicy.training.config import OptimizerConfig
from robopolicy.training.optim import build_optimizer, lr_multiplier, set_lr


@pytest.mark.parametrize(
    ("step", "value"), [(1, 0.002), (250, 0.5), (500, 1.0), (25_000, 0.857715), (50_250, 0.5), (100_000, 0.0)]
)
def test_learning_rate_oracle(step, value):
    assert lr_multiplier(step, OptimizerConfig(warmup_steps=500), 100_000) == pytest.approx(value, abs=5e-7)


def test_parity_with_diffusers_schedule():
    from diffusers.optimization import get_cosine_schedule_with_warmup

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, 20, 200)
    config = OptimizerConfig(warmup_steps=20)
    for step in range(1, 201):
        optimizer.step()
        theirs.step()
        assert lr_multiplier(step, config, 200) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)


def test_constant_schedule_and_no_warmup():
    config = OptimizerConfig(schedule="constant", warmup_steps=0)
    assert {lr_multiplier(s, config, 10) for s in range(1, 11)} == {1.0}


def test_every_trainable_parameter_is_in_one_group():
    policy = tiny_policy(backbone="transformer")
    optimizer = build_optimizer(policy, OptimizerConfig(lr=2e-4, weight_decay=0.1))
    ids = [id(p) for g in optimizer.param_groups for p in g["params"]]
    assert sorted(ids) == sorted(id(p) for p in policy.parameters() if p.requires_grad)
    assert {g["fused"] for g in optimizer.param_groups} == {True}
    assert len({g["weight_decay"] for g in optimizer.param_groups}) > 1


def test_groups_keep_their_ratio_under_the_schedule():
    policy = tiny_policy()
    optimizer = build_optimizer(policy, OptimizerConfig(lr=1e-3))
    peaks = [g["lr"] for g in optimizer.param_groups]
    set_lr(optimizer, 0.25)
    set_lr(optimizer, 0.5)
    assert [g["lr"] for g in optimizer.param_groups] == [p * 0.5 for p in peaks]
