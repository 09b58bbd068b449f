"""Variance-exploding path."""

from __future__ import annotations

import pytest
import torch

from robopolicy.core.errors import ConfigError
from robopolicy.paths import VE


def test_state_and_matching():
    path = VE(0.01, 10.0)
    t = torch.tensor([0.5, 2.0])
    assert path.alpha(t).tolist() == [1, 1]
    assert path.kappa(t).tolist() == [0.5, 2.0]
    assert path.prior_std == 10.0
    found, distance = path.t_of_kappa(torch.tensor([0.001, 1.0, 20.0]))
    torch.testing.assert_close(found, torch.tensor([0.01, 1.0, 10.0]))
    torch.testing.assert_close(distance, torch.tensor([10.0, 1.0, 2.0]).log())


@pytest.mark.parametrize(
    ("low", "high", "rho"), [(0, 1, 7), (2, 1, 7), (0.1, float("inf"), 7), (0.1, 1, 0), (-1, 1, 7)]
)
def test_bad_ranges_are_refused(low, high, rho):
    with pytest.raises(ConfigError, match=r"sigma_min|rho"):
        VE(low, high, rho)
