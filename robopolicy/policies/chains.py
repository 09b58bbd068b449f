"""Training on chains: batches ``(B, C, ...)`` to the rows ``(B * C, ...)`` that encoders and heads know, and back.

A chain is ``C`` windows of one episode, each one plan after the one before; the loss of a chain is the mean over its
real windows.  A plain batch is one of chains of a single window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robopolicy.core.errors import InvalidAction

GATE_OPEN, GATE_SHUT = 0.9, 0.1


@dataclass(frozen=True)
class Chains:
    """``B`` chains of ``length`` windows; ``real`` ``(B, length)`` is 0 where a window only fills up its chain."""

    rows: int
    length: int
    real: Tensor | None = None

    @staticmethod
    def of(target: Tensor, mask: Tensor | None) -> Chains:
        """The chains of ``target`` ``(B, C, H, D)`` with ``mask`` ``(B, C, H)``, or of a plain batch ``(B, H, D)``."""
        if target.ndim == 3:
            return Chains(len(target), 1)
        return Chains(len(target), target.shape[1], None if mask is None else mask.any(-1))

    def flat(self, value: Any) -> Any:
        """Rows of chains ``(B, C, ...)`` one under the other; lists stay lists."""
        if isinstance(value, (Tensor, np.ndarray)):
            return value.reshape(self.rows * self.length, *value.shape[2:])
        return [row for chain in value for row in chain]

    def flat_noise(self, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Noise ``(B, C', ...)`` drawn for chains at least this long, by row."""
        for name, value in noise.items():
            if value.ndim < 2 or value.shape[0] != self.rows or value.shape[1] < self.length:
                raise InvalidAction(
                    f"noise '{name}': expected ({self.rows}, {self.length} or more, ...) for these chains, got "
                    f"{tuple(value.shape)}; take it from draw_training_noise, or raise encoder.temporal.max_chain"
                )
        return {name: self.flat(value[:, : self.length]) for name, value in noise.items()}

    def mean(self, per_row: Tensor) -> Tensor:
        """Mean of ``(B * C,)`` over the real windows of each chain, ``(B,)``; 0 for a chain without any."""
        per_window = per_row.unflatten(0, (self.rows, self.length))
        if self.real is None:
            return per_window.mean(1)
        real = self.real.to(per_window)
        return (per_window * real).sum(1) / real.sum(1).clamp(min=1)


def mask_windows(real: Tensor, horizon: int, mask: Tensor | None = None) -> Tensor:
    """``mask`` ``(B, C, H)`` (all counted when ``None``) without the windows that are not ``real`` ``(B, C)``."""
    windows = real.unsqueeze(-1).expand(-1, -1, horizon)
    return windows if mask is None else windows & mask


def gate_scalars(gate: Tensor, chains: Chains) -> dict[str, Tensor]:
    """Mean, deviation and shares of wide open and shut gates ``(B * C, Ns)``; first windows, always open, left out.

    A mean that stays where it began (0.12 with the default bias) is the first sign of a memory that learns nothing.
    """
    later = gate.detach().float().unflatten(0, (chains.rows, chains.length))[:, 1:]
    if not later.shape[1]:
        return {}
    weight = torch.ones_like(later) if chains.real is None else chains.real[:, 1:, None].to(later).expand_as(later)
    weight = weight / weight.sum().clamp(min=1)
    mean = (weight * later).sum()
    return {
        "gate_mean": mean,
        "gate_std": (weight * (later - mean).square()).sum().sqrt(),
        "gate_open": (weight * (later > GATE_OPEN)).sum(),
        "gate_shut": (weight * (later < GATE_SHUT)).sum(),
    }
