"""Channels with different schedules at one shared time (3D Diffuser Actor: position and rotation).

Source: Ke et al. 2024 (arXiv 2402.10885), released code: position "scaled_linear", rotation "squaredcos_cap_v2".
Differs: the pair is one path whose coefficients have a channel axis, so every sampler works on it unchanged.
When to use: such heads only.  ``kappa`` is a vector: a partner with one scalar ``kappa`` can hardly be matched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from robopolicy.core.errors import ConfigError, IncompatibleNoiseLevel
from robopolicy.paths.base import Coefficient, GaussianPath, log_distance
from robopolicy.paths.vp import VPDiscrete

Channels = tuple[int, int]  # [start, stop)


class PerChannel(GaussianPath):
    """``parts`` maps channel ranges ``(start, stop)`` (stop excluded) to discrete paths of equal length.

    Ranges must tile ``0..D`` without gaps.  Coefficients have shape ``t.shape + (D,)``.
    """

    discrete = True
    per_channel = True

    def __init__(self, parts: Mapping[Channels, VPDiscrete]) -> None:
        self.parts = tuple(sorted(parts.items(), key=lambda item: item[0]))
        edge = 0
        for (start, stop), _ in self.parts:
            if start != edge or stop <= start:
                raise ConfigError(f"channel ranges must tile 0..D without gaps, got {[k for k, _ in self.parts]}")
            edge = stop
        if len({p.num_train_steps for _, p in self.parts}) != 1:
            raise ConfigError("per-channel paths need one non-empty set of paths with equal num_train_steps")
        self.dim = edge

    @property
    def num_train_steps(self) -> int:
        return self.parts[0][1].num_train_steps

    def _join(self, columns: Sequence[Tensor]) -> Tensor:
        wide = [c[..., None].expand(*c.shape, b - a) for ((a, b), _), c in zip(self.parts, columns, strict=True)]
        return torch.cat(wide, -1)

    def alpha(self, t: Tensor) -> Tensor:
        return self._join([p.alpha(t) for _, p in self.parts])

    def sigma(self, t: Tensor) -> Tensor:
        return self._join([p.sigma(t) for _, p in self.parts])

    def rates(self, alpha: Coefficient, sigma: Coefficient) -> tuple[Coefficient, Coefficient]:
        return -sigma, alpha

    def levels(self, times: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        pairs = [p.levels(times) for _, p in self.parts]
        width = [b - a for (a, b), _ in self.parts]
        alpha, sigma = (np.repeat(np.stack([q[i] for q in pairs], -1), width, axis=-1) for i in (0, 1))
        return alpha, sigma

    def t_of_kappa(self, kappa: Tensor) -> tuple[Tensor, Tensor]:
        """Time whose worst channel is nearest to ``kappa`` ``(D,)``; raises for a scalar ``kappa``."""
        if kappa.ndim == 0 or kappa.shape[-1] != self.dim:
            raise IncompatibleNoiseLevel(
                f"a per-channel path has {self.dim} noise ratios at each time, got {tuple(kappa.shape)}; "
                "a head with one ratio cannot be matched to it"
            )
        table = self.kappa(torch.arange(self.num_train_steps, device=kappa.device))
        worst = log_distance(table.expand(*kappa.shape[:-1], *table.shape), kappa[..., None, :]).amax(-1)
        distance, t = worst.min(-1)
        return t, distance

    def grid(self, n_steps: int, spacing: str = "leading") -> Tensor:
        return self.parts[0][1].grid(n_steps, spacing)
