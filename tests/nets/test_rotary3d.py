"""Rotary codes of points: reference numbers, and attention that sees differences of places only."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from robopolicy.core.errors import ConfigError
from robopolicy.nets.rotary3d import check_rotary_width, rotary_code, rotate

POINT = torch.tensor([[[0.1, -0.2, 0.3]]], dtype=torch.float64)


def test_reference_numbers():
    """C = 12: two pairs an axis, with frequencies 1 and 0.01."""
    code = rotary_code(POINT, 12)
    cos = [0.995004, 0.995004, 1, 1, 0.980067, 0.980067, 0.999998, 0.999998, 0.955336, 0.955336, 0.999996, 0.999996]
    sin = [0.099833, 0.099833, 0.001, 0.001, -0.198669, -0.198669, -0.002, -0.002, 0.29552, 0.29552, 0.003, 0.003]
    torch.testing.assert_close(code.cos[0, 0], torch.tensor(cos, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(code.sin[0, 0], torch.tensor(sin, dtype=torch.float64), atol=1e-6, rtol=0)


def test_reference_rotation():
    x = torch.arange(1.0, 13.0, dtype=torch.float64)[None, None]
    want = [
        *(0.795337, 2.089842, 2.995999, 4.002998, 6.092349, 4.887053),
        *(7.015986, 7.985984, 5.642826, 12.213047, 10.963951, 12.032946),
    ]
    got = rotate(x, rotary_code(POINT, 12))[0, 0]
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(got.norm(), x.norm())


def weights(dim: int, shift: float) -> torch.Tensor:
    """Attention weights of 8 heads among random points that are all moved by ``shift``."""
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 5, dim, dtype=torch.float64, generator=generator)
    places = torch.rand(1, 5, 3, dtype=torch.float64, generator=generator) * 2 - 1
    code = rotary_code(places + shift, dim)
    query, key = (rotate(x, code).unflatten(-1, (8, -1)).transpose(1, 2) for x in (q, k))
    return F.softmax(query @ key.transpose(-1, -2) * (dim // 8) ** -0.5, dim=-1)


@pytest.mark.parametrize("dim", [48, 96, 192])
def test_a_common_shift_changes_no_weight(dim):
    assert (weights(dim, 0.0) - weights(dim, 0.7)).abs().max() < 1e-12


def test_pairs_across_heads_break_the_invariance():
    assert (weights(120, 0.0) - weights(120, 0.7)).abs().max() > 1e-3
    with pytest.raises(ConfigError, match="straddle"):
        check_rotary_width(120, 8)
    check_rotary_width(120, 8, straddle=True)
    with pytest.raises(ConfigError, match="multiple of 6"):
        check_rotary_width(60, 8)


def test_base_and_scale():
    near, far = rotary_code(POINT, 12), rotary_code(POINT * 3, 12)
    torch.testing.assert_close(rotary_code(POINT, 12, scale=3.0), far)
    assert not torch.allclose(near.cos, far.cos)
    quick = rotary_code(POINT, 12, base=100.0)
    torch.testing.assert_close(quick.sin[0, 0, 2], torch.sin(POINT[0, 0, 0] * 0.1))


def test_codes_pass_no_gradient():
    places = POINT.clone().requires_grad_()
    assert not rotary_code(places, 12).cos.requires_grad
