"""What a critic is: frozen typed dataclasses (no torch here: the command line reads them).

Source: V-GPS (Nakamoto et al. 2024, arXiv 2410.13816) for the defaults, Cal-QL (arXiv 2303.05479), IQL (arXiv
2110.06169) and RLPD (arXiv 2302.02948) for the options.  The text under each field is its help text.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from robopolicy.core.configs import config_dataclass
from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import FeatureKind
from robopolicy.encoders.config import EncoderConfig
from robopolicy.policies.chunk_config import DEFAULT_KINDS
from robopolicy.policies.normalization_config import BOUNDED, NormalizationConfig

Positive = Annotated[int, Field(ge=1)]
Unit = Annotated[float, Field(gt=0, lt=1)]
Activation = Literal["relu", "silu", "gelu", "tanh"]


@config_dataclass
class HLGaussConfig:
    """A distribution over bins instead of one number a member."""

    bins: Annotated[int, Field(ge=2)] = 51
    """Bins between the least and the greatest value."""
    low: float | None = None
    """Least value; null = -1 / (1 - gamma), right for -1/0 rewards."""
    high: float | None = None
    """Greatest value; null = 0."""
    sigma: Annotated[float, Field(gt=0)] = 0.75
    """Spread of a target over its neighbours, in bin widths (the standard deviation of the Gaussian itself)."""


@config_dataclass
class IQLConfig:
    """Implicit Q-learning: values of the data's own actions only."""

    expectile: Unit = 0.7
    """Which expectile of the action values the state value is; towards 1 it is the best action in the data."""
    target_value: bool = True
    """Bootstrap from the slowly moving state value (V-GPS) instead of the newest one (the paper)."""


@config_dataclass
class CalQLConfig:
    """Conservative Q-learning that stops pushing where the data did better already."""

    alpha: Annotated[float, Field(ge=0)] = 5.0
    """Weight of the regulariser; never copied between reward scales.  0 leaves plain temporal differences."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of the soft maximum over actions."""
    samples: Positive = 4
    """Actions from each of three sources: uniform, the actor here, the actor at the next observation."""
    calibrated: bool = True
    """Bound the actor's values from below by the Monte-Carlo return; false is plain CQL."""
    bound_uniform: bool = False
    """Apply the bound to the uniform actions too."""
    estimator: Literal["importance", "no_importance"] = "importance"
    """How the soft maximum is estimated: weighted by the actions' densities, or with the data action in the list."""
    max_target_backup: bool = True
    """Bootstrap from the best of the actor's `samples` next actions instead of their first."""
    actor_hidden: tuple[Positive, ...] = (256, 256)
    """Widths of the proxy actor, which exists only to train the critic."""
    actor_lr: Annotated[float, Field(gt=0)] = 1e-4
    """Its peak learning rate."""
    target_entropy: float | None = None
    """Entropy the proxy actor is held at; null = minus the number of action numbers."""


@config_dataclass
class CriticConfig:
    """One critic."""

    default_kinds: ClassVar[tuple[FeatureKind, ...]] = DEFAULT_KINDS

    type: Literal["iql", "cal_ql", "rlpd"] = "cal_ql"
    """How it is trained; asked, all answer alike. rlpd is cal_ql without its regulariser (cal_ql.alpha is not read):
    what keeps values of unseen actions down is layer_norm, ensemble (10) and subset (2)."""
    n_obs_steps: Positive = 1
    """Observations it looks back on, the newest included."""
    n_action_steps: Positive = 1
    """Actions it values together: 1 (V-GPS), or the steps a policy executes before it plans again."""
    gamma: Unit = 0.98
    """Discount of one environment step."""
    observation_keys: tuple[str, ...] | None = None
    """Keys to read; null reads every low-dimensional key and camera there is."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    normalization: NormalizationConfig = field(default_factory=NormalizationConfig)
    """The critic's own; actions must land in [-1, 1] for cal_ql."""
    hidden: tuple[Positive, ...] = (256, 256)
    """Widths of every member."""
    activation: Activation = "silu"
    layer_norm: bool = False
    """LayerNorm before every activation, which bounds values of actions nobody has seen (RLPD)."""
    ensemble: Positive = 2
    """Members."""
    subset: Positive | None = None
    """Members, drawn anew each step, over which a target is reduced; null = all (RLPD: 2 of 10)."""
    reduce: Literal["min", "mean"] = "min"
    """How a target's members become one number."""
    polyak: Annotated[float, Field(gt=0, le=1)] = 0.005
    """Share of the newest weights that enters the slowly moving ones each step."""
    hl_gauss: HLGaussConfig | None = None
    """Learn a distribution over bins by cross entropy; null = one number by squared error."""
    iql: IQLConfig = field(default_factory=IQLConfig)
    cal_ql: CalQLConfig = field(default_factory=CalQLConfig)

    def __post_init__(self) -> None:
        if self.subset is not None and self.subset > self.ensemble:
            raise ConfigError(f"subset={self.subset} is more than the ensemble={self.ensemble}; lower subset")
        if not self.hidden:
            raise ConfigError("hidden is empty; give at least one width")
        if self.encoder.temporal is not None:
            raise ConfigError("critics carry no memory from call to call; set encoder.temporal to null")
        if self.type == "rlpd" and not self.layer_norm:
            raise ConfigError("rlpd has no regulariser and relies on LayerNorm; set layer_norm to true")
        if self.type == "cal_ql" and self.normalization.action not in BOUNDED:
            raise ConfigError(
                f"cal_ql draws actions uniformly from [-1, 1], but normalization.action is "
                f"{self.normalization.action}; use limits (or type: iql)"
            )
        low, high = self.value_range
        if not low < high:
            raise ConfigError(f"hl_gauss: low={low:g} must be less than high={high:g}")

    @property
    def alpha(self) -> float:
        """Weight of the regulariser."""
        return self.cal_ql.alpha if self.type == "cal_ql" else 0.0

    @property
    def value_range(self) -> tuple[float, float]:
        """Least and greatest value of the bins."""
        bins = self.hl_gauss or HLGaussConfig()
        return -1.0 / (1.0 - self.gamma) if bins.low is None else bins.low, 0.0 if bins.high is None else bins.high
