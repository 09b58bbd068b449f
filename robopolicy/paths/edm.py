"""EDM preconditioning: how a raw network is wrapped into a clean estimate on the variance-exploding path.

Source: Karras et al. 2022 (arXiv 2206.00364), table 1: ``D(y) = c_skip y + c_out F(c_in y)``.
Differs: nothing.  The noise label of the network (``log(sigma) / 4`` in the paper) is the head's own choice.
When to use: EDM heads (BESO); inputs and targets of the network then have unit variance at every level.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Scalings(NamedTuple):
    """Factors of one noise level, shaped as ``sigma``."""

    skip: Tensor
    out: Tensor
    into: Tensor


def edm_scalings(sigma: Tensor, sigma_data: float = 0.5) -> Scalings:
    """``(c_skip, c_out, c_in)`` at noise level ``sigma`` for data of standard deviation ``sigma_data`` (normalised)."""
    total = sigma**2 + sigma_data**2
    return Scalings(sigma_data**2 / total, sigma * sigma_data / total.sqrt(), 1 / total.sqrt())


def edm_denoise(raw: Tensor, y: Tensor, scalings: Scalings) -> Tensor:
    """Clean estimate from the raw network output; the scalings broadcast against ``y`` ``(N, H, D)``."""
    return scalings.skip * y + scalings.out * raw


def edm_raw_target(x0: Tensor, y: Tensor, scalings: Scalings) -> Tensor:
    """What the raw network should output for clean ``x0``: the inverse of ``edm_denoise``."""
    return (x0 - scalings.skip * y) / scalings.out
