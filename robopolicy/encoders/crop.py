"""Crops and rescalings whose randomness comes from outside, so that a training step is a function of its inputs.

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


def rescale_indices(size: tuple[int, int], draw: Tensor) -> Tensor:
    """Which pixel of a picture of ``size`` ``(H, W)`` each pixel of its rescaled copy shows, ``(N, H * W)``.

    ``draw`` ``(N, 3)`` is a factor and a (vertical, horizontal) place in [0, 1).  Larger copies are cropped back at the
    place, smaller ones continue at the bottom and right as in a mirror (3D Diffuser Actor, section 4.4 of the spec).
    Nearest neighbours only, so whatever lies on the same pixels stays together: use ``take_pixels`` on each.
    """
    axes = []
    for length, place in zip(size, (draw[:, 1], draw[:, 2]), strict=True):
        scaled = (length * draw[:, 0]).round().clamp(min=1)
        offset = (place * (scaled - length + 1).clamp(min=1)).floor().clamp(max=(scaled - length).clamp(min=0))
        seen = torch.arange(length, device=draw.device) + offset[:, None]
        last = scaled[:, None] - 1
        seen = torch.where(seen > last, 2 * last - seen, seen).abs()
        axes.append(((seen + 0.5) * length / scaled[:, None]).long().clamp(max=length - 1))
    return (axes[0][:, :, None] * size[1] + axes[1][:, None, :]).flatten(1)


def take_pixels(images: Tensor, indices: Tensor) -> Tensor:
    """``images`` ``(N, C, H, W)`` made of their own pixels ``indices`` ``(N, H * W)``, row by row."""
    chosen = indices[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, chosen).reshape(images.shape)


def center_crop(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Centred crop ``(N, C, h, w)`` of ``(N, C, H, W)`` (a view; odd margins round as torchvision does)."""
    h, w = size
    top, left = round((images.shape[-2] - h) / 2), round((images.shape[-1] - w) / 2)
    return images[..., top : top + h, left : left + w]
