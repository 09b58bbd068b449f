"""Samples of known distributions: 20,000 draws, statistics within three standard errors of the exact ones."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from robopolicy.paths import VE, GaussianPath, Kind, LinearFlow, VPDiscrete, canonical
from robopolicy.samplers import make_sampler
from robopolicy.testing.teachers import GaussianTeacher, MixtureTeacher

N = 20_000
COSINE, LONG, FLOW, EXPLODING = VPDiscrete.make(), VPDiscrete.make(num_train_steps=1000), LinearFlow(1), VE(0.002, 80)
# enough steps that the discretisation is well below three standard errors
CASES = [
    ("ddpm", LONG, "trailing", 1000),
    ("ancestral", LONG, "trailing", 1000),
    ("ddim", LONG, "trailing", 500),
    ("euler", FLOW, "linear", 400),
    ("heun", EXPLODING, "karras", 120),
    ("dpmpp_2m", EXPLODING, "karras", 150),
    ("dpmpp_2m", FLOW, "linear", 100),
]


def draw(name: str, path: GaussianPath, spacing: str, steps: int, teacher) -> Tensor:
    torch.manual_seed(4)
    z = path.prior_std * torch.randn(N, 1, 1)
    return make_sampler(name, clip=None)(teacher, path, path.grid(steps, spacing), z).flatten()


@pytest.mark.parametrize(("name", "path", "spacing", "steps"), CASES)
def test_gaussian_target(name, path, spacing, steps):
    m, s = 0.3, 0.4
    x = draw(name, path, spacing, steps, GaussianTeacher(path, m, s))
    assert abs(x.mean().item() - m) < 3 * s / math.sqrt(N)
    assert abs(x.var().item() - s**2) < 3 * s**2 * math.sqrt(2 / N)


@pytest.mark.parametrize(("name", "path", "spacing", "steps"), CASES)
def test_two_mode_target(name, path, spacing, steps):
    """Weights 0.3 and 0.7 at -0.7 and 0.6, width 0.15: share, centre and spread of each mode."""
    x = draw(name, path, spacing, steps, MixtureTeacher(path, (-0.7, 0.6), (0.3, 0.7), 0.15))
    for mode, weight, centre in ((x[x < 0], 0.3, -0.7), (x[x >= 0], 0.7, 0.6)):
        assert abs(len(mode) / N - weight) < 3 * math.sqrt(0.21 / N)
        assert abs(mode.mean().item() - centre) < 3 * 0.15 / math.sqrt(len(mode))
        assert abs(mode.var().item() - 0.15**2) < 3 * 0.15**2 * math.sqrt(2 / len(mode))


@pytest.mark.parametrize("kind", Kind)
def test_a_head_of_any_kind_samples_the_same(kind):
    teacher = MixtureTeacher(COSINE, (-0.7, 0.6), (0.3, 0.7), 0.15)
    z = torch.randn(50, 4, 2, dtype=torch.float64)
    times = COSINE.grid(10, "trailing")

    def denoise(z: Tensor, t: Tensor):
        return canonical(kind, teacher.output(kind, z, t), z, COSINE, t)

    want = make_sampler("ddim")(teacher, COSINE, times, z)
    torch.testing.assert_close(make_sampler("ddim")(denoise, COSINE, times, z), want, atol=1e-5, rtol=0)


def test_paths_agree_on_where_a_latent_ends():
    """The probability-flow ODE in EDM coordinates is the same for every path: so are its ends, at matched levels."""
    ends = []
    for path in (COSINE, FLOW, EXPLODING):
        teacher = MixtureTeacher(path, (-0.7, 0.6), (0.3, 0.7), 0.25)
        levels = COSINE.kappa(torch.arange(97, -1, -1)).double()
        times = path.t_of_kappa(levels)[0]
        alpha = float(path.levels([times[0].item()])[0][0])
        y = levels[0] * torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(9, 1, 1)
        ends.append(make_sampler("dpmpp_2m", clip=None)(teacher, path, times, alpha * y))
    torch.testing.assert_close(ends[0], ends[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(ends[0], ends[2], atol=1e-5, rtol=0)
