"""A budget in milliseconds becomes a number of refinement steps."""

from __future__ import annotations

import pytest
import torch

from robopolicy.core.errors import ConfigError
from robopolicy.testing.heads import tiny_head
from robopolicy.testing.tiny import random_observation
from robopolicy.wrappers.execution.budget import Budget, within_budget


class Slow:
    """Takes 4 ms and 3 ms a step of a clock that only it moves; its first call is ten times slower."""

    def __init__(self) -> None:
        self.now, self.steps, self.calls = 0.0, 0, 0

    def set_sampler(self, max_steps: int) -> None:
        self.steps, self.calls = max_steps, 0

    def act(self, observation, noise_keys):
        self.now += (4 + 3 * self.steps) * 1e-3 * (1 if self.calls else 10)
        self.calls += 1


@pytest.mark.parametrize(("budget", "most", "steps"), [(7.0, None, 1), (9.9, None, 1), (34.0, None, 10), (34.0, 6, 6)])
def test_as_many_steps_as_fit(budget, most, steps):
    policy = Slow()
    assert within_budget(policy, {}, budget, most=most, clock=lambda: policy.now) == Budget(steps, 3.0, 4.0)
    assert policy.steps == steps


@pytest.mark.parametrize(("budget", "words"), [(6.9, r"takes 7\.0 ms here"), (0.0, "must be > 0")])
def test_budgets_that_are_too_small(budget, words):
    policy = Slow()
    with pytest.raises(ConfigError, match=words):
        within_budget(policy, {}, budget, clock=lambda: policy.now)


def test_an_energy_head_takes_the_steps():
    torch.manual_seed(0)
    policy = tiny_head("ebt", "unet").eval()
    told = within_budget(policy, random_observation(policy, 1), 10_000.0, most=8)
    assert told.steps == policy.config.refine.max_steps == 8
