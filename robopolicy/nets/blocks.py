"""Convolution and residual blocks of Diffusion Policy's 1-D U-Net (2303.04137, section IV; official block layout).

Features are ``(N, channels, H)``.  Everything that predicts chunks of actions with temporal convolutions uses these.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from robopolicy.core.errors import ConfigError
from robopolicy.nets.film import FiLM


class ConvBlock(nn.Module):
    """``Conv1d(kernel, same length) -> GroupNorm -> Mish``."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, n_groups: int) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ConfigError(f"kernel_size: expected an odd number, got {kernel_size}; use {kernel_size + 1}")
        if outputs % n_groups:
            raise ConfigError(f"n_groups: {n_groups} does not divide {outputs} channels; change n_groups or down_dims")
        self.conv = nn.Conv1d(inputs, outputs, kernel_size, padding=kernel_size // 2)
        self.norm = nn.GroupNorm(n_groups, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs, H) -> (N, outputs, H)``."""
        return F.mish(self.norm(self.conv(x)))


class ResidualBlock(nn.Module):
    """Two convolution blocks with FiLM between them, plus a skip (1x1 convolution when the widths differ)."""

    def __init__(
        self, inputs: int, outputs: int, cond_dim: int, kernel_size: int, n_groups: int, scale: bool = True
    ) -> None:
        super().__init__()
        self.first = ConvBlock(inputs, outputs, kernel_size, n_groups)
        self.film = FiLM(cond_dim, outputs, scale)
        self.second = ConvBlock(outputs, outputs, kernel_size, n_groups)
        self.skip: nn.Module = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """``(N, inputs, H), (N, cond_dim) -> (N, outputs, H)``."""
        h = self.film(self.first(x), cond)
        out: Tensor = self.second(h) + self.skip(x)
        return out
