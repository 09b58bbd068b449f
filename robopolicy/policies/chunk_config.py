"""Options that every head has (no torch here: the command line reads these classes)."""

from __future__ import annotations

from dataclasses import field
from typing import ClassVar, Literal

from robopolicy.core.configs import config_dataclass
from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import FeatureKind
from robopolicy.encoders.config import EncoderConfig
from robopolicy.policies.normalization_config import BOUNDED, NormalizationConfig

DEFAULT_KINDS = (FeatureKind.STATE, FeatureKind.IMAGE)


@config_dataclass
class ChunkConfig:
    """Layout of the chunk, what is observed and how numbers are normalised."""

    default_kinds: ClassVar[tuple[FeatureKind, ...]] = DEFAULT_KINDS
    """What is read when ``observation_keys`` is null."""
    n_obs_steps: int = 2
    """Observations the policy looks back on, the newest included."""
    horizon: int = 16
    """Steps predicted; index 0 belongs to the oldest observation."""
    n_action_steps: int = 8
    """Steps executed before the next prediction; at most horizon - n_obs_steps + 1."""
    observation_keys: tuple[str, ...] | None = None
    """Keys to read; null reads every low-dimensional key and camera there is. Depth (``observation.depth.<camera>``)
    and the sentence (``task``) are read when named."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    encoder_weight_decay: float | None = None
    """Weight decay of the encoder; null takes the head's for the U-Net and 1e-6 for the transformer (the paper's)."""
    normalization: NormalizationConfig = field(default_factory=NormalizationConfig)
    mask_padding: bool = False
    """Leave steps beyond the end of an episode out of the loss (the paper trains on the repeated last action)."""

    def __post_init__(self) -> None:
        if min(self.n_obs_steps, self.horizon, self.n_action_steps) < 1:
            raise ConfigError("n_obs_steps, horizon and n_action_steps must be >= 1")
        room = self.horizon - self.n_obs_steps + 1
        if self.n_action_steps > room:
            raise ConfigError(
                f"n_action_steps={self.n_action_steps} does not fit: horizon - n_obs_steps + 1 = {room}; "
                f"lower n_action_steps or raise horizon"
            )
        if self.observation_keys is not None and not self.observation_keys:
            raise ConfigError("observation_keys is empty; leave it null to read every key")
        if self.encoder_weight_decay is not None and self.encoder_weight_decay < 0:
            raise ConfigError(f"encoder_weight_decay must be >= 0, got {self.encoder_weight_decay}")


@config_dataclass
class SamplingConfig(ChunkConfig):
    """How a denoising head decodes chunks, besides ``ChunkConfig``."""

    sampler: str = "ddim"
    """ddpm, ddim, dpmpp_2m, heun, euler, ancestral, lms; on continuous times also dpm2, dpmpp_2s, midpoint, rk4."""
    sampler_options: dict[str, float | int | bool | str] = field(default_factory=dict)
    """Options of that sampler, e.g. ``eta`` of ddim."""
    num_inference_steps: int = 10
    """Denoising steps a chunk; at most num_train_steps where those are counted."""
    spacing: str = "trailing"
    """How inference steps are picked from the path's levels; a different spacing is a different decoder."""
    clip: float | Literal["auto"] | None = "auto"
    """Range of the clean estimate in normalised units; auto is 1 for bounded normalisation, null never clips."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip == "auto" and self.normalization.action not in BOUNDED:
            raise ConfigError(
                f"clip: {self.normalization.action} normalisation of actions is not bounded by 1, so the default clip "
                "would cut off part of the action space; set clip to a number (in normalised units) or to null"
            )
        if isinstance(self.clip, (int, float)) and not self.clip > 0:
            raise ConfigError(f"clip must be > 0 or null, got {self.clip}")

    @property
    def clip_range(self) -> float | None:
        """The clip in normalised units; ``None`` never clips."""
        return 1.0 if self.clip == "auto" else self.clip


def check_inference_steps(steps: int, most: int | None = None, option: str = "") -> None:
    """Raise ``ConfigError`` unless ``steps`` is at least 1 and, on counted levels, at most ``most`` (``option``)."""
    if most is None and steps < 1:
        raise ConfigError(f"num_inference_steps must be >= 1, got {steps}")
    if most is not None and not 1 <= steps <= most:
        raise ConfigError(f"num_inference_steps must be in 1..{option}={most}, got {steps}")


def check_unet_horizon(horizon: int, levels: int) -> None:
    """Raise ``ConfigError`` unless a U-Net of ``levels`` resolutions can halve ``horizon`` often enough."""
    unit = 2 ** (levels - 1)
    if horizon % unit:
        raise ConfigError(f"horizon={horizon} must be a multiple of {unit} for a U-Net of {levels} levels")
