"""Options of the BESO head (no torch here: the command line reads this class).

Defaults: BESO's three DDIM steps, log-logistic noise levels and network of the kitchen experiments (spec sections 3 to
5), on chunks as in Diffusion Policy.  What differs, and why: the released ranges end at sigma 1, where noise does not
drown the data, so that samples are pulled to zero (of a mean of 0.5, 0.40 is left); here they end at 5, and sampling
starts from the spread that noisy data really have.  ``sigma_data`` is measured.
"""

from __future__ import annotations

import math
from dataclasses import field
from typing import Literal

from robopolicy.core.configs import config_dataclass
from robopolicy.core.errors import ConfigError
from robopolicy.policies.backbone_config import GPTConfig, TransformerConfig, UnetConfig
from robopolicy.policies.chunk_config import SamplingConfig, check_inference_steps, check_unet_horizon


@config_dataclass
class BesoConfig(SamplingConfig):
    """BESO: a chunk of actions denoised in a few steps by an EDM score model, with or without goals."""

    type: Literal["beso"] = "beso"
    backbone: Literal["gpt", "transformer", "unet"] = "gpt"
    sigma_min: float = 0.02
    """Lowest noise level, in normalised action units (the released 0.005 wastes one of three steps)."""
    sigma_max: float = 5.0
    """Highest noise level; sampling starts here.  Larger is less biased, and needs more steps."""
    sigma_data: float | None = None
    """Spread of the normalised actions that the preconditioning assumes; null measures it from the statistics."""
    rho: float = 5.0
    """Bend of the karras spacing."""
    noise_density: Literal["loglogistic", "lognormal"] = "loglogistic"
    """How often a noise level is trained on; both are cut to [sigma_min, sigma_max]."""
    density_loc: float | None = None
    """Location of ln sigma; null is ln sigma_data (loglogistic) or -1.2 (lognormal)."""
    density_scale: float | None = None
    """Scale of ln sigma; null is 0.5 (loglogistic) or 1.2 (lognormal)."""
    num_inference_steps: int = 3
    """Denoising steps a chunk; 5 to 10 keep more of the spread of the data."""
    spacing: Literal["karras", "exponential", "linear"] = "exponential"
    """How the noise levels of the steps are spaced; a different spacing is a different decoder."""
    goal_keys: tuple[str, ...] = ()
    """Observed keys that are given as goals too, under ``goal.<key>``; empty is a policy without goals."""
    goal_steps: int = 1
    """Consecutive later steps that make up a goal."""
    goal_dropout: float = 0.1
    """Share of training samples whose goal is hidden, which teaches the same network to act without one."""
    guidance: float = 1.0
    """How much the goal counts when acting: 1 as learned, more is exaggerated (twice the work), 0 reads no goals."""
    gpt: GPTConfig = field(default_factory=GPTConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    unet: UnetConfig = field(default_factory=UnetConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbone == "unet":
            check_unet_horizon(self.horizon, len(self.unet.down_dims))
        check_inference_steps(self.num_inference_steps)
        if not 0 < self.sigma_min < self.sigma_max:
            raise ConfigError(f"expected 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")
        if self.goal_steps < 1:
            raise ConfigError(f"goal_steps must be >= 1, got {self.goal_steps}")
        if not 0 <= self.goal_dropout <= 1:
            raise ConfigError(f"goal_dropout must be a share in [0, 1], got {self.goal_dropout}")
        if not 0 <= self.guidance < math.inf:
            raise ConfigError(f"guidance must be a number >= 0, got {self.guidance}")
        if len(set(self.goal_keys)) != len(self.goal_keys):
            raise ConfigError(f"goal_keys names a key twice: {', '.join(self.goal_keys)}")
        for name in ("sigma_data", "rho", "density_scale"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be > 0, got {value}")
