"""DDIM: non-Markovian sampler, deterministic at ``eta = 0``.

Source: Song et al. 2020 (arXiv 2010.02502), eq. 12 and 16.
Differs: each step goes to the *next level of the grid* (the diffusers scheduler subtracts ``T // n``, which leaves
its own grid for "linspace" spacing and wherever n does not divide T).  Works on any Gaussian path: at ``eta = 0``
it is explicit Euler on ``dy/dkappa = eps`` in EDM coordinates.
When to use: few steps (5-20) and wherever the decoder must be a function of the latent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robopolicy.core.errors import ConfigError
from robopolicy.samplers.base import Levels, Sampler


def split_noise(levels: Levels, eta: float) -> tuple[np.ndarray, np.ndarray]:
    """Next level's sigma split into ``(kept, fresh)`` with ``kept^2 + fresh^2 = sigma^2``; ``eta = 1`` is ancestral."""
    kappa, after = levels.kappa[:-1], levels.kappa[1:]
    fresh = np.minimum(eta * np.sqrt(1 - (after / kappa) ** 2), 1.0)
    sigma = levels.sigma[1:]
    return sigma * np.sqrt(1 - fresh**2), sigma * fresh


def from_state(levels: Levels, kept: np.ndarray, fresh: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns ``(x0, z, noise)`` of ``alpha' x0 + kept eps + fresh noise`` with ``eps = (z - alpha x0) / sigma``."""
    alpha, sigma, alpha_next, _ = levels.steps
    return alpha_next - kept * alpha / sigma, kept / sigma, fresh


@dataclass(frozen=True, kw_only=True)
class EtaSampler(Sampler):
    """``eta``: share of fresh noise a step, 0 (deterministic) to 1 (ancestral)."""

    eta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.eta) and 0 <= self.eta <= 1):
            raise ConfigError(f"eta must be within [0, 1], got {self.eta}")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0


@dataclass(frozen=True, kw_only=True)
class DDIM(EtaSampler):
    """``eta``: share of fresh noise, 0 (deterministic) to 1 (ancestral).

    ``rederive_eps``: after clipping ``x0``, take the noise direction from the clipped value (consistent with the
    state) and not from the network (the common default, which Diffusion Policy checkpoints were evaluated with).
    """

    rederive_eps: bool = False

    @property
    def keeps_eps(self) -> bool:
        return not self.rederive_eps

    def coefficients(self, levels: Levels) -> Sequence[np.ndarray]:
        kept, fresh = split_noise(levels, self.eta)
        return from_state(levels, kept, fresh) if self.rederive_eps else (levels.alpha[1:], kept, fresh)
