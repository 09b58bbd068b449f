"""Heun: second-order solver of the probability-flow ODE, two queries a step (one in the last).

Source: Karras et al. 2022 (arXiv 2206.00364), algorithm 1 without churn.
Differs: both slopes are folded into one linear map of ``(z, x0, x0')`` worked out beforehand.  ``space`` chooses the
variable of the trapezoid rule: "edm" integrates ``dy/dkappa = eps`` (the paper); "native" integrates
``dz = x0 d(alpha) + eps d(sigma)``, which for a linear flow is Heun in its own time.  A step that starts at pure
noise (``alpha = 0``) is taken in native form, where it is regular.
When to use: when 10-40 queries are affordable and the ODE must be accurate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from torch import Tensor

from robopolicy.core.errors import ConfigError
from robopolicy.paths.base import GaussianPath
from robopolicy.samplers.base import Denoiser, Levels, Sampler, added, plus

Space = Literal["edm", "native"]


@dataclass(frozen=True, kw_only=True)
class Heun(Sampler):
    """Deterministic, order 2, ``2 n - 1`` queries."""

    space: Space = "edm"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.space not in get_args(Space):
            raise ConfigError(f"space must be one of {', '.join(get_args(Space))}; got {self.space!r}")

    def queries(self, n_steps: int) -> int:
        return 2 * n_steps - 1

    def coefficients(self, levels: Levels) -> Sequence[np.ndarray]:
        """Columns: predictor ``(x0, z)``, then what the corrector adds ``(x0, x0')``; the last step has none."""
        a, s, a2, s2 = levels.steps
        last = s2 == 0
        native = (a == 0) | (self.space == "native")
        safe_a, safe_s2 = np.where(a == 0, 1.0, a), np.where(last, 1.0, s2)
        # z' = z (s2/s) + d_alpha (x0 + x0')/2 + d_sigma (rest of the mean slope); see the module's first lines
        d_alpha = np.where(native, a2 - a, 0.0)
        d_sigma = np.where(native, s2 - s, s2 - a2 * s / safe_a)
        first = d_alpha / 2 + d_sigma / 2 * (a2 / safe_s2 - 2 * a / s)
        second = d_alpha / 2 - d_sigma / 2 * a2 / safe_s2
        guess = a2 - s2 * a / s
        return guess, s2 / s, np.where(last, 0.0, first - guess), np.where(last, 0.0, second)

    def __call__(
        self, denoise: Denoiser, path: GaussianPath, times: Tensor, z: Tensor, tape: Tensor | None = None
    ) -> Tensor:
        plan = self.plan(path, times, z)
        self.noises(plan, z, tape)
        for i, (p_x, p_z, c_x, c_x2) in enumerate(plan.rows):
            x0 = self.clipped(denoise(z, plan.times[i]).x0)
            z = plus(x0 * p_x, z, p_z)
            if c_x2 is not None:  # the clean level has no second slope
                ahead = self.clipped(denoise(z, plan.times[i + 1]).x0)
                z = plus(added(z, x0, c_x), ahead, c_x2)
        return z
