"""Options of the SeedPolicy head (no torch here: the command line reads this class)."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from robopolicy.core.configs import config_dataclass
from robopolicy.core.errors import ConfigError
from robopolicy.encoders.config import EncoderConfig, TemporalConfig
from robopolicy.policies.diffusion_config import DiffusionConfig


@config_dataclass
class SeedConfig(DiffusionConfig):
    """SeedPolicy: Diffusion Policy behind a memory of fixed size.

    Defaults: three observations and six executed actions, as published; horizon 9 for the transformer, 8 for the U-Net.
    """

    type: Literal["seed_policy"] = "seed_policy"  # type: ignore[assignment]
    backbone: Literal["unet", "transformer"] = "transformer"
    n_obs_steps: int = 3
    horizon: int = 9
    n_action_steps: int = 6
    encoder: EncoderConfig = field(default_factory=lambda: EncoderConfig(temporal=TemporalConfig()))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder.temporal is None:
            raise ConfigError(
                "seed_policy without encoder.temporal is plain Diffusion Policy: set type to diffusion, or set "
                "encoder.temporal ({} takes its defaults)"
            )
