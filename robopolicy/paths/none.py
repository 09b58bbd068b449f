"""The absence of a path: heads that are not trained on noised data (unconditioned energies).

Source: Du & Mordatch 2019 (arXiv 1903.08689) for the kind of head; the class itself only refuses.
When to use: an energy head without noise levels.  Anything that asks for a level, a grid or a match is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from robopolicy.core.errors import IncompatibleNoiseLevel
from robopolicy.paths.base import Coefficient, GaussianPath


class NoPath(GaussianPath):
    """States are clean chunks: ``alpha = 1``, ``sigma = 0`` at any time."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def rates(self, alpha: Coefficient, sigma: Coefficient) -> tuple[Coefficient, Coefficient]:
        _refuse("a velocity")

    def levels(self, times: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        _refuse("noise levels")

    def t_of_kappa(self, kappa: Tensor) -> tuple[Tensor, Tensor]:
        _refuse("a time for a noise ratio")

    def grid(self, n_steps: int, spacing: str = "") -> Tensor:
        _refuse("a sampling grid")


def _refuse(what: str) -> NoReturn:
    raise IncompatibleNoiseLevel(
        f"this head has no noise path, so it cannot give {what}; "
        "use its own optimiser, or a head conditioned on the noise level"
    )
