"""Depth pictures as point clouds, and DP3's encoder of a cloud.

Source: Ze et al. 2024, *3D Diffusion Policy* (crop to the workspace, farthest point sampling, an MLP with LayerNorm a
point, max-pool, projection).  What differs: pixels without a return are masked instead of padded away, and the picture
is thinned by ``stride`` first.  Points are in the world frame, so moving a camera changes what is seen, not where.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robopolicy.encoders.config import PointCloudConfig


def unproject(depth: Tensor, intrinsics: Tensor, extrinsics: Tensor) -> Tensor:
    """World points ``(N, 3, H, W)`` in metres of ``depth`` ``(N, 1, H, W)`` along the optical axis.

    ``intrinsics`` ``(3, 3)`` or ``(N, 3, 3)`` in pixels (skew 0); ``extrinsics`` ``(4, 4)`` or ``(N, 4, 4)``, camera to
    world, OpenCV axes.  Pixel centres lie at +0.5.
    """
    height, width = depth.shape[-2:]
    k, pose = intrinsics.reshape(-1, 3, 3).to(depth), extrinsics.reshape(-1, 4, 4).to(depth)
    u = (torch.arange(width, device=depth.device) + 0.5 - k[:, 0, 2, None]) / k[:, 0, 0, None]
    v = (torch.arange(height, device=depth.device) + 0.5 - k[:, 1, 2, None]) / k[:, 1, 1, None]
    z = depth[:, 0]
    local = torch.stack([u[:, None, :] * z, v[:, :, None] * z, z], dim=1).flatten(2)
    # Not a matrix product: under autocast that would round places to half precision, millimetres at arm's length.
    points = (pose[:, :3, :3, None] * local[:, None]).sum(2) + pose[:, :3, 3:]
    return points.unflatten(2, (height, width))


def resize_xyz(xyz: Tensor, size: tuple[int, int], mode: str = "nearest") -> Tensor:
    """``xyz`` ``(N, 3, H, W)`` on a grid of ``size`` ``(h, w)``; NaN marks points that are not there.

    ``nearest`` takes the point at each cell's centre; ``bilinear`` mixes four (and invents points between an object
    and what is behind it); ``median`` takes the cell's point that is nearest to the median of each coordinate.
    """
    if tuple(xyz.shape[-2:]) == tuple(size):
        return xyz
    if mode == "nearest":
        return F.interpolate(xyz, size, mode="nearest-exact")
    if mode == "bilinear":
        return F.interpolate(xyz, size, mode="bilinear", align_corners=False)
    height, width = (-(-full // part) * part for full, part in zip(xyz.shape[-2:], size, strict=True))
    whole = F.interpolate(xyz, (height, width), mode="nearest-exact")
    step = (height // size[0], width // size[1])
    cells = F.unfold(whole, step, stride=step).unflatten(1, (3, -1)).transpose(2, 3)  # (N, 3, cells, points)
    middle = cells.nanmedian(dim=-1, keepdim=True).values
    gap = (cells - middle).square().sum(1, keepdim=True).nan_to_num(float("inf"))
    chosen = gap.argmin(-1, keepdim=True).expand(-1, 3, -1, -1)
    return cells.gather(-1, chosen).squeeze(-1).unflatten(2, size)


@torch.no_grad()
def farthest_point_indices(x: Tensor, k: int, valid: Tensor | None = None) -> Tensor:
    """Indices ``(B, k)`` of rows of ``x`` ``(B, N, C)``, each as far as can be from those chosen before it.

    Begins with row 0 (with the first valid row when ``valid`` ``(B, N)`` is given; others are never chosen, unless no
    row is valid).  Once all different rows are taken, rows repeat.  No gradient goes through the choice.
    """
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}")
    x = x.detach()
    rows = torch.arange(len(x), device=x.device)
    distance = torch.full(x.shape[:2], float("inf"), device=x.device, dtype=x.dtype)
    latest = torch.zeros(len(x), dtype=torch.long, device=x.device)
    if valid is not None:
        distance = distance.masked_fill(~valid, -1.0)
        latest = valid.to(torch.uint8).argmax(1)
    chosen = [latest]
    for _ in range(k - 1):
        reach = (x - x[rows, latest, None]).square().sum(-1)
        distance = torch.minimum(distance, reach)
        latest = distance.argmax(1)
        chosen.append(latest)
    return torch.stack(chosen, dim=1)


class PointCloudEncoder(nn.Module):
    """World points ``(N, 3, H, W)`` (NaN where there is none) and their colours to ``(N, feature_dim)``."""

    low: Tensor
    high: Tensor

    def __init__(self, config: PointCloudConfig) -> None:
        super().__init__()
        self.config = config
        low, high = config.bounds or ((-torch.inf,) * 3, (torch.inf,) * 3)
        self.register_buffer("low", torch.tensor(low), persistent=False)
        self.register_buffer("high", torch.tensor(high), persistent=False)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((6 if config.use_color else 3, *config.channels)):
            layers += [nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.ReLU(inplace=True)]
        self.point = nn.Sequential(*layers)
        self.project = nn.Sequential(
            nn.Linear(config.channels[-1], config.feature_dim), nn.LayerNorm(config.feature_dim)
        )

    def forward(self, xyz: Tensor, color: Tensor | None = None) -> Tensor:
        """``xyz`` ``(N, 3, H, W)`` metres; ``color`` ``(N, 3, h, w)`` uint8 0..255 or float 0..1 if ``use_color``.

        A cloud without any point gives the projection of zeros.
        """
        points, valid, where = self.select(xyz)
        if self.config.bounds is not None:
            points = (points - self.low) / (self.high - self.low) * 2 - 1
        if self.config.use_color:
            assert color is not None
            points = torch.cat([points, self._colors(color, xyz, where)], dim=-1)
        features = self.point(points).masked_fill(~valid[..., None], -torch.inf)
        pooled = features.amax(dim=1)
        return self.project(torch.where(valid.any(1, keepdim=True), pooled, torch.zeros_like(pooled)))

    def select(self, xyz: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points ``(N, n_points, 3)`` inside the workspace, which of them are real, and their rows in the grid."""
        step = self.config.stride
        points = xyz[..., ::step, ::step].flatten(2).transpose(1, 2)
        inside = points.isfinite() & (points >= self.low) & (points <= self.high)
        valid = inside.all(-1)
        points = torch.where(valid[..., None], points, torch.zeros_like(points))
        where = farthest_point_indices(points, self.config.n_points, valid)
        chosen = points.gather(1, where[..., None].expand(-1, -1, 3))
        return chosen, valid.gather(1, where), where

    def _colors(self, color: Tensor, xyz: Tensor, where: Tensor) -> Tensor:
        """Colours ``(N, n_points, 3)`` in [-1, 1]; pictures of another size than the depth are resized to it."""
        scaled = color.to(xyz) / (255.0 if color.dtype == torch.uint8 else 1.0) * 2 - 1
        if scaled.shape[-2:] != xyz.shape[-2:]:
            scaled = F.interpolate(scaled, xyz.shape[-2:], mode="bilinear", antialias=True)
        step = self.config.stride
        flat = scaled[..., ::step, ::step].flatten(2).transpose(1, 2)
        return flat.gather(1, where[..., None].expand(-1, -1, 3))
