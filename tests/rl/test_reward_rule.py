"""Rewards of collected chunks against chains whose values are known, and the returns of failures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robopolicy.core.errors import ConfigError
from robopolicy.rl.reward_rule import RewardRule
from robopolicy.rl.targets import bellman
from robopolicy.rl.transitions import ChunkTransitions

RECORDED = RewardRule(rewards="recorded")


def made(rule: RewardRule, rewards, gamma: float, k: int, *, success=-1, terminated=False) -> ChunkTransitions:
    rewards = np.asarray(rewards, float)
    successes = np.arange(len(rewards)) == success
    return rule.transitions(rewards, successes, terminated, not terminated, gamma, k)


def test_d6_an_episode_that_ends_inside_a_chunk():
    """Seven steps worth 1..7, three to a chunk: the last chunk executes one."""
    gamma = 0.9
    table = made(RECORDED, np.arange(1, 8), gamma, 3, terminated=True)
    assert table.n.tolist() == [3, 3, 1]
    np.testing.assert_allclose(table.reward, [1 + 0.9 * 2 + 0.81 * 3, 4 + 0.9 * 5 + 0.81 * 6, 7], rtol=1e-6)
    np.testing.assert_allclose(table.discount, [0.729, 0.729, 0], rtol=1e-6)
    assert table.terminated.tolist() == [False, False, True]
    assert not table.truncated.any()


def test_d6_truncation_keeps_the_bootstrap_of_the_steps_really_executed():
    table = made(RECORDED, np.arange(1, 8), 0.9, 3)
    np.testing.assert_allclose(table.discount, [0.729, 0.729, 0.9], rtol=1e-6)
    assert table.truncated.tolist() == [False, False, True]
    assert not table.terminated.any()


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("truncated", [False, True])
def test_d6_the_true_values_of_a_chain_are_the_fixed_point_of_the_target(k, truncated):
    """A chain of 11 states worth t + 1 each; a time limit after 7 steps hides the rest but does not end it."""
    gamma, length = 0.95, 7
    values = np.zeros(12)
    for t in range(10, -1, -1):
        values[t] = (t + 1) + gamma * values[t + 1]
    if not truncated:
        values[length:] = 0
        for t in range(length - 1, -1, -1):
            values[t] = (t + 1) + gamma * values[t + 1]
    table = made(RECORDED, np.arange(1, length + 1), gamma, k, terminated=not truncated)
    begins = np.arange(0, length, k)
    ends = np.minimum(begins + k, length)
    numbers = [torch.tensor(x, dtype=torch.float64) for x in (table.reward, table.discount, values[ends])]
    np.testing.assert_allclose(bellman(*numbers), values[begins], rtol=1e-6)


def test_p11_a_failed_episode_returns_the_floor_everywhere():
    table = made(RewardRule(), np.zeros(50), 0.99, 4)
    np.testing.assert_allclose(table.mc_return, -100, rtol=1e-6)
    shifted = RewardRule(rewards="recorded", bias=-1.0)
    np.testing.assert_allclose(made(shifted, np.zeros(50), 0.99, 4).mc_return, -100, rtol=1e-6)
    assert not table.success.any()


def test_p11_success_after_n_steps():
    """Nine steps of -1, then the goal."""
    n, gamma = 9, 0.99
    table = made(RewardRule(), np.zeros(10), gamma, 1, success=n, terminated=True)
    np.testing.assert_allclose(table.mc_return, [-(1 - gamma**m) / (1 - gamma) for m in range(n, -1, -1)], rtol=1e-6)
    assert table.success.all()
    assert table.terminated.tolist() == [False] * 9 + [True]


def test_failures_are_added_up_when_they_are_not_pushed():
    gamma, length = 0.99, 8
    for rule in (RewardRule(push_failures=False), RewardRule(rewards="recorded", bias=-1.0, push_failures=False)):
        table = made(rule, np.zeros(length), gamma, 4)
        np.testing.assert_allclose(table.mc_return, [-(1 - gamma**m) / (1 - gamma) for m in (8, 4)], rtol=1e-5)
        np.testing.assert_allclose(table.discount, gamma**4, rtol=1e-6)  # the bootstrap stays


def test_success_ends_the_future_even_where_the_environment_goes_on():
    table = made(RewardRule(), np.zeros(8), 0.9, 2, success=3)
    assert table.discount.tolist() == [pytest.approx(0.81), 0, 0, 0]
    np.testing.assert_allclose(table.reward, [-1.9, -1, 0, 0], rtol=1e-6)


def test_recorded_rewards_are_scaled_and_shifted():
    table = made(RewardRule(rewards="recorded", scale=2.0, bias=-1.0), [0, 0, 1], 0.9, 1, success=2, terminated=True)
    assert table.reward.tolist() == [-1, -1, 1]


def test_legacy_discounts_chunks_and_ends_at_time_limits():
    rule = RewardRule(rewards="recorded", legacy_discount=True)
    table = made(rule, np.arange(1, 8), 0.9, 3)
    np.testing.assert_allclose(table.reward, [6, 15, 7])
    np.testing.assert_allclose(table.discount, [0.9, 0.9, 0], rtol=1e-6)
    np.testing.assert_allclose(table.mc_return, [6 + 0.9 * (15 + 0.9 * 7), 15 + 0.9 * 7, 7], rtol=1e-6)
    assert table.terminated[-1]


def test_scale_without_recorded_rewards_is_refused():
    with pytest.raises(ConfigError, match="set rewards to recorded"):
        RewardRule(bias=-1.0)
