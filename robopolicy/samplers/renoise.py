"""Multistep consistency sampling: jump to the end, go back to the next level with fresh noise, jump again.

Source: Song et al. 2023 (arXiv 2303.01469), algorithm 1.
Differs: in native coordinates for any path.
When to use: one-step models with more than one query.  For denoisers it forgets the state between levels; use
``ancestral`` there.  One step is deterministic, more are stochastic: give a tape to make them a function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from robopolicy.samplers.base import Levels, Sampler


@dataclass(frozen=True, kw_only=True)
class Renoise(Sampler):
    """One query a step; every level but the first gets noise of its own."""

    always_stochastic: ClassVar[bool] = True

    def coefficients(self, levels: Levels) -> Sequence[np.ndarray]:
        _, _, alpha_next, sigma_next = levels.steps
        return alpha_next, np.zeros_like(sigma_next), sigma_next
