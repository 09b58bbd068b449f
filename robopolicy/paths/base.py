"""Gaussian paths: how a clean chunk is corrupted, ``z = alpha(t) x + sigma(t) e`` with ``e ~ N(0, I)``.

Source: Karras et al. 2022 (arXiv 2206.00364), section 2; Kingma et al. 2021 (arXiv 2107.00630), section 3.
Two paths carry the same information at the same noise ratio ``kappa = sigma / alpha``: the rescaled state
``y = z / alpha`` has a law that depends on ``kappa`` only.  ``(y, kappa)`` are the *EDM coordinates* shared by all.
Times are native to the path (an index, a noise level, a fraction) and always listed from noisy to clean.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Coefficient = float | Tensor

# Levels above this ratio all look like pure noise (adjacent grid points there are e^3.45 apart), so any matches any.
PURE_NOISE = 50.0


class GaussianPath(ABC):
    """Base of all paths.

    ``discrete``: times are integers.  ``per_channel``: coefficients have a channel axis.  ``prior_std``: standard
    deviation of the native state at the noisiest level.  ``clean_time``: native time of the clean level on paths whose
    time is continuous; ``last_time``: the cleanest time a network may be asked about there (else ``None``).
    """

    clean_time: float | None = None
    last_time: float | None = None
    discrete: bool = False
    per_channel: bool = False
    prior_std: float = 1.0

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Signal coefficient, shape of ``t`` (``t.shape + (D,)`` for per-channel paths), float."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Noise coefficient, shaped as ``alpha``."""

    @abstractmethod
    def rates(self, alpha: Coefficient, sigma: Coefficient) -> tuple[Coefficient, Coefficient]:
        """``(alpha', sigma')`` at the time whose coefficients are given; they define ``u = alpha' x + sigma' e``."""

    @abstractmethod
    def t_of_kappa(self, kappa: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest admissible time for noise ratio ``kappa`` and its distance ``|log kappa(t) - log kappa|``.

        The distance is 0 when both ratios are beyond ``PURE_NOISE``.
        """

    @abstractmethod
    def grid(self, n_steps: int, spacing: str) -> Tensor:
        """Times ``(n_steps,)`` on the CPU, noisiest first; the clean level follows the last one and is not listed.

        Raises ``ConfigError`` for a step count or a spacing the path cannot do.
        """

    @abstractmethod
    def levels(self, times: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """``(alpha, sigma)`` in float64 for plain-number times, ``(n,)`` each or ``(n, D)``."""

    def kappa(self, t: Tensor) -> Tensor:
        """Noise ratio ``sigma / alpha`` (``inf`` where there is no signal)."""
        return self.sigma(t) / self.alpha(t)

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Native state ``alpha(t) x0 + sigma(t) eps``; ``x0``, ``eps`` ``(N, H, D)``, ``t`` ``()`` or ``(N,)``."""
        return fit(self.alpha(t), t, x0) * x0 + fit(self.sigma(t), t, x0) * eps


def fit(coefficient: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """Shape a coefficient of times ``t`` so that it multiplies ``like`` ``(N, ..., D)``, in its dtype and device.

    ``coefficient`` has ``t``'s shape, or one more axis for the channels.
    """
    channels = coefficient.shape[t.ndim :]
    middle = (1,) * (like.ndim - t.ndim - len(channels))
    return coefficient.to(like).reshape(*t.shape, *middle, *channels)


def log_distance(found: Tensor, wanted: Tensor) -> Tensor:
    """``|log found - log wanted|``, 0 where both are beyond ``PURE_NOISE`` (they are the same level in practice)."""
    same = ((found > PURE_NOISE) & (wanted > PURE_NOISE)) | (found == wanted)
    return torch.where(same, torch.zeros_like(found), (found.log() - wanted.log()).abs())


def multiplier(value: float, dtype: torch.dtype) -> Coefficient:
    """``value`` in the form torch multiplies a ``dtype`` tensor by fastest without losing digits.

    That is a CPU scalar tensor, twice as fast as a Python float; half-precision tensors keep the float, because
    rounding the coefficient to their precision would add to the error.
    """
    return torch.as_tensor(value, dtype=dtype) if dtype in (torch.float32, torch.float64) else float(value)


def finite_positive(value: float) -> bool:
    """Whether ``value`` is a usable scale."""
    return math.isfinite(value) and value > 0
