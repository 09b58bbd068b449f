"""Order of convergence of the deterministic samplers, from the slope of log error against log steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from robopolicy.paths import VE, GaussianPath, LinearFlow
from robopolicy.samplers import make_sampler
from robopolicy.samplers.heun import Heun
from robopolicy.testing.teachers import GaussianTeacher, MixtureTeacher

COUNTS = (40, 80, 160, 320)


def slope(sampler, teacher, path: GaussianPath, grid, reference) -> float:
    """Least-squares slope of ``log max|error|`` against ``log n``, sign flipped."""
    z = path.prior_std * torch.linspace(-1.5, 1.5, 7, dtype=torch.float64).reshape(7, 1, 1)
    errors = []
    for n in COUNTS:
        errors.append((sampler(teacher, path, grid(n), z) - reference(grid(n), z)).abs().max().item())
    return -np.polyfit(np.log(COUNTS), np.log(errors), 1)[0]


def ve_grid(n: int) -> Tensor:
    """Log-uniform levels between fixed ends: every step of the ODE shrinks with n, the clean step does not change."""
    return torch.logspace(math.log10(4.0), math.log10(0.05), n, dtype=torch.float64)


def exact_gaussian(path: GaussianPath, m: float, v: float):
    """Closed-form ODE flow to the last level, then the same clean estimate the samplers take."""

    def solve(times: Tensor, z: Tensor) -> Tensor:
        alpha, sigma = path.levels(times.tolist())
        first, last = sigma[0] / alpha[0], sigma[-1] / alpha[-1]
        y = m + (z / alpha[0] - m) * math.sqrt((v + last**2) / (v + first**2))
        return m + v / (v + last**2) * (y - m)

    return solve


ORDERS = [("euler", 1), ("ddim", 1), ("heun", 2), ("dpmpp_2m", 2)]


@pytest.mark.parametrize(("name", "order"), ORDERS)
def test_order_on_gaussian_data(name, order):
    path = VE(0.05, 4.0)
    teacher = GaussianTeacher(path, 0.3, 0.5)
    got = slope(make_sampler(name, clip=None), teacher, path, ve_grid, exact_gaussian(path, 0.3, 0.25))
    assert got == pytest.approx(order, abs=0.2)


def test_order_on_a_mixture():
    path = VE(0.05, 4.0)
    teacher = MixtureTeacher(path, (-0.8, 0.8), (0.5, 0.5), 0.4)
    fine: list[Tensor] = []

    def reference(times: Tensor, z: Tensor) -> Tensor:
        if not fine:
            fine.append(Heun(clip=None)(teacher, path, ve_grid(2000), z))
        return fine[0]

    slopes = {n: slope(make_sampler(n, clip=None), teacher, path, ve_grid, reference) for n, _ in ORDERS}
    assert slopes == pytest.approx(dict(ORDERS), abs=0.2)


@pytest.mark.parametrize("noise_at", [0, 1])
@pytest.mark.parametrize(("space", "order"), [("native", 2), ("edm", 2)])
def test_heun_keeps_its_order_from_pure_noise_of_a_flow(noise_at, space, order):
    """Levels from sigma = 1 (alpha = 0) down to 0.1, uniform in the flow's time."""
    path = LinearFlow(noise_at)
    teacher = GaussianTeacher(path, 0.3, 0.5)

    def grid(n: int) -> Tensor:
        sigma = torch.linspace(1.0, 0.1, n, dtype=torch.float64)
        return sigma if noise_at == 1 else 1 - sigma

    def reference(times: Tensor, z: Tensor) -> Tensor:
        kappa = 0.1 / 0.9
        y = 0.3 + z * math.sqrt(0.25 + kappa**2)  # y / kappa tends to z at pure noise
        return 0.3 + 0.25 / (0.25 + kappa**2) * (y - 0.3)

    assert slope(Heun(clip=None, space=space), teacher, path, grid, reference) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("noise_at", [0, 1])
def test_euler_on_a_flow_is_z_plus_dt_u(noise_at):
    path = LinearFlow(noise_at)
    teacher = MixtureTeacher(path, (-0.8, 0.8), (0.5, 0.5), 0.3)
    times = path.grid(10, "linear").double()
    z = w = torch.randn(4, 3, 2, dtype=torch.float64)
    ends = [*times[1:].tolist(), 1.0 - noise_at]
    for t, end in zip(times, ends, strict=True):
        prediction = teacher(w, t)
        u = (prediction.eps - prediction.x0) * (1.0 if noise_at == 1 else -1.0)
        w = w + (end - t.item()) * u
    torch.testing.assert_close(make_sampler("euler", clip=None)(teacher, path, times, z), w)
