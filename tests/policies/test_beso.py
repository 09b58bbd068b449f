"""BESO: the contract for every network and use of goals, start and spread of samples, goals, guidance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from robopolicy.core.errors import ConfigError, InvalidObservation
from robopolicy.core.policy import Cap
from robopolicy.core.specs import (
    ACTION,
    GOAL,
    GOAL_IS_PAD,
    IMAGES,
    STATE,
    ActionSpace,
    ChannelKind,
    FeatureKind,
    FeatureSpec,
    FeatureStats,
    ObservationSpec,
)
from robopolicy.encoders.config import EncoderConfig
from robopolicy.encoders.features import Features
from robopolicy.policies.backbone_config import GPTConfig
from robopolicy.policies.beso import GOAL_DROP, BesoPolicy
from robopolicy.policies.beso_config import BesoConfig
from robopolicy.policies.precondition import EDM
from robopolicy.policies.registry import make_policy, policy_config
from robopolicy.resources import resource
from robopolicy.testing.check_policy import check_policy
from robopolicy.testing.tiny import (
    TINY_ENCODER,
    TINY_TRANSFORMER,
    TINY_UNET,
    random_batch,
    random_observation,
    tiny_spec,
    unit_stats,
)

FRONT = IMAGES + "front"
CAMERAS = {"front": (32, 32), "wrist": (24, 40)}
GOAL_STATE = GOAL + STATE
TINY_GPT = GPTConfig(n_layer=2, n_head=2, n_emb=16, p_drop_attn=0.1)
SPACE = ActionSpace(2, low=(-1.0, -1.0), high=(1.0, 1.0))


def tiny_beso(
    cameras: dict[str, tuple[int, int]] | None = None,
    stats: dict[str, FeatureStats] | None = None,
    space: ActionSpace = SPACE,
    seed: int = 0,
    **changes: Any,
) -> BesoPolicy:
    small: dict[str, Any] = {
        "gpt": TINY_GPT,
        "unet": TINY_UNET,
        "transformer": TINY_TRANSFORMER,
        "encoder": TINY_ENCODER,
    }
    known = {STATE: unit_stats(3), ACTION: unit_stats(space.dim), **(stats or {})}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = make_policy(BesoConfig(**{**small, **changes}), tiny_spec(3, cameras), space, 10.0, known)
    assert isinstance(policy, BesoPolicy)
    return policy.eval()


def awake(policy: BesoPolicy, scale: float = 5.0) -> BesoPolicy:
    """The same with larger weights, so that a fresh network listens to its condition."""
    with torch.no_grad():
        for p in policy.net.parameters():
            p.mul_(scale) if p.ndim > 1 else p.add_(0.1)
    return policy


# ------------------------------------------------------------------------------------------------ the contract

VARIANTS: dict[str, dict[str, Any]] = {
    "gpt": {},
    "transformer": {"backbone": "transformer"},
    "unet": {"backbone": "unet"},
    "gpt, one step as published": {"n_obs_steps": 4, "horizon": 4, "n_action_steps": 1},
    "gpt, lognormal, karras": {"noise_density": "lognormal", "spacing": "karras", "sampler": "ancestral"},
    "gpt, goal": {"goal_keys": (STATE,)},
    "gpt, two goal steps": {"goal_keys": (STATE,), "goal_steps": 2, "guidance": 1.5},
    "transformer, goal": {"backbone": "transformer", "goal_keys": (STATE,), "guidance": 1.5},
    "unet, goal": {"backbone": "unet", "goal_keys": (STATE,), "goal_steps": 2},
    "unet, guided, between grid points": {
        "backbone": "unet",
        "goal_keys": (STATE,),
        "guidance": 2.0,
        "sampler": "dpm2",
    },
    "gpt, goals unread": {"goal_keys": (STATE,), "guidance": 0.0},
    "gpt, goal image": {"cameras": CAMERAS, "goal_keys": (FRONT,), "guidance": 1.5},
    "unet, goal image and state": {"backbone": "unet", "cameras": CAMERAS, "goal_keys": (FRONT, STATE)},
    "gpt, goal and memory": {
        "goal_keys": (STATE,),
        "encoder": EncoderConfig(image=TINY_ENCODER.image, temporal={"dim": 8, "heads": 2, "max_chain": 3}),
    },
}


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_the_contract_holds(variant):
    check_policy(tiny_beso(**VARIANTS[variant]))


# --------------------------------------------------------------------------------------- exact denoisers, spread


class ExactGaussian(nn.Module):
    """The raw network whose preconditioned output is the optimal denoiser of independent data ``N(mean, std^2)``."""

    cond_kind = "tokens"

    def __init__(self, precondition: EDM, mean: float, std: float) -> None:
        super().__init__()
        self.rule, self.mean, self.std = precondition, mean, std

    def forward(self, x: Tensor, label: Tensor, cond: Tensor) -> Tensor:
        sigma = (4 * label / self.rule.label_scale).exp()
        c = self.rule.scalings(sigma, x)
        y = x / c.into
        s2, n2 = self.std**2, sigma.reshape(-1, *(1,) * (x.ndim - 1)) ** 2 if sigma.ndim else sigma**2
        best = (s2 * y + n2 * self.mean) / (s2 + n2)
        return (best - c.skip * y) / c.out


def moments(mean: float, std: float, **changes: Any) -> tuple[float, float]:
    """Mean and spread of what an exact network decodes (deterministic samplers are affine in the latent)."""
    policy = tiny_beso(clip=None, horizon=4, n_action_steps=2, **changes)
    assert isinstance(policy.precondition, EDM)
    policy.net = ExactGaussian(policy.precondition, mean, std)
    with torch.no_grad():
        ctx = policy.encode(random_observation(policy, 2))
        latent = torch.tensor([0.0, 1.0]).reshape(2, 1, 1).expand(2, 4, 2)
        low, high = policy.decode(ctx, latent)[:, 0, 0].tolist()
    return low, high - low


@pytest.mark.parametrize(
    ("steps", "sampler", "spread"),
    [(3, "ddim", 0.45), (5, "ddim", 0.65), (10, "ddim", 0.8), (5, "dpmpp_2m", 0.8), (10, "dpmpp_2m", 0.9)],
)
@pytest.mark.parametrize(("mean", "std"), [(0.6, 0.05), (0.3, 0.2), (-0.5, 0.3), (0.0, 0.5)])
def test_defaults_recover_mean_and_most_of_the_spread(steps, sampler, spread, mean, std):
    found, spread_found = moments(mean, std, num_inference_steps=steps, sampler=sampler)
    assert found == pytest.approx(mean, abs=0.035)
    assert spread <= spread_found / std <= 1.05


def test_many_steps_recover_the_spread_exactly_but_for_the_start():
    mean, std = moments(0.3, 0.2, num_inference_steps=200, sampler="dpmpp_2m", sigma_data=0.2, sigma_min=0.001)
    assert std == pytest.approx(0.2, abs=1e-4)
    assert mean == pytest.approx(0.3 * (1 - 0.2 / (0.2**2 + 5**2) ** 0.5), abs=1e-4)


def test_the_published_range_pulls_samples_to_zero():
    released = {"sigma_min": 0.005, "sigma_max": 1.0, "sigma_data": 0.5, "sampler": "dpmpp_2m"}
    assert moments(0.5, 0.3, num_inference_steps=100, **released)[0] == pytest.approx(0.356, abs=1e-3)
    assert moments(0.5, 0.3, num_inference_steps=100, sampler="dpmpp_2m")[0] > 0.465


def test_the_start_has_the_spread_of_noisy_data():
    policy = tiny_beso(sigma_data=0.4)
    assert policy.path.prior_std == pytest.approx((5.0**2 + 0.4**2) ** 0.5)


def test_the_spread_of_the_data_is_measured_on_channels_that_move():
    still = FeatureStats((-1.0, 2.0, 0.0), (1.0, 2.0, 4.0), (0.5, 2.0, 2.0), (0.25, 0.0, 1.0), 10)
    policy = tiny_beso(stats={ACTION: still}, space=ActionSpace(3))
    # Channel 0: 0.5^2 + 0.25^2; channel 1 is constant; channel 2: mean at the centre, deviation half of its scale.
    assert policy.sigma_data == pytest.approx(((0.5**2 + 0.25**2 + 0.5**2) / 2) ** 0.5)
    kinds = (ChannelKind.EUCLIDEAN, ChannelKind.EUCLIDEAN, ChannelKind.PADDING)
    padded = tiny_beso(stats={ACTION: still}, space=ActionSpace(3, kinds=kinds))
    assert padded.sigma_data == pytest.approx((0.5**2 + 0.25**2) ** 0.5)
    assert tiny_beso(sigma_data=0.7).sigma_data == 0.7


def test_the_network_sees_and_learns_numbers_of_unit_size():
    policy = tiny_beso(sigma_data=0.5)
    generator = torch.Generator().manual_seed(0)
    x0 = 0.5 * torch.randn(4000, 16, 2, generator=generator)
    noise = policy.draw_training_noise(4000, generator)
    z = policy.path.add_noise(x0, noise["eps"], noise["t"])
    assert float(policy.precondition.enter(z, noise["t"]).std()) == pytest.approx(1.0, abs=0.01)
    assert float(policy.precondition.target(x0, noise["eps"], z, noise["t"]).std()) == pytest.approx(1.0, abs=0.01)
    assert float(policy.precondition.label(noise["t"]).abs().max()) < 1.0


# ------------------------------------------------------------------------------------------------------- goals


def test_goals_change_the_chunk_and_guidance_zero_reads_none():
    for backbone in ("gpt", "transformer", "unet"):
        policy = awake(tiny_beso(backbone=backbone, goal_keys=(STATE,)))
        obs = random_observation(policy, 2)
        far = {**obs, GOAL_STATE: -obs[GOAL_STATE]}
        keys = [(0,), (1,)]
        assert not np.array_equal(policy.act(obs, keys).actions, policy.act(far, keys).actions)
        policy.set_sampler(guidance=0)
        assert GOAL_STATE not in policy.observation_spec
        assert np.array_equal(policy.act(obs, keys).actions, policy.act({STATE: obs[STATE]}, keys).actions)


def test_guidance_extrapolates_from_the_estimate_without_goal():
    policy = awake(tiny_beso(goal_keys=(STATE,)))
    obs = random_observation(policy, 2)
    z, t = torch.randn(2, 16, 2), torch.tensor(0.5)
    with torch.no_grad():
        ctx = policy.encode(obs)
        with_goal = policy.predict(ctx, z, t).x0
        policy.set_sampler(guidance=0)
        without = policy.predict(policy.encode(obs), z, t).x0
        policy.set_sampler(guidance=1.5)
        blended = policy.predict(ctx, z, t)
        each = policy.predict(ctx, z, t.expand(2))
    assert float((with_goal - without).abs().max()) > 1e-3
    torch.testing.assert_close(blended.x0, without + 1.5 * (with_goal - without))
    torch.testing.assert_close(each.x0, blended.x0)
    torch.testing.assert_close(each.kappa, t.expand(2))


@pytest.mark.parametrize(("guidance", "rows"), [(0.0, 3), (1.0, 3), (1.5, 6)])
@pytest.mark.parametrize("backbone", ["gpt", "unet"])
def test_a_query_is_one_call_of_the_network(backbone, guidance, rows):
    policy = tiny_beso(backbone=backbone, goal_keys=(STATE,), guidance=guidance)
    seen: list[int] = []
    name = "forward_cached" if hasattr(policy.net, "forward_cached") else "forward"
    original = getattr(policy.net, name)
    setattr(policy.net, name, lambda x, *rest: (seen.append(len(x)), original(x, *rest))[1])
    policy.act(random_observation(policy, 3))
    assert seen == [rows] * 3


def test_blending_takes_away_the_claim_to_be_a_mean():
    policy = tiny_beso(goal_keys=(STATE,))
    assert Cap.MEAN_DENOISER in policy.caps
    policy.set_sampler(guidance=1.5)
    assert Cap.MEAN_DENOISER not in policy.caps
    policy.set_sampler(guidance=0)
    assert Cap.MEAN_DENOISER in policy.caps
    assert Cap.MEAN_DENOISER in tiny_beso(guidance=1.5).caps  # no goals, nothing to blend


def test_a_missing_goal_is_named_with_the_way_out():
    policy = tiny_beso(goal_keys=(STATE,))
    with pytest.raises(InvalidObservation, match=r"missing key 'goal\.observation\.state'.*guidance=0"):
        policy.act({STATE: random_observation(policy, 1)[STATE]})


def test_goals_are_normalised_like_what_they_mirror():
    policy = awake(tiny_beso(goal_keys=(STATE,)))
    tenfold = tiny_beso(goal_keys=(STATE,), stats={STATE: unit_stats(3, 10.0)})
    own = tenfold.normalizer.state_dict()
    tenfold.load_state_dict({**policy.state_dict(), **{f"normalizer.{k}": v for k, v in own.items()}})
    obs = random_observation(policy, 2)
    there = tenfold.act({k: v * 10 for k, v in obs.items()}, [(0,), (1,)]).actions
    np.testing.assert_allclose(there, policy.act(obs, [(0,), (1,)]).actions, atol=1e-5)


def test_what_a_goal_does_not_show_is_zero():
    policy = tiny_beso(cameras=CAMERAS, goal_keys=(FRONT,))
    goal = policy.encode(random_observation(policy, 2)).extras["goal"].detach()
    width = TINY_ENCODER.image.feature_dim
    assert goal.shape == (2, 1, policy.encoder.step_dim)
    assert float(goal[..., :width].abs().min()) > 0
    assert float(goal[..., width:].abs().max()) == 0


def test_an_image_goal_equal_to_the_observation_has_its_features():
    policy = tiny_beso(cameras=CAMERAS, goal_keys=(FRONT, STATE)).train()
    obs = random_observation(policy, 2)
    seen = {**obs, GOAL + FRONT: obs[FRONT][:, -1:], GOAL_STATE: obs[STATE][:, -1:]}
    noise = policy.draw_training_noise(2)
    features = policy._encode(policy.checker.check(seen), policy._crops(noise))
    assert features.tokens is not None
    shown = torch.ones(policy.encoder.step_dim, dtype=torch.bool)
    shown[8:16] = False  # the wrist camera
    torch.testing.assert_close(features.extras["goal"][:, 0, shown], features.tokens[:, -1, shown])


def loss_of(policy: BesoPolicy, batch: dict[str, Any], noise: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return policy.loss(batch, noise)[0]


def test_hidden_and_missing_goals_cost_what_no_goal_costs():
    policy = awake(tiny_beso(goal_keys=(STATE,), goal_dropout=0.25))
    batch = random_batch(policy, 4)
    noise = policy.draw_training_noise(4, torch.Generator().manual_seed(0))
    noise[GOAL_DROP] = torch.tensor([0.2, 0.3, 0.9, 0.24])
    assert batch[GOAL_IS_PAD].tolist() == [False, True, False, False]
    plain = loss_of(policy, batch, noise)
    policy.set_sampler(guidance=0)
    without = loss_of(policy, {k: v for k, v in batch.items() if GOAL not in k}, noise)
    assert (plain == without).tolist() == [True, True, False, True]


def test_the_goal_is_hidden_from_whole_samples_in_the_right_share():
    policy = tiny_beso(goal_keys=(STATE,), goal_steps=2, goal_dropout=0.1)
    seen: dict[str, Tensor] = {}

    class Watch(nn.Module):
        cond_kind = "tokens"

        def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            seen["goal"] = cond[:, :2]
            return x

    policy.net = Watch()
    n = 20_000
    goal = torch.ones(n, 2, 3)
    noise = policy.draw_training_noise(n, torch.Generator().manual_seed(0))
    features = Features(tokens=torch.ones(n, 2, 3), extras={"goal": goal})
    policy.head_loss(features, torch.zeros(n, 16, 2), None, noise)
    hidden = (seen["goal"] == 0).flatten(1)
    assert torch.equal(hidden.all(1), hidden.any(1))
    assert float(hidden.all(1).float().mean()) == pytest.approx(0.1, abs=4 * (0.09 / n) ** 0.5)


def test_needs_follow_the_goals():
    policy = tiny_beso(goal_keys=(STATE,), goal_steps=3)
    assert policy.needs.goal_steps == 3
    policy.set_sampler(guidance=0)
    assert policy.needs.goal_steps == 0
    assert tiny_beso().needs.goal_steps == 0


# ----------------------------------------------------------------------------------------------------- learning


@pytest.mark.slow
def test_one_network_learns_to_follow_goals_and_to_act_without():
    """Actions go where the goal lies, left or right; without a goal both are right, and nothing in between."""
    policy = tiny_beso(
        goal_keys=(STATE,),
        goal_dropout=0.25,
        n_obs_steps=1,
        horizon=2,
        n_action_steps=1,
        gpt=GPTConfig(n_layer=2, n_head=2, n_emb=32, p_drop_attn=0.0),
    ).train()
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(policy.optim_groups(4e-3, 0.0))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for _ in range(400):
        side = torch.randint(2, (128, 1, 1), generator=generator) - 0.5
        obs = {STATE: torch.zeros(128, 1, 3), GOAL_STATE: side.expand(128, 1, 3)}
        target = side + 0.05 * torch.randn(128, 2, 2, generator=generator)
        optimizer.zero_grad()
        policy.supervised_loss(obs, target, noise=policy.draw_training_noise(128, generator)).mean().backward()
        optimizer.step()
        schedule.step()
    policy.eval()
    sides = np.repeat([-0.5, 0.5], 50).astype(np.float32).reshape(100, 1, 1)
    obs = {STATE: np.zeros((100, 1, 3), np.float32), GOAL_STATE: np.repeat(sides, 3, axis=2)}
    keys = [(i,) for i in range(100)]
    for guidance in (1.0, 1.5):
        policy.set_sampler(guidance=guidance, num_inference_steps=3)
        off = np.abs(policy.act(obs, keys).actions - sides)
        assert off.mean() < 0.06
        assert (off < 0.2).mean() > 0.95
    policy.set_sampler(guidance=0, num_inference_steps=5)
    free = policy.act({STATE: obs[STATE]}, keys).actions[:, 0, 0]
    assert 0.25 < (free > 0).mean() < 0.75
    assert (np.abs(np.abs(free) - 0.5) < 0.2).mean() > 0.7


# ---------------------------------------------------------------------------------------- the paper's configurations


PAPER = yaml.safe_load(resource("policies/beso/paper.yaml").read_text())


@pytest.mark.parametrize("name", list(PAPER["variants"]))
def test_published_configurations_build_published_networks(name):
    variant = PAPER["variants"][name]
    state, action = variant["observation"]["state"], variant["action"]
    stats = {STATE: unit_stats(state), ACTION: unit_stats(action)}
    with torch.device("meta"):
        policy = make_policy(policy_config(variant["policy"]), tiny_spec(state), ActionSpace(action), 10.0, stats)
    assert isinstance(policy, BesoPolicy)
    assert sum(p.numel() for p in policy.net.parameters()) == variant["parameters"]["network"]
    assert policy.needs.goal_steps == variant["policy"]["goal_steps"]
    assert policy.tape_len == 0


# ------------------------------------------------------------------------------------------------ what it refuses


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma_min": 1.0, "sigma_max": 0.5}, "sigma_min < sigma_max"),
        ({"sigma_data": 0.0}, "sigma_data must be > 0"),
        ({"goal_dropout": 1.5}, "goal_dropout must be a share"),
        ({"guidance": -1.0}, "guidance must be"),
        ({"goal_steps": 0}, "goal_steps must be >= 1"),
        ({"num_inference_steps": 0}, "num_inference_steps must be >= 1"),
        ({"goal_keys": ("observation.stat",)}, "did you mean 'observation.state'"),
        ({"goal_keys": (STATE, STATE)}, "names a key twice"),
        ({"gpt": {"n_emb": 30, "n_head": 4}}, "must be a multiple of n_head"),
        ({"backbone": "unet", "horizon": 15, "n_action_steps": 8}, "must be a multiple of 2"),
    ],
)
def test_options_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        tiny_beso(**changes)


def test_goals_must_be_states_or_images():
    from robopolicy.core.specs import goal_of

    spec = ObservationSpec((FeatureSpec("observation.depth.front", (1, 8, 8), FeatureKind.DEPTH),))
    with pytest.raises(ConfigError, match="a goal is a state or an image"):
        goal_of(spec["observation.depth.front"])
