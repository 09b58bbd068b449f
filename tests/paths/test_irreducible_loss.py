"""Losses no network can go below on Gaussian data (per dimension, normalised units)."""

from __future__ import annotations

import math

import pytest
import torch

from robopolicy.paths import Kind, LinearFlow, VPDiscrete, target
from robopolicy.testing.teachers import GaussianTeacher

FLOORS = [
    (0.05, 0.036427, 0.002409),
    (0.1, 0.079378, 0.009206),
    (0.2, 0.155380, 0.033785),
    (0.3, 0.219871, 0.070212),
    (0.5, 0.323155, 0.169211),
    (1.0, 0.491078, 0.508922),
]


@pytest.mark.parametrize(("std", "eps_floor", "x0_floor"), FLOORS)
def test_closed_form_floors(std, eps_floor, x0_floor):
    a, s = VPDiscrete.make().levels(range(100))
    total = a**2 * std**2 + s**2
    assert (a**2 * std**2 / total).mean() == pytest.approx(eps_floor, abs=1e-6)
    assert (std**2 * s**2 / total).mean() == pytest.approx(x0_floor, abs=1e-6)


@pytest.mark.parametrize(("kind", "column"), [(Kind.EPS, 1), (Kind.X0, 2)])
@pytest.mark.parametrize("row", FLOORS, ids=lambda r: str(r[0]))
def test_the_exact_denoiser_attains_the_floor(kind, column, row):
    path, n = VPDiscrete.make(), 2000
    teacher = GaussianTeacher(path, mean=0.1, std=row[0])
    generator = torch.Generator().manual_seed(0)
    t = torch.arange(100).repeat_interleave(n)
    x0 = 0.1 + row[0] * torch.randn(100 * n, 1, 1, generator=generator)
    eps = torch.randn(100 * n, 1, 1, generator=generator)
    z = path.add_noise(x0, eps, t)
    error = (teacher.output(kind, z, t) - target(kind, x0, eps, path, t)).square().flatten()
    assert error.mean().item() == pytest.approx(row[column], abs=4 * error.std().item() / math.sqrt(100 * n))


@pytest.mark.parametrize(
    ("std", "floor"), [(0.02, 0.0314159), (0.1, 0.1570796), (0.3, 0.4712389), (0.5, 0.7853982), (1.0, 1.5707963)]
)
def test_flow_floor_is_half_pi_times_the_width(std, floor):
    path = LinearFlow(noise_at=1)
    t = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    variance = std**2 / (path.alpha(t) ** 2 * std**2 + path.sigma(t) ** 2)
    assert variance.mean().item() == pytest.approx(floor, rel=1e-5)
