"""How DSRL learns: frozen typed settings (no torch here: the command line reads them).

Source: Wagenmaker et al. 2025, DSRL (arXiv 2506.15799), and its released settings (project's notes, section 5).
Differs: discounts count environment steps; updates are counted a decision, not a vectorised step; the default widths
are for CPUs.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from robopolicy.core.configs import config_dataclass
from robopolicy.core.errors import ConfigError
from robopolicy.encoders.config import EncoderConfig
from robopolicy.policies.normalization_config import NormalizationConfig
from robopolicy.rl.config import Activation, Positive, Unit
from robopolicy.rl.sac_config import Rate, SACConfig
from robopolicy.wrappers.steer_config import LatentMapConfig

Count = Annotated[int, Field(ge=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


@config_dataclass
class DSRLConfig(SACConfig):
    """A noise actor, and the critics that teach it."""

    variant: Literal["na", "sac"] = "na"
    """na (noise aliasing): a critic of actions, distilled into one of latents; needs fewer episodes and takes offline
    data.  sac: one critic of latents; cheaper updates, and any base that the other cannot ask again (with a memory)."""
    bound: Rate = 1.5
    """Half-width of the box of latents: the first thing to tune (1 to 2.5); +-1.5 holds 87 % of a normal law."""
    utd: Rate = 5.0
    """Updates a decision: the second thing to tune (2.5 to 5 in the release, 20 to 30 on pi0)."""
    gamma: Unit = 0.99
    """Discount of one environment step."""
    batch_size: Positive = 256
    """Transitions an update."""
    distill: NotNegative = 0.5
    """na: distillation steps an update (the release: 10 after every 20); fractions are spread evenly."""
    refresh: Positive = 1
    """na: updates during which next actions and distillation pairs stay as they were decoded; 1 decodes anew each time
    (the method), 100 is as if the actor in the targets were copied every 100 updates, and many times faster."""
    first_updates: Count = 0
    """Updates after the first round, on top of utd (5000 in the pi0 release)."""
    offline_updates: Count = 0
    """na: updates on offline data alone before the first episode."""
    offline_mixing: Share = 0.5
    """na: share of offline transitions in each batch, where there are any."""
    latent_map: LatentMapConfig = field(default_factory=LatentMapConfig)
    """Which numbers of the latent are chosen."""
    features: Literal["own", "base"] = "own"
    """What actor and critics see: an encoder of their own, taught by the critic, or the base policy's frozen one."""
    observation_keys: tuple[str, ...] | None = None
    """own: keys to read; null = the low-dimensional keys and cameras of the base policy."""
    n_obs_steps: Positive | None = None
    """own: observations they look back on; null = as many as the base policy."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """own: the encoder."""
    normalization: NormalizationConfig = field(default_factory=NormalizationConfig)
    """own: of the observations."""
    task: str | None = None
    """na with a base that reads a sentence: the one it was given in every transition."""
    decode_batch: Positive = 512
    """Rows decoded together; memory only."""
    hidden: tuple[Positive, ...] = (128, 128, 128)
    """Widths of every member and of the actor; the release has three of 128 (Hopper, Transport, pi0) to 2048 (Lift,
    Can, Square)."""
    activation: Activation = "tanh"
    layer_norm: bool = True
    """LayerNorm before every activation, actor and critics."""
    target_entropy: float | None = 0.0
    """Entropy that the temperature holds, counted in [-1, 1] (`density: box`, Stable-Baselines3's convention); the pi0
    code's is larger by L ln(bound) (`density: scaled`).  Null = minus the number of latent numbers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder.temporal is not None:
            raise ConfigError("noise actors carry no memory from call to call; set encoder.temporal to null")
        if self.variant == "sac" and self.offline_updates:
            raise ConfigError("offline data carry no latents, so sac cannot learn from them; set offline_updates to 0")
        if self.features == "base" and (self.observation_keys is not None or self.n_obs_steps is not None):
            raise ConfigError("observation_keys and n_obs_steps have no effect with features: base; set features: own")
