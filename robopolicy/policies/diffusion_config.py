"""Options of the Diffusion Policy head (no torch here: the command line reads this class).

Defaults: Diffusion Policy's CNN variant (paper tables 7 and 8; section 7 of the spec), with DDIM-10 instead of
DDPM-100 at inference, on "trailing" steps, which start at the noise level the prior really has.
"""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from robopolicy.core.configs import config_dataclass
from robopolicy.core.errors import ConfigError
from robopolicy.policies.backbone_config import TransformerConfig, UnetConfig
from robopolicy.policies.chunk_config import SamplingConfig, check_inference_steps, check_unet_horizon


@config_dataclass
class DiffusionConfig(SamplingConfig):
    """Diffusion Policy: a chunk of actions denoised from Gaussian noise, conditioned on the observations."""

    type: Literal["diffusion"] = "diffusion"
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
    spacing: Literal["leading", "trailing", "linspace"] = "trailing"
    """How inference steps are picked from the training steps; a different spacing is a different decoder."""
    unet: UnetConfig = field(default_factory=UnetConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbone == "unet":
            check_unet_horizon(self.horizon, len(self.unet.down_dims))
        if self.num_train_steps < 1:
            raise ConfigError(f"num_train_steps must be >= 1, got {self.num_train_steps}")
        check_inference_steps(self.num_inference_steps, self.num_train_steps, "num_train_steps")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ConfigError(f"expected 0 < beta_start <= beta_end < 1, got {self.beta_start}, {self.beta_end}")
