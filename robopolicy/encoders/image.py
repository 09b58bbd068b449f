"""One camera's encoder: resize, crop, normalise (once), trunk, pooling, projection.

Source: Diffusion Policy section 3.3, hybrid policy: ResNet-18 with GroupNorm, spatial softmax of 32 points, linear
layer; 11,197,088 parameters a camera.  What differs: crops come from outside, and the image is cropped before it
becomes float, which touches four times fewer bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robopolicy.core.errors import ConfigError
from robopolicy.encoders.backbones import build_trunk
from robopolicy.encoders.config import ImageEncoderConfig
from robopolicy.encoders.crop import center_crop, crop_at
from robopolicy.encoders.spatial_softmax import SpatialSoftmax

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageEncoder(nn.Module):
    """``(N, 3, H, W)`` uint8 0..255 or float 0..1 to ``(N, dim)``."""

    shift: Tensor
    scale: Tensor

    def __init__(self, config: ImageEncoderConfig, size: tuple[int, int], load_weights: bool = False) -> None:
        """``size`` is the camera's ``(H, W)``; pretrained weights are read only when ``load_weights``."""
        super().__init__()
        self.config = config
        self.input_size = config.resize or size
        self.crop_size = crop_size(config, self.input_size)
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if config.normalize == "imagenet" else ((0.5,) * 3, (0.5,) * 3)
        self.register_buffer("shift", torch.tensor(mean).reshape(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(std).reshape(3, 1, 1), persistent=False)
        self.trunk = build_trunk(config, load_weights)
        channels, maps = _output_shape(self.trunk, self.crop_size)
        self.pool: nn.Module
        if config.pool == "spatial_softmax":
            self.pool = SpatialSoftmax(channels, config.num_keypoints, maps)
            pooled = 2 * config.num_keypoints
        else:
            self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
            pooled = channels
        self.dim = pooled if config.feature_dim is None else config.feature_dim
        self.project = nn.Identity() if config.feature_dim is None else nn.Linear(pooled, config.feature_dim)
        if config.frozen:
            self.trunk.requires_grad_(False)

    def train(self, mode: bool = True) -> ImageEncoder:
        """As ``nn.Module.train``; a frozen trunk stays in evaluation mode (no dropout, no drop path)."""
        super().train(mode)
        if self.config.frozen:
            self.trunk.eval()
        return self

    def forward(self, images: Tensor, where: Tensor | None = None) -> Tensor:
        """``where`` ``(N, 2)`` in [0, 1) places the crops; without it they are centred."""
        return self.project(self.pool(self.trunk(self.prepare(images, where))))

    def prepare(self, images: Tensor, where: Tensor | None = None) -> Tensor:
        """Pixels as the trunk sees them: ``(N, 3, h, w)`` float, resized, cropped and normalised."""
        top = 255.0 if images.dtype == torch.uint8 else 1.0
        if tuple(images.shape[-2:]) != tuple(self.input_size):
            images = F.interpolate(images.float(), self.input_size, mode="bilinear", antialias=True)
        if self.crop_size != self.input_size:
            images = center_crop(images, self.crop_size) if where is None else crop_at(images, self.crop_size, where)
        return (images.to(self.scale.dtype) - self.shift * top) / (self.scale * top)


def crop_size(config: ImageEncoderConfig, size: tuple[int, int]) -> tuple[int, int]:
    """Pixels ``(h, w)`` that remain of ``size``; raises ``ConfigError`` when the crop is larger."""
    if config.crop is None:
        return size
    if isinstance(config.crop, float):
        return max(round(size[0] * config.crop), 1), max(round(size[1] * config.crop), 1)
    if config.crop[0] > size[0] or config.crop[1] > size[1]:
        raise ConfigError(f"crop {config.crop} does not fit into an image of {size} (height, width)")
    return config.crop


def _output_shape(trunk: nn.Module, size: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    """Channels and ``(h, w)`` of the trunk's maps, found by one dry run."""
    device = next(trunk.parameters()).device
    training = trunk.training
    try:
        with torch.no_grad():
            shape = trunk.eval()(torch.zeros(1, 3, *size, device=device)).shape
    except RuntimeError as e:
        raise ConfigError(f"images of {size} (height, width) are too small for this backbone: {e}") from e
    finally:
        trunk.train(training)
    if len(shape) != 4:
        raise ConfigError(f"this backbone gives {tuple(shape)}, expected feature maps (N, C, h, w)")
    return int(shape[1]), (int(shape[2]), int(shape[3]))
