"""Euler: first-order solver of the probability-flow ODE ``dy/dkappa = (y - x0) / kappa``.

Source: Karras et al. 2022 (arXiv 2206.00364), algorithm 1 without the correction, and algorithm 2 with ``churn``; for
linear flows it is ``z + (t' - t) u``.
Differs: the direction always follows the clipped ``x0`` (as in k-diffusion), and the step is written so that a
start at pure noise is regular.  Equals DDIM at ``eta = 0`` with ``rederive_eps``.  Churn never goes above the first
level, which is the noisiest that a network has seen.
When to use: flow heads; a baseline for the others; with churn where an EDM head profits from noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robopolicy.core.errors import ConfigError
from robopolicy.paths.base import GaussianPath
from robopolicy.samplers.base import Denoiser, Levels, Sampler, added, plus
from robopolicy.samplers.ddim import from_state


@dataclass(frozen=True, kw_only=True)
class Euler(Sampler):
    """Order 1, one query a step; deterministic unless ``churn > 0``.

    ``churn``: before each step at a level within ``[churn_min, churn_max]`` the noise level is raised by the factor
    ``1 + min(churn / n, sqrt(2) - 1)``, with noise of standard deviation ``churn_noise`` (1 is exact).
    Variance-exploding paths only.
    """

    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = math.inf
    churn_noise: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.churn) and self.churn >= 0 and 0 <= self.churn_noise < math.inf):
            raise ConfigError(f"churn and churn_noise must be finite numbers >= 0: {self.churn}, {self.churn_noise}")
        if not 0 <= self.churn_min <= self.churn_max:
            raise ConfigError(f"expected 0 <= churn_min <= churn_max, got {self.churn_min} and {self.churn_max}")

    @property
    def stochastic(self) -> bool:
        return self.churn > 0

    def tape_len(self, n_steps: int) -> int:
        """One draw a step after the first."""
        return n_steps - 1 if self.stochastic else 0

    def asked(self, path: GaussianPath, times: Tensor) -> Tensor:
        return torch.from_numpy(self._raised(times.double().numpy())).to(times) if self.stochastic else times

    def _raised(self, kappa: np.ndarray) -> np.ndarray:
        """The levels at which the denoiser is asked."""
        factor = 1 + min(self.churn / len(kappa), math.sqrt(2) - 1)
        within = (kappa >= self.churn_min) & (kappa <= self.churn_max)
        return np.where(within, np.minimum(kappa * factor, kappa[0]), kappa)

    def coefficients(self, levels: Levels) -> Sequence[np.ndarray]:
        """Columns ``(x0, z)``, with churn also the noise that is added before the step."""
        if not self.stochastic:
            kept = levels.sigma[1:]
            return from_state(levels, kept, np.zeros_like(kept))
        if (levels.alpha != 1).any():
            raise ConfigError("churn needs a variance-exploding path, whose noise can simply be raised; use ancestral")
        raised, after = self._raised(levels.kappa[:-1]), levels.kappa[1:]
        noise = self.churn_noise * np.sqrt(np.maximum(raised**2 - levels.kappa[:-1] ** 2, 0.0))
        return 1 - after / raised, after / raised, noise

    def __call__(
        self, denoise: Denoiser, path: GaussianPath, times: Tensor, z: Tensor, tape: Tensor | None = None
    ) -> Tensor:
        if not self.stochastic:
            return super().__call__(denoise, path, times, z, tape)
        plan = self.plan(path, times, z)
        noises = iter(self.noises(plan, z, tape))
        for i, (t, (c_x, c_z, c_n)) in enumerate(zip(self.asked(path, times), plan.rows, strict=True)):
            if i > 0:
                z = added(z, next(noises), c_n)
            z = plus(self.clipped(denoise(z, t).x0) * c_x, z, c_z)
        return z
