"""DSRL's learners: bandits with known optima (D2), aliasing (D4), distillation (D5), targets (D6), value floor (D9)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robopolicy.core.improver import Beginning
from robopolicy.core.specs import ACTION, STATE, ObservationSpec
from robopolicy.rl.dsrl import UPDATE, DSRLImprover, build
from robopolicy.rl.dsrl_config import DSRLConfig
from robopolicy.rl.dsrl_learner import AliasedSAC
from robopolicy.rl.returns import StepRewards
from robopolicy.rl.transitions import ChunkTransitions
from robopolicy.testing.reranking import GaussianPolicy
from robopolicy.testing.tiny import unit_stats

C, G, H = 0.3, 0.49, 20.0  # decoder a = C + G w, reward -H/2 (a - a*)^2
SMALL = {
    "hidden": (32, 32),
    "actor_lr": 3e-3,
    "critic_lr": 3e-3,
    "batch_size": 64,
    "layer_norm": False,
    "activation": "relu",
}
ONE = {"kind": "repeat"}  # the toys' latents have a step that is never executed


class EvenPolicy(GaussianPolicy):
    """``a = |w|`` of the first channel; the second channel of the latent changes nothing."""

    def decode(self, ctx, latent, *, tape=None):
        return latent[..., :1].abs() * torch.ones_like(latent)


def toy(dim: int = 1, cls: type[GaussianPolicy] = GaussianPolicy, **changes) -> GaussianPolicy:
    options = {"mean": C, "std": G, "scale": 1.0, **changes}
    return cls(dim=dim, horizon=2, n_action_steps=1, **options)


def improver(base: GaussianPolicy | None = None, seed: int = 0, **options) -> DSRLImprover:
    torch.manual_seed(seed)
    base = base or toy()
    stats = {STATE: unit_stats(2), ACTION: unit_stats(base.action_spec.dim)}
    config = DSRLConfig(**{**SMALL, "latent_map": ONE, "log_std": (-5.0, 2.0), **options})
    return build(config, Beginning(base, base.observation_spec, stats))


def transitions(base: GaussianPolicy, numbers: torch.Tensor, reward, discount: float = 0.0) -> dict[str, np.ndarray]:
    """One-step transitions of ``numbers`` ``(B, D)`` repeated over the chunk."""
    rows = len(numbers)
    obs = np.zeros((rows, 2, 2), np.float32)
    action = base.decode(None, numbers[:, None])[:, :1].numpy()
    worth = reward(action[:, 0]) if callable(reward) else np.full(rows, reward)
    return {
        STATE: obs, "next." + STATE: obs, ACTION: action, "latent": numbers.numpy(),
        "reward": worth.astype(np.float32), "discount": np.full(rows, discount, np.float32),
    }  # fmt: skip


def train(made: DSRLImprover, updates: int, draw, reward, discount: float = 0.0) -> None:
    for number in range(updates):
        generator = torch.Generator().manual_seed(number)
        made.step(UPDATE, transitions(made.base, draw(generator), reward, discount), generator)


def normal(rows: int = 64, dim: int = 1):
    return lambda generator: torch.randn(rows, dim, generator=generator)


def mode(made: DSRLImprover) -> np.ndarray:
    """The latent that the deployed policy chooses, ``(L,)``."""
    with torch.no_grad():
        return made.actor.numbers(torch.zeros(1, made.actor.feature_dim), None, made.actor.bound)[0].numpy()


# ------------------------------------------------------------------------------------------------------------------ D2


BANDIT = {
    "hidden": (64, 64),
    "batch_size": 128,
    "activation": "silu",
    "reduce": "mean",
    "temperature": 1e-2,
    "distill": 1.0,
}


def solve(made: DSRLImprover, updates: int, rate: float, draw, reward) -> float:
    """Train with falling rates, the actor's ``rate`` from a third on, when the critics know something; the mode."""
    for number in range(updates):
        left, generator = 1 - number / updates, torch.Generator().manual_seed(number)
        for name, optimizer in made.optimizers().items():
            actor = rate * left if number >= updates // 3 else 0.0
            optimizer.param_groups[0]["lr"] = actor if name == "actor" else 1e-2 * left
        made.step(UPDATE, transitions(made.base, draw(generator), reward), generator)
    return float(mode(made)[0])


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "best", "optimum"), [("na", 0.9, 1.2245), ("na", 2.0, 1.5), ("sac", 2.0, 1.5)])
def test_d2_the_bandit_is_solved_inside_the_box_and_at_its_edge(variant, best, optimum):
    """Noise aliasing from N(0, 1) latents that nobody has noted; plain SAC from noted ones in the box."""
    made = improver(variant=variant, bound=1.5, **BANDIT)

    def draw(generator: torch.Generator) -> torch.Tensor:
        return torch.randn(128, 1, generator=generator) if variant == "na" else box(generator)

    rate = 3e-3 if variant == "na" else 1e-3
    found = solve(made, 700, rate, draw, lambda a: -H / 2 * (a[:, 0] - best) ** 2)
    assert abs(found - optimum) < 0.05


def box(generator: torch.Generator) -> torch.Tensor:
    return torch.rand(128, 1, generator=generator) * 3 - 1.5


def test_d2_offline_actions_are_enough_to_find_the_side_of_the_bandit():
    """The data come from elsewhere: uniform actions, no latent."""
    made = improver(temperature=0.0, distill=1.0)
    for number in range(100):
        generator = torch.Generator().manual_seed(number)
        batch = transitions(made.base, torch.rand(64, 1, generator=generator) * 6 - 3, 0.0)
        del batch["latent"]
        batch["reward"] = (-H / 2 * (batch[ACTION][:, 0, 0] - 0.9) ** 2).astype(np.float32)
        made.step(UPDATE, batch, generator)
    assert float(mode(made)[0]) > 0.5


# ------------------------------------------------------------------------------------------------------------------ D4


def positive(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(64, 2, generator=generator).abs()


def asymmetry(made: DSRLImprover) -> float:
    """Largest ``|Q(w) - Q(-w)|`` within two deviations, in the unit of the spread of the values."""
    grid = torch.stack([torch.linspace(0, 2, 41), torch.full((41,), 0.5)], -1)
    features = torch.zeros(41, made.actor.feature_dim)
    critic = made.learner.noise_critic if isinstance(made.learner, AliasedSAC) else made.learner.critic
    with torch.no_grad():
        one, two = (made.learner.of_actions(critic, features, w) for w in (grid, grid * torch.tensor([-1.0, 1.0])))
    return float((one - two).abs().max() / one.std())


def test_d4_aliased_values_are_those_of_the_action_and_plain_ones_are_not():
    base = toy(2, EvenPolicy)

    def reward(a):
        return -4 * (a[:, 0] - 1.0) ** 2

    options = {"temperature": 0.0, "distill": 2.0, "bound": 2.0, "critic_lr": 5e-3, "activation": "silu"}
    made = {v: improver(base, variant=v, **options) for v in ("na", "sac")}
    for each in made.values():
        train(each, 250, positive, reward)
    assert asymmetry(made["na"]) < 0.7
    assert asymmetry(made["sac"]) > 1.5
    # The second number decodes to nothing: the distilled values are flat in it.
    along = torch.stack([torch.full((41,), 1.0), torch.linspace(-2, 2, 41)], -1)
    learner = made["na"].learner
    with torch.no_grad():
        flat = learner.of_actions(learner.noise_critic, torch.zeros(41, made["na"].actor.feature_dim), along)
        steep = learner.of_actions(learner.noise_critic, torch.zeros(41, made["na"].actor.feature_dim), along.flip(1))
    assert float(flat.std(1).max()) < 0.2 * float(steep.std(1).min())


# ------------------------------------------------------------------------------------------------------------------ D5


def test_d5_distilling_a_quadratic_through_an_affine_decoder_is_exact():
    made = improver(toy(2))
    numbers = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ctx = made.decoder.context({STATE: np.zeros((50, 2, 2), np.float32)})
    a = made.decoder.actions(ctx, numbers)
    assert a.shape == (50, 2)
    # Q^A = 1 + 2 a1 - a2^2 + 3 a1 a2; a = C + G w (in float32 buffers, so that C and G are asked for, not assumed).
    offset = made.decoder.actions(ctx, numbers * 0)[0]
    slope = (made.decoder.actions(ctx, numbers * 0 + 1)[0] - offset)[0]
    q = 1 + 2 * a[:, 0] - a[:, 1] ** 2 + 3 * a[:, 0] * a[:, 1]
    x, y = numbers.T
    features = torch.stack([torch.ones_like(x), x, y, x * x, y * y, x * y], 1)
    found = torch.linalg.lstsq(features, q[:, None]).solution[:, 0]
    c, g = float(offset[0]), float(slope)
    expected = [1 + 2 * c - c * c + 3 * c * c, 2 * g + 3 * c * g, -2 * c * g + 3 * c * g, 0.0, -g * g, 3 * g * g]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-8)


def test_d5_a_distillation_step_draws_the_values_together_head_by_head():
    made = improver(distill=0.0)
    learner, batch = made.learner, None
    assert isinstance(learner, AliasedSAC)
    torch.manual_seed(1)
    with torch.no_grad():
        learner.critic.layers[-1].bias.copy_(torch.tensor([3.0, -2.0]).view(2, 1, 1))  # two heads, far apart
    losses = []
    for number in range(200):
        learner._draws = torch.Generator().manual_seed(number)
        batch = made._batch(transitions(made.base, torch.zeros(64, 1), -1.0), learner._draws)
        losses.append(learner.distil(batch))
    assert losses[-1] < 0.02 * losses[0]
    grid = torch.linspace(-2.5, 2.5, 11)[:, None]  # outside the actor's box too
    features = torch.zeros(11, made.actor.feature_dim)
    with torch.no_grad():
        found = learner.of_actions(learner.noise_critic, features, grid)
        wanted = learner.critic(features, (C + G * grid)[:, None])[:, :, 0, 0]
    torch.testing.assert_close(found, wanted, atol=0.25, rtol=0)
    assert float((found[0] - found[1]).mean()) > 4


# ------------------------------------------------------------------------------------------------------------------ D6


def test_d6_targets_of_a_chain_with_a_short_chunk_an_end_and_a_time_limit():
    """Two chunks of two steps, -1 a step: the goal after three steps; the same without a goal, stopped by time."""
    gamma, made = 0.9, improver(gamma=0.9, temperature=0.5, distill=0.0)
    learner = made.learner
    assert isinstance(learner, AliasedSAC)
    ended = ChunkTransitions.of(
        StepRewards(np.array([-1.0, -1, 0]), np.array([1.0, 1, 0])), gamma, 2, True, False, stride=2
    )
    stopped = ChunkTransitions.of(StepRewards(np.full(3, -1.0), np.ones(3)), gamma, 2, False, True, stride=2)
    np.testing.assert_allclose(ended.discount, [gamma**2, 0], rtol=1e-6)
    np.testing.assert_allclose(stopped.discount, [gamma**2, gamma], rtol=1e-6)  # one step in its last chunk
    obs = np.random.default_rng(0).standard_normal((4, 2, 2)).astype(np.float32)
    ahead = obs + 1
    data = {
        STATE: obs, "next." + STATE: ahead, ACTION: np.zeros((4, 1, 1), np.float32),
        "reward": np.concatenate([ended.reward, stopped.reward]),
        "discount": np.concatenate([ended.discount, stopped.discount]),
    }  # fmt: skip
    batch = made._batch(data, torch.Generator())
    noise = learner.draw_noise(4, torch.Generator().manual_seed(3))
    calls = rows_decoded(made)
    y = learner.target(batch, noise["eps_next"][:, None], noise["members"], torch.tensor(0.5))
    assert calls == [3]  # nothing is decoded where there is no future
    # By hand: w' of the actor, a' = C + G w', the least of the slow members, the entropy term.
    features = batch.next_features
    with torch.no_grad():
        numbers, log_prob = learner.actor(features, noise["eps_next"][:, None])
        value = learner.slow(features, (C + G * numbers))[:, :, 0, 0].min(0).values - 0.5 * log_prob[:, 0]
    expected = [-1 - gamma + gamma**2 * value[0], 0.0, -1 - gamma + gamma**2 * value[2], -1 + gamma * value[3]]
    np.testing.assert_allclose(y.numpy(), [float(e) for e in expected], rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------------------------------ D9


@pytest.mark.parametrize("variant", ["na", "sac"])
def test_d9_values_without_success_settle_at_the_floor(variant):
    made = improver(variant=variant, temperature=0.0, polyak=0.3, critic_lr=1e-2, hidden=(16,), distill=1.0)
    train(made, 250, normal(), -1.0, discount=0.9)
    floor, features = -1 / (1 - 0.9), torch.zeros(1, made.actor.feature_dim)
    with torch.no_grad():
        chosen = made.actor.numbers(features, None, 1.5)
        value = made.learner.judge(features, chosen).mean()
        if variant == "na":
            assert float(made.learner.critic(features, (C + G * chosen)[:, None]).mean()) == pytest.approx(
                floor, rel=0.02
            )
    assert float(value) == pytest.approx(floor, rel=0.02)


# ------------------------------------------------------------------------------------------------------- what is reused


def rows_decoded(made: DSRLImprover) -> list[int]:
    """Rows of each decoding that an update asks for (those that make the data have no context)."""
    calls, decode = [], made.base.decode

    def counted(ctx, latent, **kw):
        if ctx is not None:
            calls.append(len(latent))
        return decode(ctx, latent, **kw)

    made.base.decode = counted
    return calls


def varied(made: DSRLImprover, generator: torch.Generator, different: int = 40) -> dict[str, np.ndarray]:
    data = transitions(made.base, torch.randn(64, 1, generator=generator), -1.0, 0.9)
    state = torch.randint(different, (64, 1, 1), generator=generator).expand(-1, 2, 2).float().numpy() / different
    return {**data, STATE: state, "next." + STATE: state + 1}


def test_a_block_of_updates_decodes_each_observation_once():
    fresh, kept = improver(distill=1.0), improver(distill=1.0, refresh=10)
    for made, expected in ((fresh, 20 * 2 * 64), (kept, None)):
        calls = rows_decoded(made)
        for number in range(20):
            generator = torch.Generator().manual_seed(number)
            made.step(UPDATE, varied(made, generator), generator)
        assert sum(calls) == expected if expected else sum(calls) <= 2 * 2 * 40  # two blocks, here and next


def test_the_first_update_of_a_block_is_that_without_blocks_and_later_ones_lag():
    one, two = improver(distill=0.0), improver(distill=0.0, refresh=3)
    for number in range(4):
        batches = []
        for made in (one, two):
            generator = torch.Generator().manual_seed(number)
            batches.append(made.step(UPDATE, varied(made, generator, different=10_000), generator))
        same = batches[0]["target"] == pytest.approx(batches[1]["target"], rel=1e-6)
        assert same == (number == 0)  # update 1 and 2 use the actor of update 0, and the others have parted since


def test_a_terminal_transition_without_any_future_can_open_a_block():
    made = improver(refresh=5, distill=0.0)
    told = made.step(UPDATE, transitions(made.base, torch.zeros(64, 1), -1.0, 0.0), torch.Generator().manual_seed(0))
    assert told["target"] == -1.0


def test_distillation_steps_are_spread_evenly():
    made = improver(distill=0.4)
    done = []
    for number in range(10):
        generator = torch.Generator().manual_seed(number)
        done.append("distillation_loss" in made.step(UPDATE, varied(made, generator), generator))
    assert done == [False, False, True, False, True] * 2


def test_nothing_of_the_base_s_observation_spec_is_needed_for_plain_sac():
    made = improver(variant="sac")
    assert made.layout.latent_shape == (1,)
    assert made.layout.observation_spec == ObservationSpec(made.layout.features)
    calls = rows_decoded(made)
    train(made, 2, normal(), -1.0, 0.9)
    assert calls == []
