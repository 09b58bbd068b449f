"""Critics that learn from a policy's actions: PA-RL's oracles P10, P11, P13, and what RLPD is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robopolicy.core.errors import ConfigError, MissingLogProb, PolicyInterfaceError
from robopolicy.core.specs import ACTION, STATE
from robopolicy.rl.config import CriticConfig
from robopolicy.rl.distributional import HLGauss
from robopolicy.rl.learner import MEMBERS, CalQLLearner, IQLLearner, Learner
from robopolicy.rl.pa_rl_config import PARLConfig, PARLCriticConfig
from robopolicy.rl.policy_learner import POLICY_ACTION, PolicyLearner, coinciding
from robopolicy.rl.returns import monte_carlo, relabel
from robopolicy.rl.sac import updates_due
from robopolicy.rl.targets import with_entropy
from robopolicy.rl.transitions import NEXT
from robopolicy.testing.critics import tiny_critic, transition_batch

ROWS = 6
PLAIN = {"alpha": 1.0, "samples": 2, "estimator": "no_importance", "max_target_backup": False}


def make(count: int = 2, **changes) -> tuple[PolicyLearner, dict, dict]:
    """A learner whose slow weights differ from the newest, a batch with ``count`` policy actions, and its noise."""
    learner = PolicyLearner.of(tiny_critic(**{"cal_ql": PLAIN, **changes})).train()
    assert isinstance(learner, PolicyLearner)
    with torch.no_grad():
        for p in learner.critic.slow.parameters():
            p += 0.05
    batch, rng = transition_batch(learner.critic, ROWS), torch.Generator().manual_seed(3)
    for prefix in ("", NEXT):
        batch[prefix + POLICY_ACTION] = torch.rand(ROWS, count, learner.critic.k, 2, generator=rng) * 2 - 1
    return learner, batch, learner.draw_noise(ROWS, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("calibrated", "value"), [(False, 0.592564), (True, 0.670630)])
def test_p10_the_regulariser_without_densities(calibrated, value):
    learner, _, _ = make(cal_ql={**PLAIN, "calibrated": calibrated})
    raw = torch.tensor([-2.0, -3.0, -1.0, -4.0, -2.0, -5.0, 0.0]).reshape(1, 1, 7, 1)  # data, uniform, here, next
    got = learner._regulariser({"mc_return": torch.tensor([-2.5])}, raw, (None, None), (2, 2))
    assert float(got) == pytest.approx(value, abs=1e-6)
    if calibrated:
        assert float(learner.watched["bound_rate"]) == 0.5


def test_p11_returns_of_failures_are_the_floor_everywhere_and_of_successes_the_closed_form():
    gamma = 0.99
    np.testing.assert_allclose(monte_carlo(relabel(40, False, gamma), gamma), -100.0)
    returns = monte_carlo(relabel(40, True, gamma, positive_steps=1), gamma)
    np.testing.assert_allclose(returns, -(1 - gamma ** np.arange(39, -1, -1)) / (1 - gamma), atol=1e-9)


def test_p13_the_bins_are_those_of_the_state_tasks():
    config = PARLCriticConfig()
    assert config.hl_gauss is not None
    low, high = config.value_range
    assert (config.hl_gauss.bins, round(low, 9), high) == (128, -100.0, 0.0)
    width = (high - low) / 128
    head = HLGauss(low, high, 128, config.hl_gauss.sigma * width)
    assert head.sigma == pytest.approx(0.5859375)
    assert float(head.decode(head.encode(torch.tensor(-50.0)))) == pytest.approx(-50.0, abs=1e-3)
    assert float(head.decode(head.encode(torch.tensor(0.0)))) == pytest.approx(-0.539, abs=1e-3)


def test_the_target_is_the_value_of_the_first_next_action_or_of_the_best():
    learner, batch, noise = make()
    learner(batch, noise)
    critic = learner.critic
    ahead = critic.encode({STATE: batch[NEXT + STATE]})
    values = critic.q(ahead, batch[NEXT + POLICY_ACTION]).min(0).values.detach()
    torch.testing.assert_close(learner.watched["target"], batch["reward"] + batch["discount"] * values[:, 0])
    best, _, _ = make(cal_ql={**PLAIN, "max_target_backup": True})
    best.load_state_dict(learner.state_dict())
    best(batch, noise)
    torch.testing.assert_close(best.watched["target"], batch["reward"] + batch["discount"] * values.max(1).values)


def test_the_regulariser_counts_what_it_is_given():
    """One copy of an action from each source, or ten: the released code's ten pull harder."""
    learner, batch, noise = make(count=1)
    single = learner(batch, noise)
    copies = {k: v.expand(-1, 10, -1, -1) if POLICY_ACTION in k else v for k, v in batch.items()}
    assert not torch.allclose(learner(copies, noise), single)
    entries = torch.rand(1, 1, 5, 1)
    one = learner._regulariser({"mc_return": torch.tensor([-99.0])}, entries, (None, None), (1, 1))
    expected = entries[0, 0, [1, 2, 3, 4, 0], 0].exp().mean().log() - entries[0, 0, 0, 0]
    torch.testing.assert_close(one, expected[None])


def test_p14_copies_are_noticed():
    actions = torch.randn(4, 1, 2, 3)
    assert coinciding(actions.expand(-1, 5, -1, -1))
    assert not coinciding(actions)  # a single one is no copy
    mixed = actions.repeat(1, 5, 1, 1)
    mixed[2, 1] += 1.0
    assert not coinciding(mixed)


# ---------------------------------------------------------------------------------------------------------- RLPD


def rlpd(**changes):
    return make(count=1, **{"type": "rlpd", "ensemble": 10, "subset": 2, "layer_norm": True, **changes})


def test_b2_rlpd_is_temporal_differences_over_two_of_ten_members_and_nothing_else():
    learner, batch, noise = rlpd()
    loss = learner(batch, noise)
    critic = learner.critic
    ctx, ahead = critic.encode({STATE: batch[STATE]}), critic.encode({STATE: batch[NEXT + STATE]})
    members = noise[MEMBERS][0]
    assert len(members) == 2
    target = critic.q(ahead, batch[NEXT + POLICY_ACTION])[members, :, 0].min(0).values
    y = batch["reward"] + batch["discount"] * target
    q = critic.q(ctx, critic.norm.to_model(batch[ACTION])[:, None], target=False)[..., 0]
    torch.testing.assert_close(loss, (q - y).square().sum(0))
    assert "regulariser" not in learner.watched
    del batch[POLICY_ACTION]
    torch.testing.assert_close(learner(batch, noise), loss)  # actions here are not asked for


def test_b2_rlpd_needs_layer_norm():
    with pytest.raises(ConfigError, match="layer_norm"):
        CriticConfig(type="rlpd")
    assert CriticConfig(type="rlpd", layer_norm=True).alpha == 0.0


def test_b2_an_entropy_bonus_without_densities_is_refused():
    with pytest.raises(MissingLogProb):
        with_entropy(torch.zeros(3), 0.1, None)


def test_b2_twenty_updates_of_the_critic_for_every_environment_step():
    config = PARLConfig(critic_utd=20.0, base_utd=1.0, utd_unit="env_step")
    assert (updates_due(7, 7, config.critic_utd), updates_due(7, 7, config.base_utd)) == (140, 7)
    assert sum(updates_due(n + 1, 1, 0.3) for n in range(10)) == 3  # fractions carry over


def test_b2_rlpd_trains_with_a_proxy_actor_where_there_is_no_policy():
    critic = tiny_critic(type="rlpd", layer_norm=True)
    learner = Learner.of(critic).train()
    assert isinstance(learner, CalQLLearner)
    learner(
        transition_batch(critic, ROWS), learner.draw_noise(ROWS, torch.Generator().manual_seed(0))
    ).mean().backward()
    assert "regulariser" not in learner.watched


# ------------------------------------------------------------------------------------------------------- the rest


def test_iql_asks_for_no_actions():
    assert type(PolicyLearner.of(tiny_critic(type="iql"))) is IQLLearner


@pytest.mark.parametrize("changes", [{}, {"hl_gauss": {"bins": 21}}, {"n_action_steps": 3}])
def test_everything_learns_but_the_slow_weights(changes):
    learner, batch, noise = make(**changes)
    loss = learner(batch, noise)
    loss.mean().backward()
    assert torch.isfinite(loss).all()
    for name, p in learner.named_parameters():
        assert (p.grad is None) == name.startswith("critic.slow"), name


def test_error_row_densities_and_missing_actions():
    with pytest.raises(MissingLogProb, match="no_importance"):
        PolicyLearner(tiny_critic())
    learner, batch, noise = make()
    del batch[NEXT + POLICY_ACTION]
    with pytest.raises(PolicyInterfaceError, match=r"next\.policy_action"):
        learner(batch, noise)
