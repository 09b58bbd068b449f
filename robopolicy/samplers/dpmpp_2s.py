"""DPM-Solver++ (2S): second-order singlestep solver in log-SNR, two queries a step (one in the last).

Source: Lu et al. 2022 (arXiv 2211.01095), algorithm 1 with r = 1/2 (data prediction).
Differs: on any path with a continuous time (see ``between``); the last step is first order.
When to use: where the history that ``dpmpp_2m`` relies on is worth little, as with strong guidance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robopolicy.samplers.base import Levels
from robopolicy.samplers.between import Between


@dataclass(frozen=True, kw_only=True)
class DPMpp2S(Between):
    """Deterministic, order 2, ``2 n - 1`` queries."""

    def correct(self, start: Levels, middle: Levels, end: Levels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shrink = end.kappa / start.kappa  # exp(-h)
        return end.alpha * (1 - shrink), np.zeros_like(shrink), end.sigma / start.sigma
