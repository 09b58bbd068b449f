"""DDPM: single steps and diffusers parity (``fixed_small`` and ``fixed_large``)."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler

from robopolicy.core.errors import ConfigError
from robopolicy.paths import VPDiscrete
from robopolicy.samplers.ddim import DDIM
from robopolicy.samplers.ddpm import DDPM
from robopolicy.testing.teachers import MixtureTeacher

PATH = VPDiscrete.make()
# t, posterior mean, posterior std from z = 0.5, eps = 0.3, clipping at 1
STEPS = [
    (99, 0.031376, 0.999379),
    (75, 0.494764, 0.271610),
    (50, 0.494764, 0.174941),
    (10, 0.492269, 0.068096),
    (1, 0.492262, 0.020087),
]


@pytest.mark.parametrize(("t", "mean", "std"), STEPS)
def test_single_step_table(step, t, mean, std):
    got = step(DDPM(), PATH, t, t - 1, 0.5, 0.3)
    assert got == pytest.approx(mean, abs=4e-6)  # the table is float32; its t = 1 row is off by 2.7e-6
    assert step(DDPM(), PATH, t, t - 1, 0.5, 0.3, noise=1.0) - got == pytest.approx(std, abs=1e-6)


def test_last_step_is_the_clean_estimate_without_noise(step):
    assert step(DDPM(), PATH, 0, None, 0.5, 0.3) == pytest.approx(0.492618, abs=1e-6)
    assert DDPM().tape_len(100) == 99


@pytest.mark.parametrize(("t", "x0"), [(99, 405.84), (75, 0.604159), (50, 0.409659), (10, 0.452869), (1, 0.487886)])
def test_unclipped_clean_estimates(step, t, x0):
    assert step(DDPM(clip=None), PATH, t, None, 0.5, 0.3) == pytest.approx(x0, rel=2e-6)


@pytest.mark.parametrize(("t", "variance"), [(1, 4.0349e-4), (50, 0.0306044), (99, 0.9987576)])
def test_posterior_variances(step, t, variance):
    std = step(DDPM(), PATH, t, t - 1, 0.0, 0.0, noise=1.0) - step(DDPM(), PATH, t, t - 1, 0.0, 0.0)
    assert std**2 == pytest.approx(variance, rel=1e-4)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("t", [1, 30, 75, 99])
def test_noise_has_the_std_of_diffusers(step, variance, t):
    scheduler = DDPMScheduler(100, beta_schedule="squaredcos_cap_v2", variance_type=variance)
    scheduler.set_timesteps(100)
    want = scheduler._get_variance(torch.tensor(t)).sqrt().item()
    sampler = DDPM(variance=variance)
    got = step(sampler, PATH, t, t - 1, 0.5, 0.3, noise=1.0) - step(sampler, PATH, t, t - 1, 0.5, 0.3)
    assert got == pytest.approx(want, abs=1e-5)


def test_equals_ddim_with_full_noise_and_rederived_direction():
    times = PATH.grid(12, "trailing")
    z, tape = torch.randn(3, 4, 2, dtype=torch.float64), torch.randn(3, 11, 4, 2, dtype=torch.float64)
    teacher = MixtureTeacher(PATH, (-0.9, 0.7), (0.4, 0.6), 0.3)
    for clip in (None, 0.5):
        a = DDPM(clip=clip)(teacher, PATH, times, z, tape)
        b = DDIM(clip=clip, eta=1.0, rederive_eps=True)(teacher, PATH, times, z, tape)
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0)


def test_unknown_variance_is_refused():
    with pytest.raises(ConfigError, match="fixed_small, fixed_large"):
        DDPM(variance="learned")
