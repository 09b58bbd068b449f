"""LMS: linear multistep (Adams-Bashforth) solver of ``dy/dkappa = eps`` on an uneven grid, one query a step.

Source: k-diffusion's LMS sampler; weights are the integrals of the Lagrange polynomials through the last slopes.
Differs: integrals are exact (polynomials, no quadrature), on any path; slopes from pure noise, where the variable is
infinite, are left out of the history.
When to use: smooth denoisers and ten or more steps; ``dpmpp_2m`` is the better default below that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import Polynomial
from torch import Tensor

from robopolicy.core.errors import ConfigError
from robopolicy.paths.base import GaussianPath
from robopolicy.samplers.base import Denoiser, Levels, Sampler, plus
from robopolicy.samplers.ddim import from_state

MOST = 4


@dataclass(frozen=True, kw_only=True)
class LMS(Sampler):
    """Deterministic, ``n`` queries; ``order`` 1 to 4 slopes are combined as soon as there are as many."""

    order: int = MOST

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.order, bool) or not isinstance(self.order, int) or not 1 <= self.order <= MOST:
            raise ConfigError(f"order must be an integer within 1..{MOST}, got {self.order!r}")

    def coefficients(self, levels: Levels) -> Sequence[np.ndarray]:
        """Columns ``(x0, z)``, then older slopes (newest first), then how ``x0`` and ``z`` make this step's slope."""
        alpha, sigma, alpha_next, sigma_next = levels.steps
        euler_x, euler_z, _ = from_state(levels, sigma_next, np.zeros_like(sigma_next))
        flat = levels.kappa.reshape(len(levels.kappa), -1)
        weights = np.stack([_adams_bashforth(column, self.order) for column in flat.T], axis=-1)
        weights = weights.reshape(MOST, *alpha.shape) * alpha_next  # (slope, step) or (slope, step, channel)
        pure = alpha == 0
        safe = np.where(pure, 1.0, alpha)
        c_x = np.where(pure, euler_x, -weights[0] * alpha / sigma)
        c_z = np.where(pure, euler_z, alpha_next / safe + weights[0] / sigma)
        return c_x, c_z, *weights[1:], -alpha / sigma, 1 / sigma

    def __call__(
        self, denoise: Denoiser, path: GaussianPath, times: Tensor, z: Tensor, tape: Tensor | None = None
    ) -> Tensor:
        plan = self.plan(path, times, z)
        self.noises(plan, z, tape)
        slopes: deque[Tensor] = deque(maxlen=MOST - 1)
        for t, (c_x, c_z, *older, s_x, s_z) in zip(plan.times, plan.rows, strict=True):
            x0 = self.clipped(denoise(z, t).x0)
            slope = plus(z * s_z, x0, s_x)
            z = plus(x0 * c_x, z, c_z)
            for past, weight in zip(slopes, older, strict=False):
                z = plus(z, past, weight)
            slopes.appendleft(slope)
        return z


def _adams_bashforth(kappa: np.ndarray, order: int) -> np.ndarray:
    """Weights ``(MOST, n)`` of the slopes at ``kappa[i], kappa[i - 1], ...`` in the step to ``kappa[i + 1]``."""
    steps = len(kappa) - 1
    weights = np.zeros((MOST, steps))
    first = int(np.isinf(kappa[0]))
    for i in range(first, steps):
        nodes = kappa[max(first, i - order + 1) : i + 1][::-1]
        for j, node in enumerate(nodes):
            others = np.delete(nodes, j)
            basis = Polynomial.fromroots(others) if len(others) else Polynomial([1.0])
            area = (basis / np.prod(node - others)).integ()
            weights[j, i] = area(kappa[i + 1]) - area(kappa[i])
    return weights
