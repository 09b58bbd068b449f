"""Linear flow in both directions of time."""

from __future__ import annotations

import pytest
import torch

from robopolicy.core.errors import ConfigError
from robopolicy.paths import LinearFlow


@pytest.mark.parametrize("noise_at", [0, 1])
def test_interpolates_between_data_and_noise(noise_at):
    path = LinearFlow(noise_at)
    x0, eps = torch.randn(2, 3, 1), torch.randn(2, 3, 1)
    torch.testing.assert_close(path.add_noise(x0, eps, torch.tensor(float(noise_at))), eps)
    torch.testing.assert_close(path.add_noise(x0, eps, torch.tensor(float(1 - noise_at))), x0)


@pytest.mark.parametrize("noise_at", [0, 1])
def test_velocity_is_the_time_derivative_of_the_state(noise_at):
    path = LinearFlow(noise_at)
    x0, eps = torch.randn(2, 3, 1, dtype=torch.float64), torch.randn(2, 3, 1, dtype=torch.float64)
    h, t = 1e-3, torch.tensor(0.4, dtype=torch.float64)
    slope = (path.add_noise(x0, eps, t + h) - path.add_noise(x0, eps, t - h)) / (2 * h)
    da, ds = path.rates(0.0, 0.0)
    torch.testing.assert_close(slope, da * x0 + ds * eps)


@pytest.mark.parametrize("noise_at", [0, 1])
def test_matches_any_noise_ratio(noise_at):
    path = LinearFlow(noise_at)
    kappa = torch.tensor([0.0, 0.25, 1.0, 9.0, float("inf")], dtype=torch.float64)
    t, distance = path.t_of_kappa(kappa)
    torch.testing.assert_close(path.sigma(t), torch.tensor([0, 0.2, 0.5, 0.9, 1], dtype=torch.float64))
    assert distance.max().item() < 1e-12


def test_bad_arguments_are_refused():
    with pytest.raises(ConfigError, match="noise_at must be 0 or 1"):
        LinearFlow(2)
    with pytest.raises(ConfigError, match=r"within \[0, 1\]"):
        LinearFlow().levels([1.2])
