"""Solvers that ask once more inside each step, halfway to the next level in log noise; ``dpm2`` and ``dpmpp_2s``.

Source: Karras et al. 2022 (arXiv 2206.00364), section 3, and k-diffusion's samplers of these names.
Differs: the extra levels are put into the grid beforehand, so that one cached plan holds predictor and corrector rows.
A step that starts at pure noise, where no halfway exists, and the one into the clean level are Euler's.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from robopolicy.core.errors import ConfigError
from robopolicy.paths.base import GaussianPath
from robopolicy.samplers.base import Denoiser, Levels, Sampler, added, plus
from robopolicy.samplers.ddim import from_state


class Between(Sampler):
    """Deterministic, order 2, ``2 n - 1`` queries; needs a path that can be asked between its grid points."""

    @abstractmethod
    def correct(self, start: Levels, middle: Levels, end: Levels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Factors of ``(x0 at the middle, state at the middle, state at the start)`` in the state at the end."""

    def queries(self, n_steps: int) -> int:
        return 2 * n_steps - 1

    def asked(self, path: GaussianPath, times: Tensor) -> Tensor:
        """The grid with its middles."""
        if path.discrete or path.per_channel:
            raise ConfigError(
                f"{type(self).__name__} asks between the levels of the grid, which {type(path).__name__} does not "
                "allow; use dpmpp_2m or heun"
            )
        kappa = path.kappa(times.double())
        if len(times) == 1 or not bool(kappa[-1] > 0):
            return times
        found, _ = path.t_of_kappa((kappa[:-1] * kappa[1:]).sqrt())
        pairs = torch.stack([times[:-1], found.to(times)], dim=1)
        pure = int(kappa[0].isinf())
        return torch.cat([times[:pure], pairs[pure:].flatten(), times[-1:]])

    def coefficients(self, levels: Levels) -> Sequence[np.ndarray]:
        """Columns ``(x0, state here, state at the step's start)``; rows of middles are correctors."""
        guess, keep = from_state(levels, levels.sigma[1:], np.zeros_like(levels.sigma[1:]))[:2]
        back = np.zeros_like(guess)
        for at in range(int(np.isinf(levels.kappa[0])) + 1, len(guess) - 1, 2):
            guess[at], keep[at], back[at] = self.correct(*(_level(levels, at + i) for i in (-1, 0, 1)))
        return guess, keep, back

    def __call__(
        self, denoise: Denoiser, path: GaussianPath, times: Tensor, z: Tensor, tape: Tensor | None = None
    ) -> Tensor:
        plan = self.plan(path, self.asked(path, times), z)
        self.noises(plan, z, tape)
        start = z
        for t, (c_x, c_z, c_start) in zip(plan.times, plan.rows, strict=True):
            x0 = self.clipped(denoise(z, t).x0)
            here, z = z, added(x0 * c_x, z, c_z)
            z, start = plus(z, start, c_start), here
        return z


def _level(levels: Levels, at: int) -> Levels:
    return Levels(levels.alpha[at], levels.sigma[at], levels.kappa[at])
