"""Variance-exploding path: ``z = x + sigma e``; native time is the noise level itself.

Source: Karras et al. 2022 (arXiv 2206.00364), table 1 and eq. 5.
Differs: grids hold the n queried levels; the final 0 is appended by the samplers.
When to use: EDM-preconditioned heads (BESO).  ``sigma_max`` should be well above the data's standard deviation,
otherwise starting from ``sigma_max * N(0, I)`` is biased.  ``data_std`` (root mean square of the data) gives the start
the spread that noisy data have there, which mends the spread but not the mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from robopolicy.core.errors import ConfigError
from robopolicy.paths.base import Coefficient, GaussianPath, finite_positive, log_distance
from robopolicy.paths.grids import noise_grid


class VE(GaussianPath):
    """Noise levels ``[sigma_min, sigma_max]`` in normalised action units; ``rho`` bends the "karras" grid."""

    def __init__(
        self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0, data_std: float = 0.0
    ) -> None:
        if not (finite_positive(sigma_min) and finite_positive(sigma_max) and sigma_min < sigma_max):
            raise ConfigError(f"expected 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
        if not finite_positive(rho):
            raise ConfigError(f"rho must be a finite number > 0, got {rho}")
        self.sigma_min, self.sigma_max, self.rho = float(sigma_min), float(sigma_max), float(rho)
        if not (math.isfinite(data_std) and data_std >= 0):
            raise ConfigError(f"data_std must be a finite number >= 0, got {data_std}")
        self.prior_std = math.hypot(self.sigma_max, data_std)
        self.clean_time, self.last_time = 0.0, self.sigma_min

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def rates(self, alpha: Coefficient, sigma: Coefficient) -> tuple[Coefficient, Coefficient]:
        return 0.0, 1.0

    def levels(self, times: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        sigma = np.asarray(times, np.float64)
        return np.ones_like(sigma), sigma

    def t_of_kappa(self, kappa: Tensor) -> tuple[Tensor, Tensor]:
        t = kappa.clamp(self.sigma_min, self.sigma_max)
        return t, log_distance(t, kappa)

    def grid(self, n_steps: int, spacing: str = "karras") -> Tensor:
        return torch.from_numpy(noise_grid(self.sigma_min, self.sigma_max, n_steps, spacing, self.rho)).float()
