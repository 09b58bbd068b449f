"""DDIM: single steps, the decoder's closed form, and its place as Euler in EDM coordinates."""

from __future__ import annotations

import math

import pytest
import torch

from robopolicy.core.errors import ConfigError
from robopolicy.paths import VE, LinearFlow, VPDiscrete
from robopolicy.samplers.ddim import DDIM
from robopolicy.testing.teachers import GaussianTeacher, MixtureTeacher

PATH = VPDiscrete.make()


@pytest.mark.parametrize(
    ("t", "after", "want"), [(50, 49, 0.501318), (50, 40, 0.507666), (48, 36, 0.504359), (0, None, 0.492618)]
)
def test_single_step_table(step, t, after, want):
    assert step(DDIM(), PATH, t, after, 0.5, 0.3) == pytest.approx(want, abs=1e-6)


def test_clipping_keeps_the_direction_or_rederives_it(step):
    assert step(DDIM(), PATH, 50, 40, 2.0, -0.5) == pytest.approx(0.492206, abs=1e-6)
    assert step(DDIM(rederive_eps=True), PATH, 50, 40, 2.0, -0.5) == pytest.approx(1.893418, abs=1e-6)


def test_rederiving_changes_nothing_without_clipping():
    teacher = MixtureTeacher(PATH, (-0.9, 0.7), (0.4, 0.6), 0.3)
    z = torch.randn(3, 4, 2, dtype=torch.float64)
    a, b = (DDIM(clip=None, rederive_eps=r)(teacher, PATH, PATH.grid(10, "leading"), z) for r in (True, False))
    torch.testing.assert_close(a, b, atol=1e-9, rtol=0)


@pytest.mark.parametrize("path", [PATH, VPDiscrete.make("linear"), VE(0.01, 20), LinearFlow(1), LinearFlow(0)])
def test_is_euler_on_the_ode_in_edm_coordinates(path):
    """dy/dkappa = eps, whatever the schedule."""
    teacher = MixtureTeacher(path, (-0.9, 0.7), (0.4, 0.6), 0.3)
    spacing = "leading" if path.discrete else "karras" if isinstance(path, VE) else "linear"
    times = path.grid(10, spacing)
    times = times[1:] if isinstance(path, LinearFlow) else times  # kappa is infinite at pure noise
    alpha, sigma = path.levels(times.tolist())
    kappa = [*(sigma / alpha), 0.0]
    z = torch.randn(5, 3, 2, dtype=torch.float64)
    y = z / alpha[0]
    for i, t in enumerate(times):
        y = y + (kappa[i + 1] - kappa[i]) * teacher(alpha[i] * y, t).eps
    torch.testing.assert_close(DDIM(clip=None)(teacher, path, times, z), y, atol=1e-8, rtol=1e-8)


# n, spacing or explicit times, slope, offset for data N(0.3, 0.25)
DECODERS = [
    (list(range(99, -1, -1)), 0.4921, 0.29993),
    (list(range(84, -1, -12)), 0.4295, 0.2702),
    ([99, 86, 74, 62, 49, 37, 24, 12], 0.4090, 0.29994),
]


@pytest.mark.parametrize(("times", "slope", "offset"), DECODERS)
def test_decoder_closed_form(affine, times, slope, offset):
    """Latent to action is affine: a = m + (w/alpha_1 - m) prod (v + k_j k_{j+1}) / (v + k_j^2)."""
    m, v = 0.3, 0.25
    got = affine(DDIM(clip=None), GaussianTeacher(PATH, m, math.sqrt(v)), PATH, torch.tensor(times))
    alpha, sigma = PATH.levels(times)
    kappa = [*(sigma / alpha), 0.0]
    gain = math.prod((v + kappa[j] * kappa[j + 1]) / (v + kappa[j] ** 2) for j in range(len(times)))
    assert got[1].item() == pytest.approx(gain / alpha[0], rel=1e-9)
    assert got[0].item() == pytest.approx(m - m * gain, abs=1e-9)
    assert got[1].item() == pytest.approx(slope, abs=5e-5)
    assert got[0].item() == pytest.approx(offset, abs=5e-5)


def test_linspace_follows_its_grid():
    """Ten linspace levels are visited and left in their own order: the closed form over that very grid holds."""
    times = PATH.grid(10, "linspace")
    m, v = 0.3, 0.04
    z = torch.ones(1, 1, 1, dtype=torch.float64)
    got = DDIM(clip=None)(GaussianTeacher(PATH, m, 0.2), PATH, times, z).item()
    alpha, sigma = PATH.levels(times.tolist())
    kappa = [*(sigma / alpha), 0.0]
    gain = math.prod((v + kappa[j] * kappa[j + 1]) / (v + kappa[j] ** 2) for j in range(10))
    assert got == pytest.approx(m + (1 / alpha[0] - m) * gain, rel=1e-9)


@pytest.mark.parametrize("eta", [-0.1, 1.5, float("nan")])
def test_bad_eta_is_refused(eta):
    with pytest.raises(ConfigError, match=r"eta must be within \[0, 1\]"):
        DDIM(eta=eta)


def test_stochastic_only_with_eta():
    assert not DDIM().stochastic
    assert DDIM().tape_len(10) == 0
    assert DDIM(eta=0.5).stochastic
    assert DDIM(eta=0.5).tape_len(10) == 9
