"""Published mean and spread of samplers on Gaussian and single-point data, propagated exactly."""

from __future__ import annotations

import pytest
import torch

from robopolicy.paths import VE, LinearFlow, VPDiscrete
from robopolicy.samplers import make_sampler
from robopolicy.samplers.ddim import DDIM
from robopolicy.samplers.ddpm import DDPM
from robopolicy.testing.teachers import GaussianTeacher

PATH = VPDiscrete.make()
# sampler, steps, spacing, mean, std (optimal epsilon network, start N(0, 1), no clipping)
WIDE = [
    ("ddpm", 100, "leading", 0.300000, 0.185367),
    ("ddim", 100, "leading", 0.299971, 0.193073),
    ("ddim", 50, "leading", 0.299122, 0.187867),
    ("ddim", 20, "leading", 0.296763, 0.173220),
    ("ddim", 16, "leading", 0.292881, 0.169750),
    ("ddim", 10, "leading", 0.293647, 0.151480),
    ("ddim", 8, "leading", 0.289889, 0.145502),
    ("ddim", 5, "leading", 0.289635, 0.118409),
    ("ddim", 4, "leading", 0.288256, 0.107143),
    ("ddim", 2, "leading", 0.282698, 0.083393),
    ("ddim", 16, "trailing", 0.299976, 0.161736),
    ("ddim", 10, "trailing", 0.299979, 0.140602),
    ("ddim", 8, "trailing", 0.299981, 0.129901),
    ("ddim", 5, "trailing", 0.299986, 0.097346),
    ("ddim", 4, "trailing", 0.299988, 0.081818),
]
NARROW = [
    ("ddpm", 100, "leading", 0.90000, 0.03911),
    ("ddim", 16, "leading", 0.89579, 0.03348),
    ("ddim", 10, "leading", 0.89625, 0.02977),
    ("ddim", 8, "leading", 0.89394, 0.02906),
    ("ddim", 4, "leading", 0.89140, 0.02615),
    ("ddim", 10, "trailing", 0.89999, 0.01398),
]


def moments(affine, name, steps, spacing, mean, std) -> tuple[float, float]:
    teacher = GaussianTeacher(PATH, mean, std)
    got = affine(make_sampler(name, clip=None), teacher, PATH, PATH.grid(steps, spacing))
    return got[0].item(), got[1:].square().sum().sqrt().item()


@pytest.mark.parametrize(("name", "steps", "spacing", "mean", "std"), WIDE)
def test_wide_gaussian(affine, name, steps, spacing, mean, std):
    assert moments(affine, name, steps, spacing, 0.3, 0.2) == pytest.approx((mean, std), abs=1e-6)


@pytest.mark.parametrize(("name", "steps", "spacing", "mean", "std"), NARROW)
def test_narrow_gaussian(affine, name, steps, spacing, mean, std):
    assert moments(affine, name, steps, spacing, 0.9, 0.05) == pytest.approx((mean, std), abs=1e-5)


@pytest.mark.parametrize("point", [-1.0, 0.0, 0.73])
@pytest.mark.parametrize("sampler", [DDPM(), DDIM(), DDIM(eta=0.7), DDIM(rederive_eps=True)])
def test_single_point_data_is_returned_for_every_step_count(sampler, point):
    teacher = GaussianTeacher(PATH, point, 0.0)
    generator = torch.Generator().manual_seed(0)
    for n in range(1, 101):
        z = torch.randn(2, 3, 1, generator=generator)
        tape = torch.randn(2, sampler.tape_len(n), 3, 1, generator=generator)
        out = sampler(teacher, PATH, PATH.grid(n, "leading"), z, tape)
        assert (out - point).abs().max().item() < 1e-5


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpmpp_2m", "heun", "euler", "ancestral"])
@pytest.mark.parametrize(
    ("path", "spacing"),
    [(VE(0.002, 80), "karras"), (LinearFlow(1), "linear"), (LinearFlow(0), "linear"), (PATH, "trailing")],
)
def test_single_point_data_is_returned_on_every_path_by_every_sampler(name, path, spacing):
    teacher = GaussianTeacher(path, 0.4, 0.0)
    z = path.prior_std * torch.randn(4, 3, 2)
    for n in (1, 2, 3, 7, 30):
        out = make_sampler(name)(teacher, path, path.grid(n, spacing), z)
        torch.testing.assert_close(out, torch.full_like(out, 0.4), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpmpp_2m", "heun", "euler", "ancestral"])
@pytest.mark.parametrize(
    ("path", "spacing", "steps"),
    [(VE(0.002, 80), "karras", 80), (LinearFlow(1), "linear", 100), (PATH, "trailing", 100)],
)
def test_many_steps_reach_the_data_moments(affine, name, path, spacing, steps):
    got = affine(
        make_sampler(name, clip=None),
        GaussianTeacher(path, -0.2, 0.5),
        path,
        path.grid(steps, spacing).double() if not path.discrete else path.grid(steps, spacing),
    )
    assert got[0].item() == pytest.approx(-0.2, abs=2e-3)
    assert got[1:].square().sum().sqrt().item() == pytest.approx(
        0.5, rel=0.08
    )  # first-order stochastic samplers under-disperse
