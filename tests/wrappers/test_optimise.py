"""PA-RL at test time: its oracles on policies and critics with closed forms, units, masks, the seam, refusals."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch

from robopolicy.core.errors import (
    ActionSpaceMismatch,
    ConfigError,
    DegenerateCandidates,
    HorizonMismatch,
    NonDeterministicDecoder,
    PolicyInterfaceError,
)
from robopolicy.core.policy import Cap
from robopolicy.core.specs import STATE, ActionSpace, ChannelKind
from robopolicy.policies.poses import matrix_of_6d
from robopolicy.testing.critics import tiny_critic
from robopolicy.testing.heads import BACKBONES, tiny_head
from robopolicy.testing.reranking import FunctionCritic, GaussianPolicy
from robopolicy.testing.tiny import random_observation
from robopolicy.wrappers.optimise import OptimisedPolicy
from robopolicy.wrappers.optimise_actions import DATA, ActionOptimiser
from robopolicy.wrappers.optimise_ascent import AscentSettings
from robopolicy.wrappers.rerank import ValueGuidedPolicy
from robopolicy.wrappers.rerank_scorers import CriticScorer, EnergyCritic
from robopolicy.wrappers.selectors import choose, gumbel_noise


def total(a: torch.Tensor) -> torch.Tensor:
    """Q(a): the sum of all executed numbers."""
    return a.flatten(2).sum(-1)


def near(star: float):
    """Q(a) = -|a - star|^2 / 2."""
    return lambda a: -0.5 * (a - star).flatten(2).square().sum(-1)


def observation(rows: int) -> dict[str, np.ndarray]:
    return {STATE: np.arange(4 * rows, dtype=np.float32).reshape(rows, 2, 2)}


def keys(rows: int) -> list[tuple[int, ...]]:
    return [(7, row, 2) for row in range(rows)]


def optimised(members=total, policy=None, scale=1.0, **options) -> OptimisedPolicy:
    policy = policy or GaussianPolicy(std=0.3)
    options = {"num_samples": 6, "keep": 3, **options}
    return OptimisedPolicy(policy, FunctionCritic(members, policy, scale=scale), **options)


def optimiser(policy, members=total, scale=1.0, ascent=None, **options) -> ActionOptimiser:
    scorer = CriticScorer(FunctionCritic(members, policy, scale=scale), "mean", newest=True)
    return ActionOptimiser(policy, scorer, ascent=ascent or AscentSettings(5, 0.05), **options)


def candidates(policy, rows: int, count: int, seed: int = 0) -> torch.Tensor:
    noise = torch.randn(rows, count, *policy.latent_shape, generator=torch.Generator().manual_seed(seed))
    return policy.mean + policy.std * noise


# ------------------------------------------------------------------------------------------------------- oracles


def test_p5_the_best_m_are_those_of_a_stable_sort():
    policy = GaussianPolicy(dim=2)
    chunks = candidates(policy, 4, 9)
    chunks[:, 5] = chunks[:, 2]  # a tie: the lower number wins
    found = optimiser(policy, ascent=AscentSettings(0), keep=4)(None_ctx(4), chunks)
    values = chunks[:, :, 1:3].clamp(-1, 1).flatten(2).sum(-1).numpy()
    np.testing.assert_array_equal(found.index.numpy(), np.argsort(-values, axis=1, kind="stable")[:, :4])
    np.testing.assert_array_equal(found.chunks.numpy(), np.take_along_axis(
        chunks.numpy(), found.index.numpy()[:, :, None, None], axis=1
    ))  # fmt: skip


def test_p5_one_candidate_without_steps_is_the_policy_itself():
    base = GaussianPolicy(dim=2, std=2.0)  # beyond the critic's range: not even clipped
    alone = optimised(policy=base, num_samples=1, keep=1, steps=0)
    np.testing.assert_array_equal(alone.act(observation(3), keys(3)).actions, base.act(observation(3), keys(3)).actions)


def test_p5_without_steps_the_best_is_that_of_v_gps_at_temperature_0():
    base = GaussianPolicy(dim=2)
    critic = FunctionCritic([total, near(0.3)], base)
    ours = OptimisedPolicy(base, critic, num_samples=8, keep=8, steps=0, reduce="min").act(observation(20), keys(20))
    v_gps = ValueGuidedPolicy(base, critic, num_samples=8, temperature=0.0).act(observation(20), keys(20))
    np.testing.assert_array_equal(ours.actions, v_gps.actions)
    np.testing.assert_array_equal(ours.info["choice"], v_gps.info["choice"])
    np.testing.assert_array_equal(ours.info["q"], v_gps.info["q"])


def test_p6_softmax_of_values():
    values = torch.tensor([[0.0, math.log(3.0)]])
    noise = gumbel_noise([(0,)], 2)
    expected = torch.tensor([[0.25, 0.75]]).double()
    torch.testing.assert_close(choose(values, 1.0, noise).probabilities, expected)
    torch.testing.assert_close(choose(values + 17.0, 1.0, noise).probabilities, expected)
    # The wrapper draws by it: two candidates with these values, one a row of many.
    base = GaussianPolicy()
    drawn = optimised(lambda a: math.log(3.0) * (a[..., 0, 0] > 0).float() + 0 * total(a), base, num_samples=2, keep=2,
                      steps=0, selection="softmax")  # fmt: skip
    chunks = torch.zeros(8000, 2, *base.latent_shape)
    chunks[:, 0], chunks[:, 1] = -0.5, 0.5
    taken, _ = drawn.select(observation(8000), None, chunks, [(3, i) for i in range(8000)])
    assert float((taken[:, 1, 0] > 0).float().mean()) == pytest.approx(0.75, abs=0.015)


def test_p7_distillation_moves_the_mean_to_that_of_the_optimised_actions_and_converges():
    """A Gaussian policy fitted exactly: its mean becomes E[a*], which contracts to the optimum."""
    policy = GaussianPolicy(std=0.05, n_action_steps=3)
    settings, star = AscentSettings(5, 0.1), 0.6
    improve = optimiser(policy, near(star), ascent=settings, keep=1, max_jump=None)
    for step in range(20):
        chunks = candidates(policy, 400, 1, seed=step)
        found = improve(None_ctx(400), chunks).chunks[:, :, improve.part]
        expected = star + 0.9**5 * (chunks[:, :, improve.part] - star)
        torch.testing.assert_close(found, expected)
        policy.mean = float(found.mean())
    assert policy.mean == pytest.approx(star, abs=2e-3)
    outside = optimiser(policy, near(3.0), ascent=settings, keep=1, max_jump=None)
    for step in range(12):
        policy.mean = float(outside(None_ctx(400), candidates(policy, 400, 1, step)).chunks[:, :, outside.part].mean())
    # The box, but for what the policy itself draws beyond it (std 0.05): a start is never left for a worse point.
    assert policy.mean == pytest.approx(1.0, abs=0.02)


def test_p8_the_data_action_takes_the_place_of_the_worst():
    policy = GaussianPolicy(dim=2)
    chunks = candidates(policy, 5, 6)
    improve = optimiser(policy, near(0.1), ascent=AscentSettings(0), keep=3)
    best = torch.full((5, 2, 2), 0.1)
    found = improve(None_ctx(5), chunks, best)
    assert torch.equal(found.index[:, -1], torch.full((5,), DATA))
    assert torch.equal(found.index[:, :2], improve(None_ctx(5), chunks).index[:, :2])
    assert (choose(found.values, 0.0).take(found.index) == DATA).all()  # the target, as it is the best
    assert torch.equal(choose(found.values, 0.0).take(found.chunks)[:, 1:3], best)
    worst = improve(None_ctx(5), chunks, -torch.ones(5, 2, 2))
    assert (worst.index[:, -1] == DATA).all()  # it takes that place even if it is worse than what stood there
    assert (choose(worst.values, 0.0).take(worst.index) != DATA).all()


def test_p9_more_candidates_and_more_steps_never_lower_the_true_value():
    base = GaussianPolicy(std=0.4)
    chunks = candidates(base, 500, 32)

    def value(count: int, steps: int) -> float:
        improve = optimiser(base, near(0.7), ascent=AscentSettings(steps, 0.05), keep=min(count, 5), max_jump=None)
        return float(improve(None_ctx(500), chunks[:, :count]).values.max(1).values.mean())

    for steps in (0, 5):
        by_count = [value(count, steps) for count in (1, 2, 8, 32)]
        assert by_count == sorted(by_count)
        assert by_count[0] < by_count[-1]
    by_steps = [value(4, steps) for steps in (0, 1, 5, 20)]
    assert by_steps == sorted(by_steps)
    assert by_steps[0] < by_steps[-1]


KINDS = (*(ChannelKind.EUCLIDEAN,) * 2, *(ChannelKind.ROT6D,) * 6, ChannelKind.BINARY, ChannelKind.PADDING)


def test_p12_binary_channels_stand_still_and_rotations_stay_rotations():
    policy = GaussianPolicy(std=0.5, space=ActionSpace(10, kinds=KINDS))
    chunks = candidates(policy, 4, 3)
    plain = optimiser(policy, keep=3, max_jump=None)(None_ctx(4), chunks)
    order = torch.arange(4)[:, None]
    before = chunks[order, plain.index]
    assert torch.equal(plain.chunks[..., 2:], before[..., 2:])  # by default nothing turns either
    moved = plain.chunks[:, :, 1:3, :2] - before[:, :, 1:3, :2]
    assert (moved > 0).any()
    turning = optimiser(policy, keep=3, rotations=True, max_jump=None)(None_ctx(4), chunks)
    assert torch.equal(turning.chunks[..., 8:], before[..., 8:])
    six = turning.chunks[:, :, 1:3, 2:8]
    changed = (six != before[:, :, 1:3, 2:8]).any(-1)
    assert changed.any()
    columns = six[changed].unflatten(-1, (2, 3))
    torch.testing.assert_close(columns @ columns.mT, torch.eye(2).expand(len(columns), 2, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(matrix_of_6d(six[changed])), torch.ones(len(columns)))


def test_p15_only_the_executed_part_moves_and_the_rest_is_the_candidates_own():
    policy = GaussianPolicy(dim=2, horizon=6, std=0.3)
    chunks = candidates(policy, 3, 4)
    found = optimiser(policy, keep=4, max_jump=None)(None_ctx(3), chunks)
    before = chunks[torch.arange(3)[:, None], found.index]
    inside = torch.zeros(6, dtype=torch.bool)
    inside[1:3] = True
    assert torch.equal(found.chunks[:, :, ~inside], before[:, :, ~inside])
    assert (found.chunks[:, :, inside] != before[:, :, inside]).all()
    torch.testing.assert_close(found.moved, (found.chunks - before).flatten(2).norm(dim=-1))
    assert (found.values > found.start_values).all()


def test_p15_a_torn_seam_gives_back_the_sampled_chunk():
    policy = GaussianPolicy(horizon=5, std=0.02)  # chunks that hardly move: any large step tears them
    chunks = candidates(policy, 6, 2)
    torn = optimiser(policy, ascent=AscentSettings(5, 0.1), keep=2)(None_ctx(6), chunks)
    assert torn.rejected.all()
    assert torch.equal(torn.chunks, chunks[torch.arange(6)[:, None], torn.index])
    assert torch.equal(torn.values, torn.start_values)
    assert not torn.moved.any()
    gentle = optimiser(policy, ascent=AscentSettings(1, 1e-4), keep=2)(None_ctx(6), chunks)
    assert not gentle.rejected.any()
    assert gentle.moved.all()


# ------------------------------------------------------------------------------------------------ units, wrapper


def None_ctx(rows: int):
    from robopolicy.encoders.features import Features

    return Features(vector=torch.zeros(rows, 1))


def test_steps_are_taken_in_the_critics_units_and_come_back_in_the_policys():
    policy = GaussianPolicy(scale=10.0, std=0.3)  # one unit is 10 physical ones, 2 of the critic's
    improve = optimiser(policy, total, scale=5.0, ascent=AscentSettings(1, 0.1), keep=1, max_jump=None)
    chunks = torch.zeros(1, 1, *policy.latent_shape)
    found = improve(None_ctx(1), chunks)
    torch.testing.assert_close(found.chunks[0, 0, 1:3], torch.full((2, 1), 0.05))
    far = improve(None_ctx(1), chunks + 0.48)
    torch.testing.assert_close(far.chunks[0, 0, 1:3], torch.full((2, 1), 0.5))  # the critic's 1


@pytest.mark.parametrize(("bounds", "reach"), [("data", 0.4), ("space", 0.4), ("none", math.inf)])
def test_bounds(bounds, reach):
    policy = GaussianPolicy(std=0.1, space=ActionSpace(1, low=(-0.4,), high=(0.4,)))
    found = optimiser(policy, total, ascent=AscentSettings(9, 0.1), bounds=bounds, keep=1, max_jump=None)(
        None_ctx(2), torch.zeros(2, 1, *policy.latent_shape)
    )
    assert float(found.chunks.max()) == pytest.approx(min(reach, 0.9), abs=1e-6)


def test_act_is_a_function_of_its_keys_alone_and_tells_what_it_did():
    policy = optimised(near(0.5), eta=0.05, selection="softmax", temperature=0.1)
    whole = policy.act(observation(5), keys(5))
    part = policy.act({STATE: observation(5)[STATE][2:4]}, keys(5)[2:4])
    np.testing.assert_allclose(whole.actions[2:4], part.actions, atol=1e-6)
    assert set(whole.info) == {"q", "q_std", "gain", "moved", "rejected", "choice", "ess"}
    assert (whole.info["gain"] >= 0).all()
    assert policy.critic_calls == 2
    assert policy.caps == {Cap.SAMPLE}
    drawn = policy.sample(policy.encode(observation(3)), 2, torch.Generator().manual_seed(0))
    assert drawn.shape == (3, 2, 4, 1)


def test_what_the_policy_tells_is_told_of_the_candidate_taken():
    head = tiny_head("ebt", "transformer")
    critic = FunctionCritic(lambda a: a[:, :, 0].mean(-1), head)
    policy = OptimisedPolicy(head, critic, num_samples=3, keep=2, steps=0, on_degenerate="warn")
    obs, rows = random_observation(head, 2), [(3, row) for row in range(2)]
    chunk = policy.act(obs, rows)
    alone = [head.act(obs, [k if j == 0 else (*k, j) for k in rows]).info["energy"] for j in range(3)]
    np.testing.assert_allclose(chunk.info["energy"], np.stack(alone)[chunk.info["choice"], [0, 1]], atol=1e-3)


@pytest.mark.parametrize("head", [h for h in BACKBONES if h != "diffuser_actor_3d"])
def test_every_head_can_be_optimised_by_a_real_critic(head):
    policy = tiny_head(head, BACKBONES[head][0], "memory" if head == "seed_policy" else "state")
    critic = tiny_critic(ensemble=3, n_action_steps=policy.action_spec.n_action_steps)
    both = OptimisedPolicy(policy, critic, num_samples=4, keep=2, eta=0.05, eta_mode="unit_norm", on_degenerate="warn")
    told = both.act(random_observation(policy, 2), [(3, 0), (3, 1)]).info
    assert (told["gain"] >= 0).all()
    ctx = critic.encode({STATE: random_observation(policy, 2)[STATE][:, -1:]}, newest=True)
    assert told["moved"].shape == ctx.vector.shape[:1]


def test_the_newest_weights_answer_unless_the_slow_ones_are_asked():
    policy = tiny_head("flow", "unet")
    critic = tiny_critic(n_action_steps=policy.action_spec.n_action_steps)
    obs, rows = random_observation(policy, 2), [(3, 0), (3, 1)]

    def told(weights):
        made = OptimisedPolicy(policy, critic, num_samples=4, keep=2, critic_weights=weights)
        return made.act(obs, rows).info["q"]

    np.testing.assert_array_equal(told("newest"), told("slow"))
    with torch.no_grad():
        critic.newest.q.layers[-1].bias += 5.0
    np.testing.assert_allclose(told("newest"), told("slow") + 5.0, rtol=1e-5)


# ------------------------------------------------------------------------------------------------------ refusals


def test_error_row_wrong_settings_and_parts():
    base = GaussianPolicy()
    with pytest.raises(ConfigError, match="keep=10 of num_samples=4"):
        optimised(num_samples=4, keep=10)
    for options, match in [
        ({"selection": "best"}, "selection"),
        ({"critic_weights": "old"}, "critic_weights"),
        ({"bounds": "box"}, "bounds"),
        ({"keep": 0}, "keep"),
        ({"max_jump": 0.0}, "max_jump"),
    ]:
        with pytest.raises(ConfigError, match=match):
            optimised(**options)
    with pytest.raises(PolicyInterfaceError, match="no gradient"):
        OptimisedPolicy(base, EnergyCritic())
    with pytest.raises(HorizonMismatch, match="k=2"):
        OptimisedPolicy(base, FunctionCritic(total, base, k=1))
    with pytest.raises(DegenerateCandidates, match="coincide"):
        optimised(policy=GaussianPolicy(std=0.0)).act(observation(2), keys(2))
    odd = GaussianPolicy(space=ActionSpace(5, kinds=(ChannelKind.ROT6D,) * 5))
    with pytest.raises(ActionSpaceMismatch, match="six neighbours"):
        optimised(policy=odd, rotations=True)


def test_it_is_no_decoder():
    policy = optimised()
    with pytest.raises(NonDeterministicDecoder, match="optimised chunk"):
        policy.decode(None, torch.zeros(1))
    with pytest.raises(NonDeterministicDecoder, match="Steering needs DECODE"):
        policy.require(Cap.DECODE, whom="Steering")


def test_the_same_critic_twice_is_a_warning(caplog):
    inner = optimised()
    with caplog.at_level(logging.WARNING):
        ValueGuidedPolicy(inner, inner.critic, num_samples=2)
    assert "same critic" in caplog.text
