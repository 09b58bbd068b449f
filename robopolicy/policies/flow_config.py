"""Options of the flow-matching head (no torch here: the command line reads this class).

Defaults: rectified flow on Diffusion Policy's U-Net with its chunk layout, so that the two heads compare like for
like; ten Euler steps (pi0); no clipping, which flow heads do not need.
"""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from robopolicy.core.configs import config_dataclass
from robopolicy.core.errors import ConfigError
from robopolicy.policies.backbone_config import DitConfig, TransformerConfig, UnetConfig
from robopolicy.policies.chunk_config import SamplingConfig, check_inference_steps, check_unet_horizon

# euler keeps the noise that the estimate implies (deterministic), renoise draws it afresh (needs a tape)
ONE_STEP_SAMPLERS = ("euler", "renoise")


@config_dataclass
class FlowConfig(SamplingConfig):
    """Flow matching: a chunk of actions carried from noise to data along a learned velocity."""

    type: Literal["flow"] = "flow"
    backbone: Literal["unet", "transformer", "dit"] = "unet"
    noise_at: Literal[0, 1] = 0
    """Time of pure noise for `predict` and wrappers: 0 (papers) or 1 (openpi); weights and chunks are the same."""
    time_law: Literal["uniform", "beta", "logit_normal"] = "uniform"
    """How training times are drawn; beta is pi0's, which favours noisy times and stops at 0.999."""
    time_law_options: dict[str, float] = field(default_factory=dict)
    """Parameters of that law: beta takes power (1.5) and least (0.001), logit_normal location (0) and scale (1)."""
    time_scale: float = 100.0
    """The network reads this times t; 100 gives its sinusoid the resolution of a diffusion head with 100 levels."""
    sampler: str = "euler"
    """euler, midpoint, heun or rk4 (1, 2, 2 and 4 queries a step), or any sampler of the diffusion head."""
    one_step: bool = False
    """A consistency model: every query jumps to the end of the flow, so one is enough (made by robopolicy distill)."""
    consistency_levels: int = 32
    """One-step models in training without a teacher: neighbouring levels are 1 / this apart."""
    spacing: Literal["linear"] = "linear"
    """Inference steps are equal steps of t."""
    clip: float | Literal["auto"] | None = None
    """Range of the clean estimate in normalised units; null never clips (actions keep to their bounds anyway)."""
    unet: UnetConfig = field(default_factory=UnetConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    dit: DitConfig = field(default_factory=DitConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbone == "unet":
            check_unet_horizon(self.horizon, len(self.unet.down_dims))
        check_inference_steps(self.num_inference_steps)
        if self.consistency_levels < 2:
            raise ConfigError(f"consistency_levels must be >= 2, got {self.consistency_levels}")
        if self.one_step and self.sampler not in ONE_STEP_SAMPLERS:
            raise ConfigError(
                f"one_step: answers are ends of the flow, not slopes, so sampler must be one of "
                f"{', '.join(ONE_STEP_SAMPLERS)}; got {self.sampler}"
            )
        if not 1 <= self.time_scale <= 10_000:
            raise ConfigError(
                f"time_scale must be within 1..10000, got {self.time_scale}; sinusoids are made for step numbers, "
                "so times in [0, 1] want 100 to 1000"
            )
