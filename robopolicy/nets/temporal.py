"""Parameters of the U-Net's convolutions along time, stored tap first: ``weight (taps, inputs, outputs)``.

Same functions and initial distributions as ``nn.Conv1d`` and ``nn.ConvTranspose1d``.  The layout differs: every tap
is one contiguous matrix, so that short convolutions can run as matrix products without repacking the weights.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from robopolicy.core.errors import ConfigError


class TapConv(nn.Module):
    """Convolution along time with ``padding = taps // 2``; ``stride`` 1 or 2.  Applied by an ``Ops`` object."""

    def __init__(self, inputs: int, outputs: int, taps: int, stride: int = 1) -> None:
        super().__init__()
        if taps % 2 == 0:
            raise ConfigError(f"kernel_size: expected an odd number, got {taps}; use {taps + 1}")
        self.stride, self.padding = stride, taps // 2
        self.weight = nn.Parameter(torch.empty(taps, inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))
        _uniform(self.weight, self.bias, fan_in=inputs * taps)

    @property
    def conv1d_weight(self) -> Tensor:
        """View ``(outputs, inputs, taps)``: the layout of ``F.conv1d``."""
        return self.weight.permute(2, 1, 0)


class TapUpsample(nn.Module):
    """Transposed convolution with four taps, stride 2, padding 1: doubles the length."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4, channels, channels))
        self.bias = nn.Parameter(torch.empty(channels))
        _uniform(self.weight, self.bias, fan_in=channels * 4)

    @property
    def conv1d_weight(self) -> Tensor:
        """View ``(inputs, outputs, taps)``: the layout of ``F.conv_transpose1d``."""
        return self.weight.permute(1, 2, 0)


def _uniform(weight: Tensor, bias: Tensor, fan_in: int) -> None:
    bound = 1.0 / math.sqrt(fan_in)
    nn.init.uniform_(weight, -bound, bound)
    nn.init.uniform_(bias, -bound, bound)
