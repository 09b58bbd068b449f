"""Reductions of elementwise errors to one number a sample."""

from __future__ import annotations

import torch
from torch import Tensor

from robopolicy.core.specs import ActionSpace, ChannelKind


def masked_mean(error: Tensor, mask: Tensor | None = None, channels: Tensor | None = None) -> Tensor:
    """Mean of ``error`` ``(B, H, D)`` over the counted steps and channels, ``(B,)``.

    ``mask`` ``(B, H)`` is 1 where a step counts; ``channels`` ``(D,)`` is 1 where a channel counts.  A sample
    without any counted step has loss 0.
    """
    if channels is not None:
        error = error * channels
        per_step = error.sum(-1) / channels.sum().clamp(min=1)
    else:
        per_step = error.mean(-1)
    if mask is None:
        return per_step.mean(-1)
    mask = mask.to(per_step.dtype)
    return (per_step * mask).sum(-1) / mask.sum(-1).clamp(min=1)


def counted_channels(space: ActionSpace) -> Tensor | None:
    """1 where a channel is an action and 0 where it only pads, ``(D,)``; ``None`` when all count."""
    counted = torch.tensor([kind is not ChannelKind.PADDING for kind in space.channel_kinds], device="cpu")
    return None if counted.all() else counted.float()
