"""Variance-preserving schedules against published numbers and diffusers."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from diffusers import DDPMScheduler

from robopolicy.core.errors import ConfigError
from robopolicy.paths import LinearFlow, VPDiscrete

# t, beta_t, alpha_bar_t of the squared-cosine schedule with T = 100 (Diffusion Policy)
COSINE = [
    (0, 0.00063128, 0.99936873),
    (1, 0.00111694, 0.99825251),
    (10, 0.00553037, 0.96671665),
    (25, 0.01344914, 0.83562052),
    (50, 0.03154634, 0.47826457),
    (75, 0.07470115, 0.13349481),
    (84, 0.11887685, 0.05365923),
    (90, 0.18875144, 0.01954437),
    (95, 0.35953343, 0.00388100),
    (98, 0.74993926, 0.00024286),
    (99, 0.99900001, 2.4e-7),
]
KAPPA = [
    (0, 0.025133),
    (10, 0.185551),
    (25, 0.443526),
    (50, 1.044458),
    (75, 2.547730),
    (90, 7.082769),
    (98, 64.161091),
    (99, 2029.198023),
]
# flow fraction s, kappa, nearest t, log kappa_t - log kappa, s / sigma_t
NEAREST = [
    (0.9, 9.0000, 92, 0.0144, 0.9054),
    (0.8, 4.0000, 83, -0.0184, 0.8255),
    (0.7, 2.3333, 73, -0.0008, 0.7617),
    (0.6, 1.5000, 61, -0.0091, 0.7231),
    (0.5, 1.0000, 49, 0.0123, 0.7028),
    (0.4, 0.6667, 36, 0.0020, 0.7201),
    (0.3, 0.4286, 24, -0.0084, 0.7670),
    (0.2, 0.2500, 14, 0.0039, 0.8216),
    (0.1, 0.1111, 5, -0.0507, 0.9520),
]


@pytest.fixture(scope="module")
def cosine() -> VPDiscrete:
    return VPDiscrete.make("squaredcos_cap_v2", 100)


@pytest.mark.parametrize(("t", "beta", "alpha_bar"), COSINE)
def test_cosine_table(cosine, t, beta, alpha_bar):
    assert cosine.betas[t].item() == pytest.approx(beta, abs=1e-6)
    assert cosine.alpha_bar[t].item() == pytest.approx(alpha_bar, abs=1e-6)


@pytest.mark.parametrize(("t", "kappa"), KAPPA)
def test_cosine_noise_ratios(cosine, t, kappa):
    alpha, sigma = cosine.levels([t])
    assert sigma[0] / alpha[0] == pytest.approx(kappa, rel=2e-5)
    assert cosine.kappa(torch.tensor(t)).item() == pytest.approx(kappa, rel=2e-5)


@pytest.mark.parametrize("schedule", ["squaredcos_cap_v2", "linear", "scaled_linear"])
@pytest.mark.parametrize("steps", [20, 100, 1000])
def test_schedules_equal_diffusers(schedule, steps):
    ours = VPDiscrete.make(schedule, steps, 1e-4, 2e-2)
    theirs = DDPMScheduler(steps, beta_start=1e-4, beta_end=2e-2, beta_schedule=schedule)
    assert (ours.betas - theirs.betas.double()).abs().max().item() < 1e-7
    # theirs is a float32 product: equal when ours is accumulated the same way, and near the exact one
    assert (torch.cumprod(1 - ours.betas.float(), 0) - theirs.alphas_cumprod).abs().max().item() < 1e-7
    assert (ours.alpha_bar - theirs.alphas_cumprod.double()).abs().max().item() < 1e-6


def test_scaled_linear_never_reaches_pure_noise():
    path = VPDiscrete.make("scaled_linear", 100)
    assert path.alpha_bar[99].item() == pytest.approx(0.4846, abs=5e-5)
    assert path.kappa(torch.tensor(99)).item() == pytest.approx(1.0313, abs=5e-5)


def test_coefficients_lie_on_the_circle_and_noise_grows(cosine):
    t = torch.arange(100)
    a, s = cosine.alpha(t), cosine.sigma(t)
    torch.testing.assert_close(a**2 + s**2, torch.ones(100))
    assert bool((cosine.kappa(t).diff() > 0).all())
    assert a.dtype == torch.float32


@pytest.mark.parametrize(("s", "kappa", "t", "dlog", "c"), NEAREST)
def test_nearest_grid_table(cosine, s, kappa, t, dlog, c):
    flow = LinearFlow(noise_at=1)
    wanted = flow.kappa(torch.tensor(s, dtype=torch.float64))
    assert wanted.item() == pytest.approx(kappa, abs=5e-5)
    found, distance = cosine.t_of_kappa(wanted)
    assert found.item() == t
    assert distance.item() == pytest.approx(abs(dlog), abs=5e-5)
    assert math.log(cosine.kappa(found).item() / wanted.item()) == pytest.approx(dlog, abs=5e-5)
    assert s / cosine.sigma(found).item() == pytest.approx(c, abs=5e-5)


@pytest.mark.parametrize(("t", "gap"), [(50, 0.031), (90, 0.119), (97, 0.69), (98, 3.45)])
def test_log_spacing_of_the_grid(cosine, t, gap):
    pair = cosine.kappa(torch.tensor([t, t + 1])).log()
    assert (pair[1] - pair[0]).item() == pytest.approx(gap, rel=0.02)


def test_all_levels_beyond_fifty_are_pure_noise(cosine):
    found, distance = cosine.t_of_kappa(torch.tensor([60.0, 500.0, 1e6, float("inf")]))
    assert found.tolist() == [98, 99, 99, 99]
    assert distance.tolist() == [0, 0, 0, 0]
    _, far = VPDiscrete.make("scaled_linear").t_of_kappa(torch.tensor(float("inf")))
    assert far.item() == float("inf")


def test_every_grid_level_is_its_own_nearest(cosine):
    t = torch.arange(100)
    found, distance = cosine.t_of_kappa(cosine.kappa(t))
    torch.testing.assert_close(found, t)
    assert distance.max().item() < 1e-4


def test_add_noise_takes_one_time_a_row(cosine):
    x0, eps = torch.randn(3, 4, 2), torch.randn(3, 4, 2)
    t = torch.tensor([0, 50, 99])
    z = cosine.add_noise(x0, eps, t)
    scheduler = DDPMScheduler(100, beta_schedule="squaredcos_cap_v2")
    torch.testing.assert_close(z, scheduler.add_noise(x0, eps, t), atol=1e-6, rtol=0)
    torch.testing.assert_close(z[1:2], cosine.add_noise(x0[1:2], eps[1:2], torch.tensor(50)))


def test_paths_can_be_copied_with_a_policy(cosine):
    cosine.alpha(torch.tensor(3))
    twin = copy.deepcopy(cosine)
    torch.testing.assert_close(twin.alpha_bar, cosine.alpha_bar)


def test_bad_schedules_are_refused():
    with pytest.raises(ConfigError, match="did you mean 'scaled_linear'"):
        VPDiscrete.make("scaled_liner")
    with pytest.raises(ConfigError, match="num_train_steps must be >= 1"):
        VPDiscrete.make(num_train_steps=0)
    with pytest.raises(ConfigError, match="beta_start <= beta_end"):
        VPDiscrete.make("linear", 10, 0.1, 0.01)
    with pytest.raises(ConfigError, match="betas must be"):
        VPDiscrete([0.1, float("nan")])
    with pytest.raises(ConfigError, match=r"integers within 0\.\.99"):
        VPDiscrete.make().levels([100])
    with pytest.raises(ConfigError, match=r"integers within 0\.\.99"):
        VPDiscrete.make().levels([3.5])
