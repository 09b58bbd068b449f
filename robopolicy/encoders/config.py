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
    feature_dim: int | None = 64
    """Numbers a picture becomes; null passes the pooled channels on."""
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
        width = 1 if self.feature_dim is None else self.feature_dim
        if min(self.num_keypoints, width, *self.channels) < 1 or not self.channels:
            raise ConfigError("num_keypoints, feature_dim and every entry of channels must be >= 1")
        if not self.lr_scale > 0:
            raise ConfigError(f"lr_scale must be > 0, got {self.lr_scale}; use frozen to stop learning")


@config_dataclass
class TemporalConfig:
    """A memory between the observations and the head: SEGA's state tokens, carried from plan to plan (SeedPolicy)."""

    num_state: int = 60
    """State tokens."""
    dim: int = 256
    """Width of state and observation tokens."""
    depth: int = 6
    """Blocks of each of the two streams."""
    heads: int = 8
    mlp_ratio: int = 4
    gate_bias: float = -2.0
    """Added to the gate's score: a new state token begins 12 % new at every plan (the paper: 0, half new)."""
    max_chain: int = 16
    """Windows (plans) in a training chain; what is further apart than this many plans is not learned to be recalled."""
    tbptt: int | None = None
    """Plans the gradient reaches back; null is the whole chain (the released code: 1)."""
    frame_pos: bool = True
    """A learned code for the order of the observed steps (the released code has none)."""
    state_pos: bool = False
    """The released code's table of state positions; it duplicates the learned first state."""
    proj_hidden: int | None = None
    """Hidden width between the encoded step and its token (the paper: 512); null is one linear layer."""
    proj_dropout: float = 0.1
    """Dropout of that hidden layer."""
    frozen: bool = False
    """Leave the recurrence as it was initialised (the released transformer code does, by an oversight)."""

    def __post_init__(self) -> None:
        counts = {n: getattr(self, n) for n in ("num_state", "dim", "depth", "heads", "mlp_ratio", "max_chain")}
        counts |= {n: getattr(self, n) for n in ("tbptt", "proj_hidden") if getattr(self, n) is not None}
        for name, value in counts.items():
            if value < 1:
                raise ConfigError(f"temporal: {name} must be >= 1, got {value}")
        if self.dim % self.heads:
            raise ConfigError(f"temporal: dim={self.dim} must be a multiple of heads={self.heads}")
        if not 0 <= self.proj_dropout < 1:
            raise ConfigError(f"temporal: proj_dropout must be in [0, 1), got {self.proj_dropout}")


@config_dataclass
class PointCloudConfig:
    """From a depth picture to a feature vector through the points it shows (``encoders/point_cloud.py``)."""

    n_points: int = 512
    """Points kept of a cloud, chosen far apart from one another."""
    stride: int = 2
    """Every n-th row and column of the depth picture becomes a point; larger is faster."""
    bounds: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None
    """Lowest and highest corner of the workspace in metres (world frame); points outside are dropped, and coordinates
    are scaled to [-1, 1] in it. Null keeps every point, in metres."""
    max_depth: float = 10.0
    """Pixels further from the camera than this, in metres, are dropped; so are those without a return (0)."""
    use_color: bool = False
    """Points also carry the colour of ``observation.images.<camera>``."""
    keep_images: bool = True
    """With use_color: also encode those pictures with the image encoder, as cameras without depth are."""
    channels: tuple[int, ...] = (64, 128, 256)
    """Widths of the network that sees each point alone."""
    feature_dim: int = 64

    def __post_init__(self) -> None:
        if min(self.n_points, self.stride, self.feature_dim, *self.channels) < 1 or not self.channels:
            raise ConfigError("n_points, stride, feature_dim and every entry of channels must be >= 1")
        if not self.max_depth > 0:
            raise ConfigError(f"max_depth must be > 0 metres, got {self.max_depth}")
        if self.bounds is not None and not all(a < b for a, b in zip(*self.bounds, strict=True)):
            raise ConfigError(f"bounds must be (lowest corner, highest corner) in metres, got {self.bounds}")


@config_dataclass
class SceneConfig:
    """From RGB-D cameras to tokens with places (``encoders/scene.py``)."""

    backbone: Literal["tiny", "resnet18", "clip_rn50"] = "clip_rn50"
    """clip_rn50 is the paper's; tiny is for CPUs and tests."""
    weights: str | None = None
    """Local ``.safetensors`` file for resnet18 or clip_rn50; nothing is ever downloaded."""
    frozen: bool = True
    """Leave clip_rn50 as it was trained; the pyramid on top learns. The other backbones always learn."""
    stride: int = 8
    """Pixels a token, along each side: 2, 4, 8, 16 or 32."""
    channels: tuple[int, ...] = (32, 64, 128)
    """Widths of ``tiny``, one stride-2 block each; as many as halvings make ``stride``."""
    xyz_resize: Literal["nearest", "bilinear", "median"] = "nearest"
    """How a token gets its place from its pixels; bilinear (the paper's) invents points at the edges of objects."""
    max_depth: float = 10.0
    """Pixels further from the camera than this, in metres, give no valid token; nor do those without a return (0)."""

    def __post_init__(self) -> None:
        if self.stride not in (2, 4, 8, 16, 32):
            raise ConfigError(f"stride must be 2, 4, 8, 16 or 32 pixels, got {self.stride}")
        if self.backbone == "tiny" and 2 ** len(self.channels) != self.stride:
            raise ConfigError(
                f"tiny needs one entry of channels a halving: stride {self.stride} takes "
                f"{self.stride.bit_length() - 1}, got {len(self.channels)}"
            )
        if self.backbone == "tiny" and self.weights is not None:
            raise ConfigError("tiny has no pretrained weights: set weights to null")
        if not self.channels or min(self.channels) < 1 or not self.max_depth > 0:
            raise ConfigError("every entry of channels must be >= 1 and max_depth > 0 metres")


@config_dataclass
class LanguageConfig:
    """From the task's sentence to tokens and one vector (``encoders/language.py``)."""

    kind: Literal["table", "clip"] = "table"
    """table learns one vector a sentence; clip uses CLIP's frozen text network."""
    vocabulary: tuple[str, ...] = ()
    """Sentences the policy knows; empty takes the tasks of the training data."""
    dim: int = 32
    """Size of the vector appended to every observed step."""
    folder: str | None = None
    """clip: local folder of a transformers CLIP text model and its tokenizer; null looks into the local hub cache."""
    length: int = 53
    """clip: tokens a sentence is padded to (the paper's 53 for RLBench, 16 for CALVIN)."""

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ConfigError(f"dim must be >= 1, got {self.dim}")
        if not 2 <= self.length <= 77:
            raise ConfigError(f"length must be 2..77 tokens, got {self.length}")
        if len(set(self.vocabulary)) != len(self.vocabulary):
            raise ConfigError("vocabulary lists a sentence twice")


@config_dataclass
class EncoderConfig:
    """How observations become features: one image encoder per camera, low-dimensional keys as they are."""

    image: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    cameras: dict[str, ImageEncoderConfig] = field(default_factory=dict)
    """Settings of single cameras by their full key; the others use ``image``."""
    share_cameras: bool = False
    """One set of image weights for all cameras (they must have equal settings)."""
    point_cloud: PointCloudConfig = field(default_factory=PointCloudConfig)
    """For depth keys, where they are observed."""
    language: LanguageConfig = field(default_factory=LanguageConfig)
    """For ``task``, where it is observed."""
    state_hidden: tuple[int, ...] = ()
    """Hidden widths of a small network on the low-dimensional keys; empty passes them on, as the paper does."""
    temporal: TemporalConfig | None = None
    """A memory that the policy carries from plan to plan; null for none."""
