"""Residual blocks of Diffusion Policy's 1-D U-Net (2303.04137, section IV; official block layout).

A block knows its parameters and the order of operations; *how* a convolution or a normalisation is computed is the
business of the ``Ops`` object handed in (``ops.py``), so that one topology serves training and fast inference.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor, nn

from robopolicy.core.errors import ConfigError
from robopolicy.nets.temporal import TapConv, TapUpsample


class Modulation(NamedTuple):
    """FiLM coefficients of one block, ``(N, channels)`` each; ``scale`` is None when only a bias is predicted."""

    scale: Tensor | None
    shift: Tensor


class Ops(Protocol):
    """How features are laid out and computed; ``h`` is opaque to the blocks."""

    def enter(self, x: Tensor) -> Tensor:
        """Chunk ``(N, H, D)`` to features."""

    def leave(self, h: Tensor) -> Tensor:
        """Features to chunk ``(N, H, D)``."""

    def conv(self, module: TapConv, h: Tensor) -> Tensor:
        """Convolve along time."""

    def norm(self, module: nn.GroupNorm, h: Tensor, film: Modulation | None) -> Tensor:
        """GroupNorm, Mish, then FiLM."""

    def upsample(self, module: TapUpsample, h: Tensor) -> Tensor:
        """Double the length."""

    def cat(self, a: Tensor, b: Tensor) -> Tensor:
        """Concatenate channels."""

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """Sum; ``a`` may be overwritten."""


class ConvBlock(nn.Module):
    """Convolution of the same length, GroupNorm, Mish."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, n_groups: int) -> None:
        super().__init__()
        if outputs % n_groups:
            raise ConfigError(f"n_groups: {n_groups} does not divide {outputs} channels; change n_groups or down_dims")
        self.conv = TapConv(inputs, outputs, kernel_size)
        self.norm = nn.GroupNorm(n_groups, outputs)

    def forward(self, ops: Ops, h: Tensor, film: Modulation | None = None) -> Tensor:
        """Apply to features; ``film`` modulates the result."""
        return ops.norm(self.norm, ops.conv(self.conv, h), film)


class ResidualBlock(nn.Module):
    """Two convolution blocks with FiLM between them, plus a skip (1x1 convolution when the widths differ).

    FiLM (Perez 2018, 1709.07871) is ``scale h + bias`` with the default initialisation: no ``1 +``, no zero start.
    """

    def __init__(
        self, inputs: int, outputs: int, cond_dim: int, kernel_size: int, n_groups: int, scale: bool = True
    ) -> None:
        super().__init__()
        self.first = ConvBlock(inputs, outputs, kernel_size, n_groups)
        self.film = nn.Linear(cond_dim, 2 * outputs if scale else outputs)
        self.second = ConvBlock(outputs, outputs, kernel_size, n_groups)
        self.skip = TapConv(inputs, outputs, 1) if inputs != outputs else None
        self.scale = scale

    def modulation(self, table: Tensor) -> Modulation:
        """Split ``film``'s output ``(N, channels or 2 channels)``: first half scale, second half bias."""
        if not self.scale:
            return Modulation(None, table)
        scale, shift = table.chunk(2, dim=-1)
        return Modulation(scale, shift)

    def forward(self, ops: Ops, h: Tensor, film: Modulation) -> Tensor:
        """Apply to features with the block's own ``film``."""
        out = self.second(ops, self.first(ops, h, film))
        skip: Tensor = h if self.skip is None else ops.conv(self.skip, h)
        return ops.add(out, skip)
