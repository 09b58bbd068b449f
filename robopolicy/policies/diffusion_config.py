"""Options of the Diffusion Policy head (no torch here: the command line reads this class).

Defaults: Diffusion Policy's CNN variant (paper tables 7 and 8; section 7 of the spec), with DDIM-10 instead of
DDPM-100 at inference, on "trailing" steps, which start at the noise level the prior really has.
"""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from robopolicy.core.configs import config_dataclass
from robopolicy.core.errors import ConfigError
from robopolicy.encoders.config import EncoderConfig
from robopolicy.policies.normalization_config import BOUNDED, NormalizationConfig


@config_dataclass
class UnetConfig:
    """Size of the 1-D U-Net."""

    down_dims: tuple[int, ...] = (256, 512, 1024)
    kernel_size: int = 5
    n_groups: int = 8
    step_embed_dim: int = 256
    cond_predict_scale: bool = True
    """FiLM with scale and bias; bias only when false."""

    def __post_init__(self) -> None:
        if not self.down_dims or min(self.down_dims) < 1:
            raise ConfigError(f"down_dims must hold positive widths, got {self.down_dims}")
        if self.n_groups < 1 or any(d % self.n_groups for d in self.down_dims):
            raise ConfigError(
                f"every entry of down_dims {self.down_dims} must be a multiple of n_groups={self.n_groups}"
            )
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ConfigError(f"kernel_size must be odd and >= 1, got {self.kernel_size}")
        if self.step_embed_dim < 4 or self.step_embed_dim % 2:
            raise ConfigError(f"step_embed_dim must be even and >= 4, got {self.step_embed_dim}")


@config_dataclass
class TransformerConfig:
    """Size of the transformer."""

    n_layer: int = 8
    n_head: int = 4
    n_emb: int = 256
    p_drop_emb: float = 0.0
    p_drop_attn: float = 0.3
    causal_attn: bool = True
    n_cond_layers: int = 0

    def __post_init__(self) -> None:
        if min(self.n_layer, self.n_head, self.n_emb) < 1 or self.n_cond_layers < 0:
            raise ConfigError("n_layer, n_head and n_emb must be >= 1, n_cond_layers >= 0")
        if self.n_emb % (2 * self.n_head):
            raise ConfigError(f"n_emb={self.n_emb} must be a multiple of 2 * n_head={2 * self.n_head}")
        if not (0 <= self.p_drop_emb < 1 and 0 <= self.p_drop_attn < 1):
            raise ConfigError("dropout probabilities must be in [0, 1)")


@config_dataclass
class DiffusionConfig:
    """Diffusion Policy: a chunk of actions denoised from Gaussian noise, conditioned on the observations."""

    type: Literal["diffusion"] = "diffusion"
    n_obs_steps: int = 2
    """Observations the policy looks back on, the newest included."""
    horizon: int = 16
    """Steps predicted; index 0 belongs to the oldest observation."""
    n_action_steps: int = 8
    """Steps executed before the next prediction; at most horizon - n_obs_steps + 1."""
    observation_keys: tuple[str, ...] | None = None
    """Keys to read; null reads every low-dimensional key and camera there is."""
    backbone: Literal["unet", "transformer"] = "unet"
    prediction: Literal["epsilon", "x0", "v"] = "epsilon"
    """What the network estimates: the noise, the clean chunk, or the velocity between them."""
    num_train_steps: int = 100
    """Noise levels T."""
    schedule: Literal["squaredcos_cap_v2", "linear", "scaled_linear"] = "squaredcos_cap_v2"
    beta_start: float = 1e-4
    """First beta (linear schedules only)."""
    beta_end: float = 2e-2
    """Last beta (linear schedules only)."""
    sampler: str = "ddim"
    """ddpm, ddim, dpmpp_2m, heun, euler or ancestral."""
    sampler_options: dict[str, float | int | bool | str] = field(default_factory=dict)
    """Options of that sampler, e.g. ``eta`` of ddim."""
    num_inference_steps: int = 10
    """Denoising steps a chunk; at most num_train_steps."""
    spacing: Literal["leading", "trailing", "linspace"] = "trailing"
    """How inference steps are picked from the training steps; a different spacing is a different decoder."""
    clip: float | Literal["auto"] | None = "auto"
    """Range of the clean estimate in normalised units; auto is 1 for bounded normalisation, null never clips."""
    unet: UnetConfig = field(default_factory=UnetConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    encoder_weight_decay: float | None = None
    """Weight decay of the encoder; null takes the head's for the U-Net and 1e-6 for the transformer (the paper's)."""
    normalization: NormalizationConfig = field(default_factory=NormalizationConfig)
    mask_padding: bool = False
    """Leave steps beyond the end of an episode out of the loss (the paper trains on the repeated last action)."""

    def __post_init__(self) -> None:
        self._check_layout()
        self._check_steps()
        if self.clip == "auto" and self.normalization.action not in BOUNDED:
            raise ConfigError(
                f"clip: {self.normalization.action} normalisation of actions is not bounded by 1, so the default clip "
                "would cut off part of the action space; set clip to a number (in normalised units) or to null"
            )
        if isinstance(self.clip, (int, float)) and not self.clip > 0:
            raise ConfigError(f"clip must be > 0 or null, got {self.clip}")
        if self.encoder_weight_decay is not None and self.encoder_weight_decay < 0:
            raise ConfigError(f"encoder_weight_decay must be >= 0, got {self.encoder_weight_decay}")

    def _check_layout(self) -> None:
        if min(self.n_obs_steps, self.horizon, self.n_action_steps) < 1:
            raise ConfigError("n_obs_steps, horizon and n_action_steps must be >= 1")
        room = self.horizon - self.n_obs_steps + 1
        if self.n_action_steps > room:
            raise ConfigError(
                f"n_action_steps={self.n_action_steps} does not fit: horizon - n_obs_steps + 1 = {room}; "
                f"lower n_action_steps or raise horizon"
            )
        unit = 2 ** (len(self.unet.down_dims) - 1)
        if self.backbone == "unet" and self.horizon % unit:
            raise ConfigError(
                f"horizon={self.horizon} must be a multiple of {unit} for a U-Net of {len(self.unet.down_dims)} levels"
            )
        if self.observation_keys is not None and not self.observation_keys:
            raise ConfigError("observation_keys is empty; leave it null to read every key")

    def _check_steps(self) -> None:
        if self.num_train_steps < 1:
            raise ConfigError(f"num_train_steps must be >= 1, got {self.num_train_steps}")
        if not 1 <= self.num_inference_steps <= self.num_train_steps:
            raise ConfigError(
                f"num_inference_steps must be in 1..num_train_steps={self.num_train_steps}, "
                f"got {self.num_inference_steps}"
            )
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ConfigError(f"expected 0 < beta_start <= beta_end < 1, got {self.beta_start}, {self.beta_end}")

    @property
    def clip_range(self) -> float | None:
        """The clip in normalised units; ``None`` never clips."""
        return 1.0 if self.clip == "auto" else self.clip
