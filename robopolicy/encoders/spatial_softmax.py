"""Spatial softmax: every feature map becomes the expected (x, y) of its mass.

Source: Levine et al. 2016, in the form Diffusion Policy uses (section 3.3 of the spec): 1x1 convolution to ``K``
maps, temperature 1, coordinates in [-1, 1].  Keeps where things are in ``2 K`` numbers whatever the map's size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SpatialSoftmax(nn.Module):
    """``(N, C, h, w)`` feature maps to ``(N, 2 K)`` keypoints, x before y for each of the ``K`` maps."""

    coordinates: Tensor

    def __init__(self, channels: int, num_keypoints: int, size: tuple[int, int]) -> None:
        """``size`` is ``(h, w)`` of the incoming maps."""
        super().__init__()
        self.to_maps = nn.Conv2d(channels, num_keypoints, kernel_size=1)
        h, w = size
        y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
        self.register_buffer("coordinates", torch.stack([x.flatten(), y.flatten()], dim=-1), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        weights = self.to_maps(maps).flatten(2).softmax(dim=-1)
        return (weights @ self.coordinates.to(weights.dtype)).flatten(1)
