"""BatchNorm is taken out of encoders: its running statistics are neither trained nor averaged by EMA.

Source: Diffusion Policy section 3.3 (GroupNorm of C/16 groups) and issues #103 and #151 of its repository.  Networks
from scratch get GroupNorm; pretrained ones keep BatchNorm's arithmetic with its statistics frozen as buffers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

CHANNELS_PER_GROUP = 16


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with ``channels / 16`` groups, or the nearest smaller number that divides the channels."""
    groups = max(channels // CHANNELS_PER_GROUP, 1)
    while channels % groups:
        groups -= 1
    return nn.GroupNorm(groups, channels)


def replace_batchnorm(module: nn.Module) -> int:
    """Replace every ``BatchNorm2d`` below ``module`` by ``group_norm``, in place; returns how many."""
    return _replace(module, lambda bn: group_norm(bn.num_features))


def freeze_batchnorm(module: nn.Module) -> int:
    """Replace every ``BatchNorm2d`` by its frozen form (affine and statistics become buffers); returns how many."""
    return _replace(module, _frozen)


def _frozen(bn: nn.BatchNorm2d) -> nn.Module:
    from torchvision.ops.misc import FrozenBatchNorm2d  # here, because policies without cameras need no torchvision

    frozen = FrozenBatchNorm2d(bn.num_features, eps=bn.eps)
    assert bn.running_mean is not None
    assert bn.running_var is not None
    with torch.no_grad():
        frozen.weight.copy_(bn.weight)
        frozen.bias.copy_(bn.bias)
        frozen.running_mean.copy_(bn.running_mean)
        frozen.running_var.copy_(bn.running_var)
    return frozen


def _replace(module: nn.Module, make: Callable[[nn.BatchNorm2d], nn.Module]) -> int:
    count = 0
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, make(child))
            count += 1
        else:
            count += _replace(child, make)
    return count
