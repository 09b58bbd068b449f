"""DDPM: ancestral sampling from the Gaussian posterior ``q(z' | z, x0)``.

Source: Ho et al. 2020 (arXiv 2006.11239), eq. 6-7 and algorithm 2.
Differs: written for any Gaussian path and any grid (the reference visits every training step).  No noise is added
into the clean level.
When to use: reproducing checkpoints evaluated with all training steps.  Stochastic: give a tape to make it a function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from robopolicy.core.errors import ConfigError
from robopolicy.samplers.base import Levels, Sampler

Variance = Literal["fixed_small", "fixed_large"]


@dataclass(frozen=True, kw_only=True)
class DDPM(Sampler):
    """``variance``: that of the posterior ("fixed_small") or of the forward step ("fixed_large", beta)."""

    variance: Variance = "fixed_small"
    always_stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variance not in get_args(Variance):
            raise ConfigError(f"variance must be one of {', '.join(get_args(Variance))}; got {self.variance!r}")

    def coefficients(self, levels: Levels) -> Sequence[np.ndarray]:
        alpha, sigma, alpha_next, sigma_next = levels.steps
        ratio = (levels.kappa[1:] / levels.kappa[:-1]) ** 2
        forward = sigma**2 - (alpha / alpha_next * sigma_next) ** 2
        variance = sigma_next**2 * (1 - ratio) if self.variance == "fixed_small" else forward
        variance = np.where(sigma_next > 0, variance, 0.0)
        return alpha_next * (1 - ratio), sigma_next**2 * alpha / (alpha_next * sigma**2), np.sqrt(variance)
