"""Euler with ancestral noise: an Euler step below the next level, then fresh noise up to it.

Source: k-diffusion's Euler ancestral sampler; the reverse SDE of Song et al. 2021 (arXiv 2011.13456).
Differs: in native coordinates for any path.  ``eta = 1`` has DDPM's mean and variance on variance-preserving paths.
When to use: EDM heads that profit from noise (BESO in the kitchen).  Stochastic: give a tape to make it a function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robopolicy.samplers.base import Levels
from robopolicy.samplers.ddim import EtaSampler, from_state, split_noise


@dataclass(frozen=True, kw_only=True)
class Ancestral(EtaSampler):
    """``eta``: share of fresh noise; 1 is full, 0 falls back to Euler."""

    eta: float = 1.0

    def coefficients(self, levels: Levels) -> Sequence[np.ndarray]:
        return from_state(levels, *split_noise(levels, self.eta))
