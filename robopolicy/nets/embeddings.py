"""Sinusoidal embedding of the denoising step (Ho 2020, arXiv 2006.11239; layout of Diffusion Policy, 2303.04137).

Differs from the embedding of "Attention is all you need": all sines come first, then all cosines, and the
frequencies end exactly at 1/10000.  Used by every network here that is told a noise level.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robopolicy.core.errors import ConfigError


def sinusoid(t: Tensor, dim: int) -> Tensor:
    """Embed times ``t (...)`` (native units, e.g. step numbers) as ``(..., dim)`` float32: ``[sin(t f) | cos(t f)]``.

    ``f_i = exp(-i ln(10000) / (dim/2 - 1))``.
    """
    half = dim // 2
    rate = -math.log(10_000.0) / (half - 1)
    frequencies = torch.exp(torch.arange(half, device=t.device, dtype=torch.float32) * rate)
    angles = t.to(torch.float32).unsqueeze(-1) * frequencies
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


def check_embedding_dim(name: str, dim: int) -> None:
    """Raise ``ConfigError`` unless ``dim`` can hold the two halves of a sinusoid."""
    if dim < 4 or dim % 2:
        raise ConfigError(f"{name}: expected an even number of at least 4, got {dim}; use e.g. {max(4, dim + dim % 2)}")


def batch_times(t: Tensor | float | int, n: int, device: torch.device) -> Tensor:
    """Return times as ``(n,)`` on ``device`` from a scalar, a 0-dim tensor, or an ``(n,)`` tensor."""
    t = torch.as_tensor(t, device=device)
    if t.ndim > 1 or (t.ndim == 1 and t.shape[0] not in (1, n)):
        raise ConfigError(f"time: expected a scalar or shape ({n},), got {tuple(t.shape)}; pass one time per row")
    return t.expand(n)


class StepEmbedding(nn.Module):
    """Sinusoid of size ``dim`` and a two-layer perceptron ``dim -> 4 dim -> dim`` with Mish."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        check_embedding_dim("step_embed_dim", dim)
        self.dim = dim
        self.up = nn.Linear(dim, 4 * dim)
        self.down = nn.Linear(4 * dim, dim)

    def forward(self, t: Tensor) -> Tensor:
        """Embed ``t (N,)`` as ``(N, dim)``."""
        angles = sinusoid(t, self.dim).to(self.up.weight.dtype)
        out: Tensor = self.down(F.mish(self.up(angles)))
        return out
