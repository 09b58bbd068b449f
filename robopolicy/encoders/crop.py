"""Crops whose randomness comes from outside, so that a training step is a function of its inputs.

Source: Diffusion Policy section 3.4 (random in training, centred after, independent per frame).  What differs: the
reference never uses the last valid offset and fails when crop and image are equal; here all positions count.
"""

from __future__ import annotations

import torch
from torch import Tensor


def crop_at(images: Tensor, size: tuple[int, int], where: Tensor) -> Tensor:
    """Crop every image at its own place.

    ``images`` ``(N, C, H, W)``; ``size`` ``(h, w)``; ``where`` ``(N, 2)`` in [0, 1), fractions of the valid
    (vertical, horizontal) offsets, all ``H - h + 1`` and ``W - w + 1`` of which are equally likely.
    """
    h, w = size
    room = torch.tensor([images.shape[-2] - h, images.shape[-1] - w], device=images.device)
    offsets = torch.minimum((where * (room + 1)).long(), room)
    windows = images.unfold(2, h, 1).unfold(3, w, 1)
    rows = torch.arange(len(images), device=images.device)
    return windows[rows, :, offsets[:, 0], offsets[:, 1]]


def center_crop(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Centred crop ``(N, C, h, w)`` of ``(N, C, H, W)`` (a view; odd margins round as torchvision does)."""
    h, w = size
    top, left = round((images.shape[-2] - h) / 2), round((images.shape[-1] - w) / 2)
    return images[..., top : top + h, left : left + w]
