"""EDM preconditioning against its published table and identities."""

from __future__ import annotations

import pytest
import torch

from robopolicy.paths.edm import edm_denoise, edm_raw_target, edm_scalings

TABLE = [
    (0.005, 0.9999, 0.005, 1.9999),
    (0.05, 0.990099, 0.049752, 1.990074),
    (0.1, 0.961538, 0.098058, 1.961161),
    (0.5, 0.5, 0.353553, 1.414214),
    (1.0, 0.2, 0.447214, 0.894427),
]


@pytest.mark.parametrize(("sigma", "skip", "out", "into"), TABLE)
def test_table_for_half_unit_data(sigma, skip, out, into):
    got = edm_scalings(torch.tensor(sigma, dtype=torch.float64), 0.5)
    assert [float(c) for c in got] == pytest.approx([skip, out, into], abs=2e-6 if sigma > 0.01 else 1e-4)


def test_identities():
    sigma = torch.logspace(-3, 2, 30, dtype=torch.float64)
    c = edm_scalings(sigma, 0.3)
    torch.testing.assert_close(c.into**2 * (sigma**2 + 0.09), torch.ones(30, dtype=torch.float64))
    torch.testing.assert_close(c.skip, 0.09 * c.into**2)
    torch.testing.assert_close(c.out, 0.3 * sigma * c.into)


def test_target_has_unit_variance_and_inverts():
    generator = torch.Generator().manual_seed(1)
    x0 = 0.5 * torch.randn(40_000, generator=generator, dtype=torch.float64)
    for level in (0.01, 0.5, 20.0):
        sigma = torch.tensor(level, dtype=torch.float64)
        y = x0 + sigma * torch.randn(40_000, generator=generator, dtype=torch.float64)
        raw = edm_raw_target(x0, y, edm_scalings(sigma))
        assert raw.var().item() == pytest.approx(1.0, rel=0.03)
        torch.testing.assert_close(edm_denoise(raw, y, edm_scalings(sigma)), x0)
