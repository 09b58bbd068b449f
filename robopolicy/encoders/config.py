"""What an observation encoder looks like (no torch here: the command line reads these classes)."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from robopolicy.core.configs import config_dataclass
from robopolicy.core.errors import ConfigError

Size = tuple[int, int]


@config_dataclass
class ImageEncoderConfig:
    """One camera's way from pixels to a feature vector: resize, crop, normalise, backbone, pooling, projection."""

    backbone: str = "resnet18"
    """``resnet18``, ``tiny_cnn``, ``torchvision:<name>`` or ``timm:<name>``."""
    resize: Size | None = None
    """Height and width in pixels before the crop; ``None`` keeps the camera's size."""
    crop: Size | float | None = 0.9
    """Height and width in pixels, or the fraction of each side that is kept; random in training, centred after."""
    normalize: Literal["unit", "imagenet"] = "unit"
    """The one image normalisation: to [-1, 1], or ImageNet mean and deviation."""
    norm: Literal["group", "frozen_batch"] = "group"
    """GroupNorm in place of BatchNorm, or BatchNorm with frozen statistics (needed by pretrained weights)."""
    weights: str | None = None
    """``None`` (from scratch), ``default`` (the library's download), or a local ``.safetensors`` file."""
    frozen: bool = False
    """Leave the backbone as it is; pooling and projection still learn."""
    lr_scale: float = 1.0
    """Learning rate of the backbone relative to the rest (0.1 is usual when fine-tuning)."""
    pool: Literal["spatial_softmax", "average"] = "spatial_softmax"
    num_keypoints: int = 32
    feature_dim: int = 64
    channels: tuple[int, ...] = (32, 64, 128)
    """Widths of ``tiny_cnn``, one stride-2 block each."""

    def __post_init__(self) -> None:
        if self.weights is not None and self.norm == "group":
            raise ConfigError(
                "pretrained weights were trained with BatchNorm: set norm to frozen_batch, or weights null"
            )
        if self.weights is not None and self.backbone == "tiny_cnn":
            raise ConfigError("tiny_cnn has no pretrained weights: set weights to null")
        if isinstance(self.crop, float) and not 0.0 < self.crop <= 1.0:
            raise ConfigError(f"crop as a fraction must be in (0, 1], got {self.crop}")
        for name in ("resize", "crop"):
            size = getattr(self, name)
            if isinstance(size, tuple) and min(size) < 1:
                raise ConfigError(f"{name} must be at least 1 pixel each way, got {size}")
        if min(self.num_keypoints, self.feature_dim, *self.channels) < 1 or not self.channels:
            raise ConfigError("num_keypoints, feature_dim and every entry of channels must be >= 1")
        if not self.lr_scale > 0:
            raise ConfigError(f"lr_scale must be > 0, got {self.lr_scale}; use frozen to stop learning")


@config_dataclass
class EncoderConfig:
    """How observations become features: one image encoder per camera, low-dimensional keys as they are."""

    image: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    cameras: dict[str, ImageEncoderConfig] = field(default_factory=dict)
    """Settings of single cameras by their full key; the others use ``image``."""
    share_cameras: bool = False
    """One set of image weights for all cameras (they must have equal settings)."""
    state_hidden: tuple[int, ...] = ()
    """Hidden widths of a small network on the low-dimensional keys; empty passes them on, as the paper does."""
