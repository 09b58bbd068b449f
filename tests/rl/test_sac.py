"""Soft actor-critic: densities by numerical integration (DSRL's D10), bandits with known optima (D2, D3), the value
floor (D9), targets by hand, and what each part of an update moves."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from scipy import special

from robopolicy.core.errors import ConfigError
from robopolicy.rl.networks import TanhActor
from robopolicy.rl.sac import SACBatch, SACLearner, Temperature, polyak, slow_copy, updates_due
from robopolicy.rl.sac_config import SACConfig

C, G, H = 0.3, 0.49, 20.0  # decoder a = C + G w, reward -H/2 (a - a*)^2


def learner(dims: int = 2, features: int = 3, cls: type[SACLearner] = SACLearner, **config) -> SACLearner:
    torch.manual_seed(0)
    return cls(SACConfig(**{"hidden": (16, 16), **config}), features, dims)


def batch(rows: int = 8, features: int = 3, dims: int = 2, bound: float = 1.0, **parts) -> SACBatch:
    g = torch.Generator().manual_seed(1)
    numbers = {
        "features": torch.randn(rows, features, generator=g),
        "next_features": torch.randn(rows, features, generator=g),
        "action": (torch.rand(rows, dims, generator=g) * 2 - 1) * bound,
        "reward": torch.randn(rows, generator=g),
        "discount": torch.full((rows,), 0.9),
    }
    return SACBatch(**{**numbers, **parts})


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def actor_with(mean: list[float], std: list[float], **options) -> TanhActor:
    """An actor whose Gaussian does not depend on the features."""
    actor = TanhActor(1, torch.ones(len(mean)), (4,), **options).double()
    with torch.no_grad():
        actor.net.layers[-1].weight.zero_()
        actor.net.layers[-1].bias.copy_(torch.tensor([*mean, *np.log(std)])[None, None])
    return actor


# ----------------------------------------------------------------------------------------------------------- densities


@pytest.mark.parametrize("bound", [1.0, 1.5, 0.4])
@pytest.mark.parametrize("scaled", [False, True])
def test_d10_reported_entropy_is_that_of_the_integrated_density(bound, scaled):
    means, stds = [0.4, -1.1], [0.6, 1.3]
    actor = actor_with(means, stds, bound=bound, scaled_density=scaled)
    expected = 0.0
    for mean, std in zip(means, stds, strict=True):
        # The law of the squashed number from its distribution function alone: no formula for a density is used.
        width = bound if scaled else 1.0
        edges = width * np.tanh(np.linspace(mean - 9 * std, mean + 9 * std, 40_001))
        share = np.diff(special.ndtr((np.arctanh(np.clip(edges / width, -1 + 1e-15, 1 - 1e-15)) - mean) / std))
        kept = share > 0
        expected -= float(np.sum(share[kept] * np.log(share[kept] / np.diff(edges)[kept])))
    nodes, weights = np.polynomial.hermite_e.hermegauss(81)
    grid = torch.tensor(np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(1, -1, 2))
    _, log_prob = actor(torch.ones(1, 1, dtype=torch.float64), grid)
    reported = -float(log_prob[0].detach().numpy() @ np.outer(weights, weights).ravel() / weights.sum() ** 2)
    assert reported == pytest.approx(expected, abs=2e-4)


def test_d10_the_two_conventions_differ_by_l_ln_b():
    box, scaled = (actor_with([0.2] * 3, [0.5] * 3, bound=2.5, scaled_density=s) for s in (False, True))
    eps = torch.randn(1, 7, 3, dtype=torch.float64, generator=seeded())
    features = torch.ones(1, 1, dtype=torch.float64)
    torch.testing.assert_close(
        box(features, eps)[1] - scaled(features, eps)[1], torch.full((1, 7), 3 * math.log(2.5)).double()
    )
    assert torch.equal(box(features, eps)[0], scaled(features, eps)[0])


@pytest.mark.parametrize("scaled", [False, True])
def test_gradients_of_actions_and_log_probabilities_are_those_of_differences(scaled):
    torch.manual_seed(2)
    actor = TanhActor(3, torch.tensor([1.0, 0.0, 1.0]), (8,), "tanh", layer_norm=True, bound=1.5, scaled_density=scaled)
    actor.double()
    features = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    eps, weights = torch.randn(2, 4, 3, dtype=torch.float64), torch.randn(2, 4, 4, dtype=torch.float64)

    def total() -> torch.Tensor:
        actions, log_prob = actor(features, eps)
        return (weights[..., :3] * actions).sum() + (weights[..., 3] * log_prob).sum()

    total().backward()
    step = 1e-6
    for p in (features, *actor.parameters()):
        way = torch.randn_like(p)
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                p += sign * step * way
                ends.append(float(total()))
                p -= sign * step * way
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float((p.grad * way).sum()), rel=1e-6, abs=1e-8)


def test_log_probabilities_stay_finite_where_the_tanh_saturates():
    actor = actor_with([50.0, -50.0], [0.5, 0.5]).float()
    actions, log_prob = actor(torch.ones(1, 1), torch.zeros(1, 1, 2))
    assert actions.abs().max() <= 1.0
    # ln N(0) - ln std - ln(1 - tanh^2 u), the last being 2 ln 2 - 2 |u| this far out
    expected = 2 * (-0.5 * math.log(2 * math.pi) - math.log(0.5) - (2 * math.log(2) - 100.0))
    assert float(log_prob.detach()) == pytest.approx(expected, rel=1e-6)


def test_padding_stays_zero_and_has_no_density():
    torch.manual_seed(0)
    actor = TanhActor(2, torch.tensor([1.0, 0.0]), (4,), bound=2.0, scaled_density=True)
    features, eps = torch.randn(5, 2), torch.randn(5, 1, 2)
    actions, log_prob = actor(features, eps)
    assert not actions[..., 1].any()
    assert not actor.mode(features)[..., 1].any()
    other = eps.clone()
    other[..., 1] += 3
    torch.testing.assert_close(actor(features, other)[1], log_prob)


def test_the_mode_is_the_action_without_noise():
    torch.manual_seed(0)
    actor = TanhActor(2, torch.ones(3), (4,), bound=1.5)
    features = torch.randn(5, 2)
    torch.testing.assert_close(actor.mode(features), actor(features, torch.zeros(5, 1, 3))[0])


# ------------------------------------------------------------------------------------------------------------- bandits


def bandit_batch(best: float, bound: float, rows: int, generator: torch.Generator) -> SACBatch:
    w = (torch.rand(rows, 1, generator=generator) * 2 - 1) * bound
    reward = -H / 2 * (C + G * w[:, 0] - best) ** 2
    seen = torch.ones(rows, 1)
    return SACBatch(seen, seen, w, reward, torch.zeros(rows))


class Exact(SACLearner):
    """The actor is taught by the true values, quadratic in the action; the critic learns beside it."""

    best = 0.9

    def judge(self, features: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return (-0.5 * (C + G * actions[:, 0] - self.best) ** 2).expand(2, -1)


def fall(sac: SACLearner, share: float) -> None:
    """The actor's rate from 1e-2 towards 0."""
    sac.optimizers()["actor"].param_groups[0]["lr"] = 1e-2 * (1 - share) + 1e-5


@pytest.mark.parametrize(("best", "optimum"), [(0.9, 1.2245), (2.0, 1.5)])
def test_d2_the_best_latent_of_a_bandit_inside_the_box_and_at_its_edge(best, optimum):
    assert optimum == pytest.approx(min((best - C) / G, 1.5), abs=1e-4)
    sac, g = learner(1, 1, Exact, hidden=(16,), bound=1.5, temperature=1e-2), seeded()
    sac.best = best
    for step in range(250):
        fall(sac, step / 250)
        sac.update(bandit_batch(best, 1.5, 32, g), g)
    assert abs(float(sac.actor.mode(torch.ones(1, 1)).detach()) - optimum) < 0.05


def test_d2_a_learned_critic_leads_to_the_best_latent():
    sac, g = learner(1, 1, hidden=(32, 32), actor_lr=3e-3, critic_lr=1e-2, bound=1.5, temperature=1e-2), seeded()
    for _ in range(350):
        sac.update(bandit_batch(0.4, 1.5, 64, g), g)
    assert float(sac.actor.mode(torch.ones(1, 1)).detach()) == pytest.approx((0.4 - C) / G, abs=0.1)


@pytest.mark.parametrize("density", ["box", "scaled"])
def test_d3_the_soft_optimum_of_a_fixed_temperature(density):
    alpha, g = 0.1, seeded()
    sac = learner(1, 1, Exact, hidden=(16,), bound=20.0, temperature=alpha, density=density)
    with torch.no_grad():  # start narrow, where the tanh is straight
        sac.actor.net.layers[-1].bias[..., 1] = -2.0
    for step in range(400):
        fall(sac, step / 400)
        sac.update(bandit_batch(0.9, 20.0, 128, g), g)
    w, _ = sac.actor(torch.ones(1, 1), torch.randn(1, 20_000, 1, generator=seeded(5)))
    assert float(w.detach().mean()) == pytest.approx((0.9 - C) / G, abs=0.05)
    assert float(w.detach().std()) == pytest.approx(math.sqrt(alpha / G**2), rel=0.05)


def test_a_learned_temperature_holds_the_target_entropy():
    sac = learner(1, 1, Exact, hidden=(16,), actor_lr=1e-2, bound=1.5, temperature_lr=3e-2, target_entropy=-0.5)
    g, told = seeded(), []
    for _ in range(400):
        told.append(sac.update(bandit_batch(0.9, 1.5, 64, g), g))
    assert np.mean([t["entropy"] for t in told[-100:]]) == pytest.approx(-0.5, abs=0.1)


def test_d9_values_without_success_settle_at_the_floor():
    sac = learner(1, 1, hidden=(16,), critic_lr=1e-2, temperature=0.0, polyak=0.1)
    g, seen = seeded(), torch.ones(32, 1)
    for _ in range(400):
        w = torch.rand(32, 1, generator=g) * 2 - 1
        sac.update(SACBatch(seen, seen, w, -torch.ones(32), torch.full((32,), 0.9)), g)
    assert float(sac.values(SACBatch(seen, seen, w, w, w)).detach().mean()) == pytest.approx(-10.0, rel=0.02)


# -------------------------------------------------------------------------------------------------- parts of an update


@pytest.mark.parametrize("entropy_backup", [True, False])
def test_d6_targets_by_hand_with_ends_and_short_chunks(entropy_backup):
    sac = learner(bound=1.5, ensemble=3, subset=2, entropy_backup=entropy_backup)
    discount = torch.tensor([0.9**4, 0.9**2, 0.0, 0.9**4])  # a full chunk, a truncated one, an end, a full one
    b = batch(4, bound=1.5, discount=discount, slow_next=torch.randn(4, 3))
    eps, alpha = torch.randn(4, 1, 2), torch.tensor(0.3)
    got = sac.target(b, eps, torch.tensor([2, 0]), alpha)
    actions, log_prob = sac.actor(b.next_features, eps)
    values = sac.slow(b.slow_next, actions / 1.5)[[2, 0], :, 0, 0].min(0).values
    expected = b.reward + discount * (values - (0.3 * log_prob[:, 0] if entropy_backup else 0.0))
    torch.testing.assert_close(got, expected.detach())
    assert got[2] == b.reward[2]


def test_an_update_moves_every_part_once():
    sac = learner(bound=1.5)
    before = {n: p.detach().clone() for n, p in sac.named_parameters()}
    told = sac.update(batch(bound=1.5), seeded())
    assert set(told) == {"critic_loss", "actor_loss", "q", "target", "entropy", "temperature"}
    assert all(math.isfinite(v) for v in told.values())
    for name, p in sac.named_parameters():
        assert not torch.equal(p, before[name]), name
    for name, p in sac.critic.named_parameters():
        torch.testing.assert_close(sac.slow.get_parameter(name), before[f"slow.{name}"].lerp(p, 0.005))


def test_the_actor_descends_through_the_critic_as_it_is_after_its_own_step():
    sac = learner(temperature=0.0)
    sac.optimizers()["critic"].param_groups[0]["lr"] = 0.1
    old, b, noise = copy.deepcopy(sac), batch(), sac.draw_noise(8, seeded())

    def gradient(critic: SACLearner) -> tuple[torch.Tensor, ...]:
        actions = old.actor(b.features, noise["eps"][:, None])[0][:, 0]
        loss = -critic.judge(b.features, actions).min(0).values.mean()
        return torch.autograd.grad(loss, list(old.actor.parameters()))

    sac.step(b, noise)
    found = [p.grad for p in sac.actor.parameters()]
    torch.testing.assert_close(found, list(gradient(sac)))
    assert not any(torch.allclose(x, y) for x, y in zip(found, gradient(old), strict=True))


def test_an_actor_whose_choice_is_worth_nothing_stands_still():
    """With values that do not depend on the action, the actor's gradient is that of its entropy alone."""
    sac = learner(temperature=0.0)
    with torch.no_grad():
        for layer in (sac.critic.layers[0],):
            layer.weight[:, 3:] = 0.0
    sac.optimizers()["critic"].param_groups[0]["lr"] = 0.0
    before = [p.detach().clone() for p in sac.actor.parameters()]
    sac.update(batch(), seeded())
    assert all(torch.equal(a, b) for a, b in zip(before, sac.actor.parameters(), strict=True))


def test_an_encoder_is_taught_by_the_critic_alone():
    torch.manual_seed(0)
    encoder = torch.nn.Linear(4, 3)
    sac = SACLearner(SACConfig(hidden=(16,)), 3, 2, taught=encoder.parameters())
    seen = torch.randn(8, 4)
    b = batch(features=3)
    encoded = encoder(seen)
    b = SACBatch(encoded, b.next_features, b.action, b.reward, b.discount)
    noise = sac.draw_noise(8, seeded())
    target = sac.target(b, noise["eps_next"][:, None], noise["members"], sac.temperature.value)
    q = sac.values(b)
    wanted = torch.autograd.grad(0.5 * (q - target).square().sum(0).mean(), encoder.weight)[0]
    before = encoder.weight.detach().clone()
    sac.step(SACBatch(encoder(seen), b.next_features, b.action, b.reward, b.discount), noise)
    torch.testing.assert_close(encoder.weight.grad, wanted)
    assert not torch.equal(encoder.weight, before)


def test_ensembles_see_units_of_the_configured_bound_whatever_the_curriculum_says():
    sac = learner(bound=1.5)
    b = batch(bound=1.5)
    expected = sac.values(b).detach()
    sac.actor.bound.fill_(0.5)
    torch.testing.assert_close(sac.values(b).detach(), expected)
    assert float(sac.actor(b.features, 9 * torch.randn(8, 1, 2))[0].detach().abs().max()) <= 0.5


@pytest.mark.parametrize(("entropy", "sign"), [(1.0, -1), (-1.0, 1)])
def test_the_temperature_falls_above_its_target_and_rises_below(entropy, sign):
    temperature = Temperature(target_entropy=0.0)
    optimizer = torch.optim.SGD(temperature.parameters(), 0.1)
    temperature.loss(torch.full((4,), -entropy)).backward()
    optimizer.step()
    assert float(temperature.log.detach()) == pytest.approx(sign * 0.1)


def test_a_fixed_temperature_has_no_optimiser_and_may_be_zero():
    sac = learner(temperature=0.0)
    assert set(sac.optimizers()) == {"actor", "critic"}
    assert sac.update(batch(), seeded())["temperature"] == 0.0
    assert not sac.temperature.log.requires_grad


def test_the_default_target_entropy_counts_numbers_that_exist():
    assert SACLearner(SACConfig(hidden=(4,)), 2, torch.tensor([1, 1, 0])).temperature.target_entropy == -2.0
    assert learner(target_entropy=0.0).temperature.target_entropy == 0.0


def test_polyak_moves_by_its_share():
    newest = torch.nn.Linear(2, 2)
    slow = slow_copy(newest)
    with torch.no_grad():
        newest.weight += 1.0
    polyak(newest, slow, 0.25)
    torch.testing.assert_close(newest.weight - slow.weight, torch.full((2, 2), 0.75))
    assert not any(p.requires_grad for p in slow.parameters())


@pytest.mark.parametrize("utd", [0.3, 1.0, 2.5, 20])
def test_update_ratios_hold_over_rounds_of_any_size(utd):
    total, done = 0, 0
    for brought in (1, 7, 3, 40, 2, 11):
        total += brought
        done += updates_due(total, brought, utd)
    assert done == math.floor(64 * utd)


def test_an_update_is_a_function_of_weights_batch_and_generator():
    outcomes = []
    for noise in (1, 2):
        sac = learner(ensemble=4, subset=2)
        torch.manual_seed(noise)
        outcomes.append([sac.update(batch(), seeded(u)) for u in range(3)])
    assert outcomes[0] == outcomes[1]


def test_a_learner_continues_exactly_from_its_states():
    def run(sac: SACLearner, first: int, last: int) -> None:
        for u in range(first, last):
            sac.update(batch(), seeded(u))

    whole, half, rest = learner(), learner(), learner()
    run(whole, 0, 6)
    run(half, 0, 3)
    rest.load_state_dict(half.state_dict())
    for name, optimizer in rest.optimizers().items():
        optimizer.load_state_dict(half.optimizers()[name].state_dict())
    run(rest, 3, 6)
    for a, b in zip(whole.parameters(), rest.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subset": 3}, "subset=3 is more than the ensemble=2"),
        ({"hidden": ()}, "hidden or actor_hidden is empty"),
        ({"actor_hidden": ()}, "hidden or actor_hidden is empty"),
        ({"log_std": (2.0, -5.0)}, "must rise"),
    ],
)
def test_settings_that_cannot_work_say_what_to_change(settings, message):
    with pytest.raises(ConfigError, match=message):
        SACConfig(**settings)


def test_an_actor_without_numbers_is_refused():
    with pytest.raises(ConfigError, match="at least one action number"):
        SACLearner(SACConfig(hidden=(4,)), 2, torch.zeros(3))
