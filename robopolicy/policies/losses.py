"""Reductions of elementwise errors to one number a sample."""

from __future__ import annotations

from torch import Tensor


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
