"""EDM's preconditioning as heads use it: published labels and weights, and the two forms of one loss."""

from __future__ import annotations

import pytest
import torch

from robopolicy.paths.ve import VE
from robopolicy.policies.precondition import EDM

# sigma: ln(sigma) / 4, weight of |D - a|^2, for data of spread 0.5 (spec of BESO, section 4)
TABLE = {
    0.005: (-1.324579, 40004),
    0.05: (-0.748933, 404),
    0.1: (-0.575646, 104),
    0.5: (-0.173287, 8),
    1.0: (0.0, 5),
}
RULE = EDM(VE(0.005, 1.0), 0.5)


@pytest.mark.parametrize(("sigma", "want"), TABLE.items())
def test_labels_and_weights_of_the_published_table(sigma, want):
    t = torch.tensor(sigma, dtype=torch.float64)
    assert RULE.label(t).item() == pytest.approx(want[0], abs=1e-6)
    out = RULE.scalings(t, torch.zeros(1, 1, 1, dtype=torch.float64)).out
    assert 1 / out.item() ** 2 == pytest.approx(want[1], rel=1e-9)


def test_the_raw_loss_is_the_weighted_loss_of_the_denoiser():
    rng = torch.Generator().manual_seed(0)
    a, eps, raw = torch.randn(3, 50, 4, 2, generator=rng, dtype=torch.float64).unbind(0)
    t = torch.rand(50, generator=rng, dtype=torch.float64) + 0.01
    z = RULE.path.add_noise(a, eps, t)
    plain = (raw - RULE.target(a, eps, z, t)).square()
    weight = (t**2 + 0.25) / (0.5 * t) ** 2
    torch.testing.assert_close(plain, weight[:, None, None] * (RULE.prediction(raw, z, t).x0 - a).square())


def test_without_noise_the_denoiser_is_the_identity():
    z, raw = torch.randn(2, 5, 4, 2, dtype=torch.float64).unbind(0)
    t = torch.full((5,), 1e-9, dtype=torch.float64)
    torch.testing.assert_close(RULE.prediction(raw, z, t).x0, z, atol=1e-8, rtol=0)
