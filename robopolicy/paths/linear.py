"""Linear (rectified-flow) path between data and noise, in either direction of time.

Source: Lipman et al. 2023 (arXiv 2210.02747); Liu et al. 2022 (arXiv 2209.03003).
``noise_at=1``: ``z = (1-t) x + t e``, velocity ``e - x`` (openpi, LeRobot).
``noise_at=0``: ``z = t x + (1-t) e``, velocity ``x - e`` (the flow-matching papers).
Differs: both directions are one class; every grid lists times from noise to data, so it ascends for ``noise_at=0``.
When to use: flow-matching heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from robopolicy.core.errors import ConfigError
from robopolicy.paths.base import Coefficient, GaussianPath, log_distance
from robopolicy.paths.grids import check_spacing, check_steps


class LinearFlow(GaussianPath):
    """Straight path; ``noise_at`` is the time of pure noise, 0 or 1."""

    def __init__(self, noise_at: int = 1) -> None:
        if noise_at not in (0, 1):
            raise ConfigError(f"noise_at must be 0 or 1, got {noise_at!r}")
        self.noise_at = int(noise_at)
        self.clean_time = self.last_time = float(1 - self.noise_at)

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t if self.noise_at == 1 else t

    def sigma(self, t: Tensor) -> Tensor:
        return t if self.noise_at == 1 else 1 - t

    def rates(self, alpha: Coefficient, sigma: Coefficient) -> tuple[Coefficient, Coefficient]:
        return (-1.0, 1.0) if self.noise_at == 1 else (1.0, -1.0)

    def levels(self, times: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        t = np.asarray(times, np.float64)
        if not ((t >= 0) & (t <= 1)).all():
            raise ConfigError(f"flow times must be within [0, 1], got {list(times)}")
        return (1 - t, t) if self.noise_at == 1 else (t, 1 - t)

    def t_of_kappa(self, kappa: Tensor) -> tuple[Tensor, Tensor]:
        sigma = torch.where(kappa.isinf(), torch.ones_like(kappa), kappa / (1 + kappa))
        t = sigma if self.noise_at == 1 else 1 - sigma
        return t, log_distance(self.kappa(t), kappa)

    def grid(self, n_steps: int, spacing: str = "linear") -> Tensor:
        check_spacing(spacing, ("linear",))
        check_steps(n_steps)
        sigma = np.arange(n_steps, 0, -1, dtype=np.float64) / n_steps
        return torch.from_numpy((sigma if self.noise_at == 1 else 1 - sigma).astype(np.float32))
