"""The plain way to compute the U-Net: torch's convolutions on ``(N, channels, H)``.  Used off the CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robopolicy.nets.blocks import Modulation
from robopolicy.nets.temporal import TapConv, TapUpsample


class ChannelsFirstOps:
    """``F.conv1d``, ``F.group_norm``, ``F.mish``."""

    def enter(self, x: Tensor) -> Tensor:
        """``(N, H, D) -> (N, D, H)``."""
        return x.transpose(1, 2)

    def leave(self, h: Tensor) -> Tensor:
        """``(N, D, H) -> (N, H, D)``."""
        return h.transpose(1, 2)

    def conv(self, module: TapConv, h: Tensor) -> Tensor:
        """Convolve along time."""
        return F.conv1d(h, module.conv1d_weight, module.bias, module.stride, module.padding)

    def norm(self, module: nn.GroupNorm, h: Tensor, film: Modulation | None) -> Tensor:
        """GroupNorm, Mish, then FiLM."""
        out = F.mish(module(h))
        if film is None:
            return out
        shift = film.shift.unsqueeze(-1)
        return out + shift if film.scale is None else film.scale.unsqueeze(-1) * out + shift

    def upsample(self, module: TapUpsample, h: Tensor) -> Tensor:
        """Double the length."""
        return F.conv_transpose1d(h, module.conv1d_weight, module.bias, stride=2, padding=1)

    def cat(self, a: Tensor, b: Tensor) -> Tensor:
        """Concatenate channels."""
        return torch.cat((a, b), dim=1)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """Sum."""
        return a + b
