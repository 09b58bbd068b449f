"""Euler: first-order solver of the probability-flow ODE ``dy/dkappa = (y - x0) / kappa``.

Source: Karras et al. 2022 (arXiv 2206.00364), algorithm 1 without the correction; for linear flows it is
``z + (t' - t) u``.
Differs: the direction always follows the clipped ``x0`` (as in k-diffusion), and the step is written so that a
start at pure noise is regular.  Equals DDIM at ``eta = 0`` with ``rederive_eps``.
When to use: flow heads; a baseline for the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robopolicy.samplers.base import Levels, Sampler
from robopolicy.samplers.ddim import from_state


@dataclass(frozen=True, kw_only=True)
class Euler(Sampler):
    """Deterministic, order 1, one query a step."""

    def coefficients(self, levels: Levels) -> Sequence[np.ndarray]:
        kept = levels.sigma[1:]
        return from_state(levels, kept, np.zeros_like(kept))
