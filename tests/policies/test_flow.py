"""Flow head: both directions of time, laws of time, the loss floor, one-step identities, samplers, the contract."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import ACTION, STATE, ActionSpace
from robopolicy.nets.embeddings import sinusoid
from robopolicy.paths import Kind, LinearFlow
from robopolicy.paths.convert import canonical, target
from robopolicy.policies.flow import FlowPolicy
from robopolicy.policies.flow_config import FlowConfig
from robopolicy.policies.registry import make_policy
from robopolicy.policies.time_laws import make_time_law
from robopolicy.testing.check_policy import check_policy
from robopolicy.testing.teachers import GaussianFlow
from robopolicy.testing.tiny import (
    TINY_ENCODER,
    TINY_TRANSFORMER,
    TINY_UNET,
    random_batch,
    random_observation,
    tiny_spec,
    unit_stats,
)

TINY_DIT = {"n_layer": 2, "n_head": 2, "n_emb": 16, "step_embed_dim": 16}


def flow_policy(cameras=None, **changes) -> FlowPolicy:
    sizes = {"unet": TINY_UNET, "transformer": TINY_TRANSFORMER, "dit": TINY_DIT, "encoder": TINY_ENCODER}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = make_policy(
            FlowConfig(**{**sizes, "num_inference_steps": 4, **changes}),
            tiny_spec(3, cameras),
            ActionSpace(2, low=(-2.0, -2.0), high=(2.0, 2.0)),
            10.0,
            {STATE: unit_stats(3), ACTION: unit_stats(2)},
        )
    assert isinstance(policy, FlowPolicy)
    return policy.eval()


# ------------------------------------------------------------------------------------------------- contract


@pytest.mark.parametrize("backbone", ["unet", "transformer", "dit"])
def test_every_backbone_keeps_the_contract(backbone):
    check_policy(flow_policy({"front": (32, 32)}, backbone=backbone, time_law="beta"))


@pytest.mark.parametrize(("sampler", "calls"), [("euler", 4), ("midpoint", 8), ("heun", 8), ("rk4", 16), ("ddim", 4)])
def test_tabulated_decoding_equals_plain_queries_and_costs_what_it_says(sampler, calls):
    policy = flow_policy(sampler=sampler, time_law="beta")
    assert policy.denoiser_calls == calls
    obs = {k: torch.from_numpy(v) for k, v in random_observation(policy, 2).items()}
    latent, _ = policy.draw_latents(2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        ctx = policy.encode(obs)
        fast = policy.decode(ctx, latent)
    asked: list[float] = []
    policy.net.register_forward_pre_hook(lambda _, args: asked.append(float(args[1])))
    plain = policy.decode(policy.encode(obs), latent).detach()  # with gradients: no tables
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-4)
    assert len(asked) == calls
    assert max(asked) <= 100 * 0.999 * (1 + 1e-6)  # nothing beyond what the beta law trains
    if sampler in ("heun", "rk4"):
        assert max(asked) == pytest.approx(99.9)


# --------------------------------------------------------------------------------------- directions of time


def test_the_direction_of_time_changes_neither_chunks_nor_losses():
    one, two = flow_policy(noise_at=0), flow_policy(noise_at=1)
    two.load_state_dict(one.state_dict())
    obs, batch = random_observation(one, 3), random_batch(one, 3)
    keys = [(1, i) for i in range(3)]
    gap = abs(one.act(obs, keys).actions - two.act(obs, keys).actions).max()
    assert gap < 1e-5
    noises = [p.draw_training_noise(3, torch.Generator().manual_seed(0)) for p in (one, two)]
    torch.testing.assert_close(noises[0]["t"], 1 - noises[1]["t"])
    losses = [p.loss(batch, n)[0] for p, n in zip((one, two), noises, strict=True)]
    torch.testing.assert_close(*losses)


def test_a_swapped_sign_is_caught():
    """Only the sign of the velocity, without the direction of time: chunks change and the loss is not the floor's."""
    policy, swapped = flow_policy(), flow_policy()
    swapped.precondition.sign = -1.0
    obs = random_observation(policy, 2)
    keys = [(1, 0), (1, 1)]
    assert abs(policy.act(obs, keys).actions - swapped.act(obs, keys).actions).max() > 0.05


@pytest.mark.parametrize("noise_at", [0, 1])
def test_velocity_and_state_give_back_the_pair(noise_at):
    path = LinearFlow(noise_at)
    a, e = torch.randn(5, 4, 2), torch.randn(5, 4, 2)
    t = torch.rand(5)
    z = path.add_noise(a, e, t)
    sign = 1 if noise_at == 0 else -1
    velocity = target(Kind.VELOCITY, a, e, path, t)
    torch.testing.assert_close(velocity, sign * (a - e))
    back = canonical(Kind.VELOCITY, velocity, z, path, t)
    torch.testing.assert_close(back.x0, a)
    torch.testing.assert_close(back.eps, e)


# ----------------------------------------------------------------------------------------------- time laws


def test_the_beta_law_has_its_published_statistics():
    s = make_time_law("beta").draw(200_000, torch.Generator().manual_seed(0)).double()
    u = ((s - 0.001) / 0.999).sort().values
    empirical = (torch.arange(len(u)) + 0.5) / len(u)
    assert float((u**1.5 - empirical).abs().max()) < 1.63 / math.sqrt(len(u))  # Kolmogorov-Smirnov at 1 %
    assert float(s.mean()) == pytest.approx(0.6004, abs=2e-3)
    assert float(s.median()) == pytest.approx(0.63033, abs=3e-3)
    assert float((s > 0.5).double().mean()) == pytest.approx(0.64698, abs=4e-3)
    assert s.quantile(torch.tensor([0.05, 0.95]).double()).tolist() == pytest.approx([0.137, 0.966], abs=3e-3)
    assert float(s.min()) >= 0.001


@pytest.mark.parametrize("name", ["uniform", "logit_normal"])
def test_the_other_laws_follow_their_distribution(name):
    s = make_time_law(name).draw(100_000, torch.Generator().manual_seed(1)).double().sort().values
    exact = s if name == "uniform" else torch.special.ndtr(torch.logit(s))
    empirical = (torch.arange(len(s)) + 0.5) / len(s)
    assert float((exact - empirical).abs().max()) < 1.63 / math.sqrt(len(s))


@pytest.mark.parametrize(("name", "options"), [("betta", {}), ("beta", {"power": -1.0}), ("uniform", {"power": 1.0})])
def test_wrong_laws_are_refused(name, options):
    with pytest.raises(ConfigError, match="law"):
        make_time_law(name, **options)


# ---------------------------------------------------------------------------------------- training floors

BETA_FLOORS = {0.1: 0.0799468, 0.3: 0.3496385, 0.5: 0.6742185, 1.0: 1.5905669}


@pytest.mark.parametrize(("std", "floor"), BETA_FLOORS.items())
def test_the_floor_under_the_beta_law(std, floor):
    s = make_time_law("beta").quantile((torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000)
    assert float((std**2 / ((1 - s) ** 2 * std**2 + s**2)).mean()) == pytest.approx(floor, rel=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("noise_at", [0, 1])
def test_a_trained_network_nears_the_floor_from_above(noise_at):
    """Spec 10.3 for ``std = 0.5`` and uniform times: the least loss is ``std pi / 2``."""
    path, std, generator = LinearFlow(noise_at), 0.5, torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 48), nn.Mish(), nn.Linear(48, 48), nn.Mish(), nn.Linear(48, 1))
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)

    def loss(n: int) -> Tensor:
        a, e = std * torch.randn(n, 1, 1, generator=generator), torch.randn(n, 1, 1, generator=generator)
        t = torch.rand(n, generator=generator)
        z = path.add_noise(a, e, t)
        out = net(torch.stack([z.flatten(), t], -1)).reshape(n, 1, 1)
        return (out - target(Kind.VELOCITY, a, e, path, t)).square().mean()

    for step in range(600):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / 600)
        optimizer.zero_grad()
        loss(512).backward()
        optimizer.step()
    with torch.no_grad():
        reached = float(loss(400_000))
    floor = std * math.pi / 2
    assert floor * 0.993 < reached < floor * 1.04


# ------------------------------------------------------------------------------------ one-step identities

FLOW = GaussianFlow(LinearFlow(0), 0.5, 0.1)


def at(x: float) -> Tensor:
    return torch.full((1, 1, 1), x, dtype=torch.float64)


def test_exact_flow_and_velocity_values():
    time = [torch.tensor(t, dtype=torch.float64) for t in (0.0, 0.5)]
    assert FLOW.velocity(at(1.3), time[0]).item() == pytest.approx(-0.8)
    assert FLOW.velocity(at(0.9), time[1]).item() == pytest.approx(-0.7742574, abs=1e-7)
    assert FLOW.carried(at(1.3), 0.0, 0.5).item() == pytest.approx(0.9032419, abs=1e-7)
    assert FLOW.carried(at(1.3), 0.0, 1.0).item() == pytest.approx(0.63)


def test_shortcut_mean_flow_and_reflow_identities():
    def shortcut(x: Tensor, t: float, d: float) -> Tensor:
        return (FLOW.carried(x, t, t + d) - x) / d

    x = at(0.9)
    whole, half = shortcut(x, 0.2, 0.4), shortcut(x, 0.2, 0.2)
    assert whole.item() == pytest.approx(-0.4891284, abs=1e-7)
    assert (0.5 * (half + shortcut(x + 0.2 * half, 0.4, 0.2))).item() == pytest.approx(whole.item())

    def mean_flow(z: Tensor, r: Tensor, t: Tensor) -> Tensor:  # noise at 1, anchored at the noisier end
        return (z - FLOW.carried(z, 1 - t, 1 - r)) / (t - r)

    r, t, z = torch.tensor(0.2).double(), torch.tensor(0.7).double(), at(0.9)
    v = -FLOW.velocity(z, 1 - t)
    u, h = mean_flow(z, r, t), 1e-5  # du/dt along the flow by a central difference
    rate = (mean_flow(z + h * v, r, t + h) - mean_flow(z - h * v, r, t - h)) / (2 * h)
    assert u.item() == pytest.approx(0.5388378, abs=1e-7)
    assert v.item() == pytest.approx(0.5648808, abs=1e-7)
    assert (v - (t - r) * rate).item() == pytest.approx(u.item())
    one = mean_flow(at(1.3), torch.tensor(0.0).double(), torch.tensor(1.0).double())
    assert one.item() == pytest.approx(0.67)
    assert 1.3 - one.item() == pytest.approx(0.63)
    straight = 0.5 + (0.1 - 1) * (1.3 - 0)  # reflow's velocity at t = 0
    assert 1.3 + straight == pytest.approx(0.63)


# --------------------------------------------------------------------------------------------- embeddings


@pytest.mark.parametrize(
    ("gap", "raw", "hundred", "thousand"),
    [(0.01, 0.027, 2.64, 9.08), (0.1, 0.272, 9.05, 11.8), (0.5, 1.353, 11.1, 13.5)],
)
def test_scaled_times_are_told_apart(gap, raw, hundred, thousand):
    """Spec 6.1: distance of the embeddings of two times, 256 channels, averaged over the flow."""
    t = torch.linspace(0, 1 - gap, 200)
    for scale, want in ((1, raw), (99, hundred), (1000, thousand)):
        distance = (sinusoid(scale * t, 256) - sinusoid(scale * (t + gap), 256)).norm(dim=-1).mean()
        assert float(distance) == pytest.approx(want, rel=0.02)


def test_configurations_are_checked():
    assert dataclasses.replace(FlowConfig(), time_scale=1000.0).time_scale == 1000
    for changes, message in (
        ({"time_scale": 0.5}, "100 to 1000"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"noise_at": 2}, "noise_at"),
        ({"horizon": 10}, "multiple of 4"),
    ):
        with pytest.raises(ConfigError, match=message):
            FlowConfig(**changes)
