"""What PA-RL is: frozen typed dataclasses (no torch here: the command line reads them).

Source: Sobol Mark et al. 2024, *Policy Agnostic RL* (PA-RL, arXiv 2412.06685) and its released code for the defaults of
tasks observed as vectors; for pictures the code has squared errors, alpha 0.01 and 4 actions a source.
The text under each field is its help text.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from robopolicy.core.configs import config_dataclass
from robopolicy.core.errors import ConfigError
from robopolicy.rl.config import CalQLConfig, CriticConfig, HLGaussConfig, Positive

NotNegative = Annotated[float, Field(ge=0)]
Above0 = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Draw = Literal["softmax", "argmax"]


@config_dataclass
class PARLCalQLConfig(CalQLConfig):
    """Cal-QL with the actions of the optimised policy, which have no density."""

    alpha: NotNegative = 0.005
    """Weight of the regulariser; never copied between reward scales, losses or estimators."""
    samples: Positive = 10
    """Actions from each of three sources: uniform, the optimised policy here, and at the next observation."""
    estimator: Literal["importance", "no_importance"] = "no_importance"
    """Must be no_importance."""
    max_target_backup: bool = False
    """Bootstrap from the best of the policy's `samples` next actions instead of one draw."""


@config_dataclass
class PARLCriticConfig(CriticConfig):
    """The critic; ``n_action_steps`` is taken from the base."""

    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """Discount of one environment step."""
    layer_norm: bool = True
    """LayerNorm before every activation."""
    ensemble: Positive = 10
    """Members."""
    subset: Positive | None = 2
    """Members, drawn anew each step, over which a target is reduced; null = all."""
    hl_gauss: HLGaussConfig | None = field(default_factory=lambda: HLGaussConfig(bins=128))
    """Learn a distribution over bins by cross entropy; null = one number by squared error."""
    cal_ql: PARLCalQLConfig = field(default_factory=PARLCalQLConfig)


@config_dataclass
class TrainingCandidatesConfig:
    """Fewer candidates while learning than while acting; they are what an update costs.  Null: as while acting."""

    num_samples: Positive | None = None
    """Candidates of an observation."""
    keep: Positive | None = None
    """How many of them are improved."""
    steps: Count | None = None
    """Gradient steps."""


@config_dataclass
class PARLConfig:
    """Optimise the base's actions with a critic, then imitate the result."""

    imitate: Literal["optimised", "data"] = "optimised"
    """data: the control, behaviour cloning continued on offline data and successful episodes, without any critic."""
    student: str | None = None
    """A policy that learns in the place of a base that cannot (a composition); null = the base itself."""
    critic: PARLCriticConfig = field(default_factory=PARLCriticConfig)
    critic_path: str | None = None
    """Start from this trained critic (a critic directory) instead of a new one; `critic` is then not read."""

    num_samples: Positive = 32
    """Candidates a chunk."""
    keep: Positive = 10
    """How many of them, the best, are improved."""
    steps: Count = 10
    """Gradient steps; 0 only ranks."""
    eta: Above0 = 3e-4
    """Length of a step."""
    eta_mode: Literal["raw", "unit_norm", "trust"] = "raw"
    """raw: eta times the gradient; unit_norm: eta along it; trust: raw steps within `radius` of the start."""
    radius: Above0 = 0.1
    """Of the ball that `trust` keeps to, in the critic's units (its data reach from -1 to 1)."""
    reduce: Literal["min", "mean", "lcb"] = "mean"
    """How the critic's members judge actions; lcb (mean less one deviation) is the cautious choice."""
    bounds: Literal["data", "space", "none"] = "data"
    """Where actions may be moved: the range of the critic's data, the action space, anywhere."""
    rotations: bool = False
    """Turn rotations too, not only move positions."""
    max_jump: Above0 | None = 2.0
    """Guard of the seam between moved and other steps, see `optimised` nestings."""
    temperature: Above0 = 1.0
    """Of every softmax over values, in their units."""
    training: TrainingCandidatesConfig = field(default_factory=TrainingCandidatesConfig)

    explore: Draw = "softmax"
    """How chunks are chosen while collecting."""
    deploy: Draw = "argmax"
    """How chunks are chosen by the policy that is evaluated and saved."""
    target_policy: Literal["softmax", "argmax", "legacy"] = "softmax"
    """Whose next actions the critic learns from: draws, the best one (once), or the best one `cal_ql.samples` times,
    as in the released code."""
    distil: Draw = "softmax"
    """How the chunk to imitate is chosen."""
    data_in_pool: bool = True
    """The data's own action competes, in the place of the worst candidate kept."""
    tail_weight: NotNegative = 0.25
    """Weight, in the loss, of the steps that are not executed; 1 is that of those which are."""

    batch_size: Positive = 256
    """Rows of an update."""
    offline_steps: Count = 0
    """Updates of the critic on offline data before the first episode."""
    base_utd: NotNegative = 1.0
    """Updates of the base per unit of experience; they come before the critic's."""
    critic_utd: NotNegative = 1.0
    """Updates of the critic per unit of experience (RLPD: 20)."""
    utd_unit: Literal["transition", "env_step"] = "transition"
    """Unit of experience: one decision, or one environment step."""
    base_mixing: Share = 0.5
    """Share of offline rows in the base's batches."""
    critic_mixing: Share = 0.5
    """Share of offline rows in the critic's batches, after the offline stage."""
    base_lr: Above0 = 5e-5
    """Learning rate of the base, constant."""
    critic_lr: Above0 = 3e-4
    """Learning rate of the critic, constant."""
    weight_decay: NotNegative = 1e-6
    """Of the base."""
    grad_clip: Above0 | None = None
    """Largest gradient norm, of base and critic alike; null = none."""
    ema: Annotated[float, Field(gt=0, le=1)] | None = 0.002
    """Share of the newest weights that enters the average, which acts, each update; null = no average."""
    refresh: Positive = 1000
    """Updates of the base after which its samples are drawn anew; until then each observation keeps its own."""
    cache_mb: Positive = 1024
    """Memory for those samples, MB."""

    def __post_init__(self) -> None:
        samples, keep, _ = self.candidates
        for where, k, m in (("", self.num_samples, self.keep), ("training.", samples, keep)):
            if m > k:
                raise ConfigError(f"{where}keep={m} of {where}num_samples={k} candidates; lower {where}keep")
        if self.imitate == "optimised" and self.critic_utd == 0 and self.offline_steps == 0 and not self.critic_path:
            raise ConfigError("the critic never learns: raise critic_utd or offline_steps, or give critic_path")

    @property
    def candidates(self) -> tuple[int, int, int]:
        """While learning: candidates, how many are kept, gradient steps."""
        own = self.training
        return (
            self.num_samples if own.num_samples is None else own.num_samples,
            self.keep if own.keep is None else own.keep,
            self.steps if own.steps is None else own.steps,
        )

    @property
    def needs_critic(self) -> bool:
        """Whether actions are optimised at all."""
        return self.imitate == "optimised"
