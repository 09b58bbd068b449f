"""Densities of the training noise level sigma: which levels of a variance-exploding path a network sees how often.

Source: log-logistic, BESO's released code (Reuss et al. 2023, arXiv 2304.02532; spec section 4); log-normal, Karras et
al. 2022 (arXiv 2206.00364), table 1.  Differs: both are truncated to ``[sigma_min, sigma_max]`` by drawing a uniform
quantile between the two ends, so no draw falls outside the levels that sampling visits and none is repeated.
When to use: the log-logistic needs no tuning, its median is the data's spread; the log-normal is what most EDM code
uses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robopolicy.core.errors import ConfigError

# BESO's scale around the data's spread, and EDM's P_mean and P_std.
DEFAULT_SCALE = {"loglogistic": 0.5, "lognormal": 1.2}
DEFAULT_LOC = -1.2


@dataclass(frozen=True)
class NoiseDensity:
    """``ln sigma`` is ``loc + scale * X``, X standard logistic or standard normal, truncated to ``[low, high]``."""

    kind: str
    loc: float
    scale: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if self.kind not in _FAMILIES:
            raise ConfigError(f"unknown noise density {self.kind!r}: expected {' or '.join(_FAMILIES)}")
        if not self.scale > 0 or not 0 < self.low < self.high:
            raise ConfigError(
                f"noise density: expected scale > 0 and 0 < low < high, got {self.scale}, {self.low}, {self.high}"
            )

    def quantile(self, p: Tensor) -> Tensor:
        """The level below which a share ``p`` in [0, 1] of the draws lies, in ``p``'s shape and dtype."""
        cdf, inverse = _FAMILIES[self.kind]
        bottom, top = (cdf((math.log(s) - self.loc) / self.scale) for s in (self.low, self.high))
        x = inverse(bottom + (top - bottom) * p.double())
        # Rounding must not leave the range: it is what the network and the sampler were told.
        return (self.loc + self.scale * x).exp().clamp(self.low, self.high).to(p.dtype)

    def draw(self, n: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """``n`` levels, float32."""
        return self.quantile(torch.rand(n, generator=generator, device=device))


def _logistic_cdf(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


_Family = tuple[Callable[[float], float], Callable[[Tensor], Tensor]]
_FAMILIES: dict[str, _Family] = {
    "loglogistic": (_logistic_cdf, torch.logit),
    "lognormal": (_normal_cdf, torch.special.ndtri),
}
