"""Midpoint, trapezoid and RK4 on the exact Gaussian flow (spec 10.1, 10.7), and what they ask of networks and paths."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from robopolicy.core.errors import ConfigError
from robopolicy.core.policy import Prediction
from robopolicy.paths import VE, GaussianPath, Kind, LinearFlow, VPDiscrete, canonical
from robopolicy.samplers import SAMPLERS, make_sampler
from robopolicy.testing.teachers import GaussianFlow, MixtureTeacher

MEAN, STD, START = 0.5, 0.1, 1.3
NAMES = ("euler", "midpoint", "trapezoid", "rk4")
ENDS = {
    1: (0.50000000, 0.52574257, 1.15, 0.7255024),
    2: (0.51287129, 0.56037221, 0.83796687, 0.63877287),
    4: (0.53656932, 0.60400734, 0.69646208, 0.62105666),
    5: (0.54677731, 0.61466052, 0.67317657, 0.62304415),
    10: (0.58024194, 0.62839457, 0.64074918, 0.62924592),
    20: (0.60352036, 0.6298059, 0.63322768, 0.62997785),
    50: (0.61885895, None, None, None),
    100: (0.62431741, None, None, None),
}
SPREADS = [
    (0.1, {1: 0, 2: 0.0990, 3: 0.1938, 4: 0.2813, 5: 0.3598, 10: 0.6173, 16: 0.7497, 20: 0.7963, 50: 0.9143}),
    (0.1, {100: 0.9563}),
    (0.02, {10: 0.1762, 50: 0.6523}),
    (0.3, {4: 0.5908, 10: 0.8229}),
    (1.0, {2: 0.5, 4: 0.72, 10: 0.879}),
]


def end(name: str, path: LinearFlow, n: int, start: float = START, std: float = STD) -> float:
    z = torch.full((1, 1, 1), start, dtype=torch.float64)
    times = path.grid(n).double() if n < 3 else torch.linspace(0, 1, n + 1, dtype=torch.float64)[:-1]
    times = times if path.noise_at == 0 or n < 3 else 1 - times
    return make_sampler(name, clip=None)(GaussianFlow(path, MEAN, std), path, times, z).item()


@pytest.mark.parametrize("noise_at", [0, 1])
@pytest.mark.parametrize("n", ENDS)
def test_end_points_on_the_gaussian_flow(n, noise_at):
    path = LinearFlow(noise_at)
    for name, want in zip(NAMES, ENDS[n], strict=True):
        if want is not None:
            assert end(name, path, n) == pytest.approx(want, abs=1.1e-8), name


@pytest.mark.parametrize(("std", "spreads"), SPREADS)
def test_few_euler_steps_under_disperse(std, spreads):
    for n, want in spreads.items():
        slope = end("euler", LinearFlow(0), n, 1.0, std) - end("euler", LinearFlow(0), n, 0.0, std)
        assert slope / std == pytest.approx(want, abs=6e-5), n


def test_the_share_of_euler_samples_within_two_modes():
    """Spec 10.2: two modes at +-0.6 of width 0.05; "within" is three widths."""
    path = LinearFlow(0)
    teacher = MixtureTeacher(path, (-0.6, 0.6), (0.5, 0.5), 0.05)
    z = torch.randn(40_000, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for n, share in {1: 0.0, 2: 0.107, 4: 0.769, 10: 0.993, 50: 0.997}.items():
        out = make_sampler("euler", clip=None)(teacher, path, path.grid(n).double(), z)
        within = ((out.abs() - 0.6).abs() < 0.15).double().mean().item()
        assert within == pytest.approx(share, abs=0.012), n


@pytest.mark.parametrize(("name", "ratio"), [("euler", 2), ("midpoint", 8), ("trapezoid", 4), ("rk4", 16)])
def test_halving_the_step_divides_the_error(name, ratio):
    """As the order says; the midpoint rule (order 2: 4) gains one on this flow, whose leading error cancels."""
    coarse, fine = (abs(end(name, LinearFlow(0), n) - 0.63) for n in (80, 160))
    assert coarse / fine == pytest.approx(ratio, rel=0.12)
    if name == "euler":
        errors = [0.63 - end(name, LinearFlow(0), n) for n in (50, 100)]
        assert errors == pytest.approx([0.01114, 0.00568], abs=6e-6)


def counted(path: GaussianPath, asked: list[float]):
    """An affine denoiser that is regular at every level and writes down when it is asked."""

    def denoise(z: Tensor, t: Tensor) -> Prediction:
        asked.append(t.item())
        return canonical(Kind.VELOCITY, 0.3 * z, z, path, t)

    return denoise


@pytest.mark.parametrize("name", list(SAMPLERS))
@pytest.mark.parametrize("n", [1, 2, 5])
def test_queries_are_what_a_run_asks(name, n):
    asked: list[float] = []
    path = VE(0.01, 10.0)
    sampler = make_sampler(name)
    sampler(counted(path, asked), path, path.grid(n), torch.randn(2, 3, 1))
    assert len(asked) == sampler.queries(n)


@pytest.mark.parametrize("name", ["midpoint", "trapezoid", "rk4"])
def test_the_times_it_says_it_asks_are_those_it_asks(name):
    asked: list[float] = []
    path = LinearFlow(0)
    sampler = make_sampler(name)
    sampler(counted(path, asked), path, path.grid(4), torch.randn(2, 3, 1))
    assert sorted(set(asked)) == sorted(sampler.asked(path, path.grid(4)).tolist())
    assert sampler.tape_len(4) == 0


@pytest.mark.parametrize("name", ["midpoint", "trapezoid", "rk4"])
def test_variance_exploding_paths_are_solved_and_never_asked_below_their_last_level(name):
    path, m, std = VE(0.002, 10.0), 0.3, 0.5
    asked: list[float] = []

    def teacher(z: Tensor, t: Tensor) -> Prediction:
        asked.append(t.item())
        eps = t.item() * (z - m) / (std**2 + t.item() ** 2)
        return Prediction(z - t.item() * eps, eps, t)

    z = path.prior_std * torch.linspace(-1, 1, 5, dtype=torch.float64).reshape(5, 1, 1)
    out = make_sampler(name, clip=None)(teacher, path, path.grid(60, "karras").double(), z)
    exact = m + (z - m) * std / math.sqrt(std**2 + 100.0)
    torch.testing.assert_close(out, exact, atol=2e-3, rtol=0)
    assert min(asked) >= 0.002 * (1 - 1e-6)


def test_clipping_bounds_the_estimate_and_keeps_the_state():
    path = LinearFlow(0)
    teacher = GaussianFlow(path, 3.0, 0.01)  # far outside the clip
    out = make_sampler("midpoint", clip=1.0)(teacher, path, path.grid(50), torch.randn(4, 3, 1))
    torch.testing.assert_close(out, torch.ones_like(out), atol=1e-2, rtol=0)


@pytest.mark.parametrize("name", ["midpoint", "trapezoid", "rk4"])
def test_discrete_paths_are_refused_with_the_way_out(name):
    path = VPDiscrete.make()
    with pytest.raises(ConfigError, match="no continuous time"):
        make_sampler(name)(MixtureTeacher(path, (0.0,), (1.0,), 0.3), path, path.grid(4), torch.zeros(1, 2, 1))
