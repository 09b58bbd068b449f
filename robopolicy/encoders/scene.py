"""RGB-D cameras as a cloud of tokens with places, for heads that attend in space.

Source: 3D Diffuser Actor (Ke et al. 2024), section 5.1 of the spec: a frozen CLIP ResNet-50, a feature pyramid of which
one level is used, every cell lifted to the 3D point that depth and calibration give it.  What differs: the frozen
trunk's BatchNorm never moves, places come from the cell's nearest pixel by default (the paper's bilinear mean is an
option), and cells without a depth return are marked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import ObservationSpec
from robopolicy.encoders.backbones import build_trunk, load_trunk_file, tiny_cnn
from robopolicy.encoders.cameras import CameraRig, color_key, pose_key
from robopolicy.encoders.clip_resnet import CLIP_MEAN, CLIP_STD, ClipResNet50
from robopolicy.encoders.config import ImageEncoderConfig, SceneConfig
from robopolicy.encoders.crop import rescale_indices, take_pixels
from robopolicy.encoders.features import Features
from robopolicy.encoders.image import IMAGENET_MEAN, IMAGENET_STD
from robopolicy.encoders.norms import freeze_batchnorm, replace_batchnorm
from robopolicy.encoders.point_cloud import resize_xyz

STAGES = {"resnet18": (64, 64, 128, 256, 512), "clip_rn50": (64, 256, 512, 1024, 2048)}
PIXELS = {
    "tiny": ((0.5,) * 3, (0.5,) * 3),
    "resnet18": (IMAGENET_MEAN, IMAGENET_STD),
    "clip_rn50": (CLIP_MEAN, CLIP_STD),
}
VALID = "valid"


class SceneEncoder(nn.Module):
    """All depth cameras of the newest observed step to tokens ``(B, N, C)`` at ``(B, N, 3)`` metres, world frame."""

    shift: Tensor
    scale: Tensor

    def __init__(self, spec: ObservationSpec, config: SceneConfig, dim: int, load_weights: bool = False) -> None:
        """``dim`` is C.  Raises ``ConfigError`` without depth, colour partner or calibration."""
        super().__init__()
        self.config, self.dim = config, dim
        self.rig = CameraRig(spec, config.max_depth)
        if not self.rig.keys:
            raise ConfigError(
                f"no depth camera among {', '.join(spec.keys)}: tokens need places; add observation.depth.<camera>"
            )
        for key in self.rig.keys:
            if color_key(key) not in spec:
                raise ConfigError(f"{key} has no colour picture '{color_key(key)}' beside it; add it to the keys")
        self.grids = {k: _grid(spec[k].shape[1:], config) for k in self.rig.keys}
        mean, std = PIXELS[config.backbone]
        self.register_buffer("shift", torch.tensor(mean).reshape(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(std).reshape(3, 1, 1), persistent=False)
        self.backbone: nn.Module = _backbone(config, dim, load_weights)

    @property
    def num_tokens(self) -> int:
        """N, all cameras together."""
        return sum(h * w for h, w in self.grids.values())

    def forward(self, obs: Mapping[str, Tensor], rescale: Tensor | None = None) -> Features:
        """``obs[key]`` ``(B, To, ...)``: depth, colour (uint8 or float 0..1), poses; only the newest step is read.

        ``tokens`` and ``positions`` list the cameras one after another, row by row; ``extras["valid"]`` ``(B, N)`` bool
        marks tokens with a depth return (the others lie at the origin).  ``rescale`` ``(B, 3)`` changes the scale of
        pictures and points together, see ``rescale_indices``; for training only.
        """
        tokens, places = [], []
        for key in self.rig.keys:
            newest = {k: obs[k][:, -1] for k in (key, color_key(key), pose_key(key)) if k in obs}
            size = newest[key].shape[-2:]
            pixels = self._pixels(newest[color_key(key)], size)
            with torch.no_grad():
                xyz = self.rig.xyz(key, newest)
            if rescale is not None:
                chosen = rescale_indices((size[0], size[1]), rescale)
                pixels, xyz = take_pixels(pixels, chosen), take_pixels(xyz, chosen)
            maps = self.backbone(pixels)
            xyz = resize_xyz(xyz, (maps.shape[-2], maps.shape[-1]), self.config.xyz_resize)
            tokens.append(maps.flatten(2).transpose(1, 2))
            places.append(xyz.flatten(2).transpose(1, 2))
        positions = torch.cat(places, dim=1)
        valid = positions.isfinite().all(-1)
        positions = torch.where(valid[..., None], positions, torch.zeros_like(positions))
        return Features(tokens=torch.cat(tokens, dim=1), positions=positions, extras={VALID: valid})

    def _pixels(self, images: Tensor, size: torch.Size) -> Tensor:
        top = 255.0 if images.dtype == torch.uint8 else 1.0
        images = (images.to(self.scale.dtype) / top - self.shift) / self.scale
        if images.shape[-2:] != size:
            images = F.interpolate(images, tuple(size), mode="bilinear", antialias=True)
        return images


class Pyramid(nn.Module):
    """A trunk of five stages and torchvision's feature pyramid; gives the one level of ``stride``."""

    def __init__(self, trunk: nn.Module, stages: tuple[int, ...], dim: int, stride: int, frozen: bool) -> None:
        """Blocks of levels that are not used stay, without gradient, so that released weights fit."""
        super().__init__()
        from torchvision.ops import FeaturePyramidNetwork  # here: policies without pictures need no torchvision

        self.trunk, self.frozen = trunk, frozen
        self.level = stride.bit_length() - 2
        self.fpn = FeaturePyramidNetwork(list(stages), dim)
        if frozen:
            self.trunk.requires_grad_(False)
        for i in range(len(stages)):
            self.fpn.inner_blocks[i].requires_grad_(i >= self.level)
            self.fpn.layer_blocks[i].requires_grad_(i == self.level)

    def train(self, mode: bool = True) -> Pyramid:
        """As ``nn.Module.train``; a frozen trunk stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.trunk.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = stage_maps(self.trunk, images)
        top = self.fpn.get_result_from_inner_blocks(maps[-1], -1)
        for i in range(len(maps) - 2, self.level - 1, -1):
            lateral = self.fpn.get_result_from_inner_blocks(maps[i], i)
            top = lateral + F.interpolate(top, lateral.shape[-2:], mode="nearest")
        return self.fpn.get_result_from_layer_blocks(top, self.level)


def stage_maps(trunk: nn.Module, images: Tensor) -> list[Tensor]:
    """Maps of a ResNet's five stages, strides 2, 4, 8, 16 and 32: before the pooling, and after each layer."""
    maps: list[Tensor] = []
    x = images
    for name, module in trunk.named_children():
        if name.endswith("pool"):
            maps.append(x)
        x = module(x)
        if name.startswith("layer"):
            maps.append(x)
    return maps


def _backbone(config: SceneConfig, dim: int, load_weights: bool) -> nn.Module:
    if config.backbone == "tiny":
        return nn.Sequential(tiny_cnn(config.channels), nn.Conv2d(config.channels[-1], dim, kernel_size=1))
    pretrained = config.weights is not None
    if config.backbone == "resnet18":
        image = ImageEncoderConfig(weights=config.weights, norm="frozen_batch" if pretrained else "group")
        return Pyramid(build_trunk(image, load_weights), STAGES["resnet18"], dim, config.stride, frozen=False)
    if config.frozen and load_weights and not pretrained:
        raise ConfigError(
            "clip_rn50 is frozen and has no weights, so it would stay random: give the file of CLIP's visual network "
            "in scene.weights (a local .safetensors), or use backbone resnet18, or set frozen to false"
        )
    trunk = ClipResNet50()
    if load_weights and config.weights is not None:
        load_trunk_file(trunk, Path(config.weights), prefix="visual.", drop=("attnpool.",))
    if config.frozen or pretrained:
        freeze_batchnorm(trunk)
    else:
        replace_batchnorm(trunk)
    return Pyramid(trunk, STAGES["clip_rn50"], dim, config.stride, config.frozen)


def _grid(size: tuple[int, ...], config: SceneConfig) -> tuple[int, int]:
    """Rows and columns of the tokens of a picture: halvings round up, CLIP's average pools down."""
    height, width = size
    for i in range(config.stride.bit_length() - 1):
        up = 0 if config.backbone == "clip_rn50" and i else 1
        height, width = (height + up) // 2, (width + up) // 2
    return height, width
