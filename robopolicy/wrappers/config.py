"""Nestings as data: which policies and critics stand inside which wrapper, with which settings (no torch here).

A nesting is a mapping ``{format: 1, type: composed | value_guided | optimised | steered | real_time, ...}``, usually a
YAML file.
A policy inside it is text (a run, a checkpoint, a policy directory, another YAML file, ``lerobot:PATH_OR_HUB_ID``) or a
mapping of the same form.  Relative paths count from the file's folder.  ``robopolicy.nesting`` builds what these
classes describe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field

from robopolicy.core.configs import build_config, config_dataclass
from robopolicy.core.errors import ConfigError, did_you_mean
from robopolicy.wrappers.operators import Operator

Source = str | dict[str, Any]
Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Above0 = Annotated[float, Field(gt=0)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@config_dataclass
class ComposedConfig:
    """Policies whose scores are averaged at every denoising step (GPC)."""

    policies: tuple[Source, ...]
    """The parents, in the order of the weights."""
    weights: tuple[float, ...]
    """One weight a parent, not negative, sum 1."""
    type: Literal["composed"] = "composed"
    format: Literal[1] = 1
    leader: int | None = None
    """Number of the parent whose path, grid and sampler are used; null takes the coarsest grid."""
    operator: Operator = "convex"
    """How the scores are put together; convex is the method, the others are experiments."""
    n_action_steps: Positive | None = None
    """Steps executed before the next chunk; null takes what all parents can do."""
    tolerance_logk: NotNegative = 0.06
    """Largest distance of the parents' noise levels, in log kappa."""
    same_task: bool = False
    """Compose parents that are conditioned differently (goals, sentences): you say that they do the same task."""
    sampler: dict[str, Any] = field(default_factory=dict)
    """Options of the leader's set_sampler, e.g. num_inference_steps."""
    env: Source | None = None
    """Environment: a name, or name and kwargs; null takes that of the first parent's run."""
    sha256: tuple[Sha256 | None, ...] | None = None
    """Hashes of the parents' weights, one a parent; a parent with other weights is refused."""

    def __post_init__(self) -> None:
        if len(self.policies) < 2:
            raise ConfigError(f"policies: a composition needs at least two, got {len(self.policies)}")
        for name in ("weights", "sha256"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.policies):
                raise ConfigError(
                    f"{name} has {len(values)} entries for {len(self.policies)} policies; give one a policy"
                )


@config_dataclass
class ValueGuidedHashes:
    """SHA-256 of what a value-guided policy is made of."""

    policy: Sha256 | None = None
    """Of the policy."""
    critic: Sha256 | None = None
    """Of the critic."""


@config_dataclass
class ValueGuidedConfig:
    """A policy whose candidates are ranked by a critic (V-GPS)."""

    policy: Source
    """What draws the candidates."""
    critic: str
    """Critic directory, or the run that trained it; ``energy`` for the policy's own energy, ``random`` as a control."""
    type: Literal["value_guided"] = "value_guided"
    format: Literal[1] = 1
    num_samples: Positive = 16
    """Candidates a chunk; 1 is the policy itself."""
    temperature: NotNegative = 0.1
    """Of the softmax over values; 0 takes the best."""
    relative_temperature: bool = False
    """Temperature in units of the candidates' spread, not of values."""
    reduce: Literal["min", "mean", "lcb"] = "min"
    """How the critic's members become one value."""
    score_first_step_only: bool = False
    """Let a critic of single actions judge the first executed one."""
    hysteresis: bool = False
    """The rest of the previous chunk is one more candidate."""
    on_degenerate: Literal["error", "warn"] = "error"
    """What to do when all candidates coincide."""
    sampler: dict[str, Any] = field(default_factory=dict)
    """Options of the policy's set_sampler."""
    env: Source | None = None
    """Environment: a name, or name and kwargs; null takes that of the policy's run."""
    sha256: ValueGuidedHashes | None = None
    """Hashes of the weights; others are refused."""


@config_dataclass
class OptimisedConfig:
    """A policy whose candidates are ranked by a critic and then improved by its gradient (PA-RL)."""

    policy: Source
    """What draws the candidates."""
    critic: str
    """Critic directory, or the run that trained it."""
    type: Literal["optimised"] = "optimised"
    format: Literal[1] = 1
    num_samples: Positive = 32
    """Candidates a chunk."""
    keep: Positive = 10
    """How many of them, the best, are improved."""
    steps: Annotated[int, Field(ge=0)] = 10
    """Gradient steps; 0 only ranks."""
    eta: Above0 = 3e-4
    """Length of a step."""
    eta_mode: Literal["raw", "unit_norm", "trust"] = "raw"
    """raw: eta times the gradient; unit_norm: eta along it; trust: raw steps within `radius` of the start."""
    radius: Above0 = 0.1
    """Of the ball that `trust` keeps to, in the critic's units (its data reach from -1 to 1)."""
    selection: Literal["argmax", "softmax"] = "argmax"
    """Take the best, or draw from the softmax of the values."""
    temperature: Above0 = 1.0
    """Of that softmax, in units of the values."""
    reduce: Literal["min", "mean", "lcb"] = "mean"
    """How the critic's members become one value."""
    critic_weights: Literal["newest", "slow"] = "newest"
    """Which of the critic's weights answer."""
    bounds: Literal["data", "space", "none"] = "data"
    """Where actions may be moved: the range of the critic's data, the action space, anywhere."""
    rotations: bool = False
    """Turn rotations too, not only move positions."""
    max_jump: Above0 | None = 2.0
    """A chunk that jumps more than so many times its own greatest step where the moved part ends stays as it was."""
    score_first_step_only: bool = False
    """Let a critic of single actions judge and move the first executed one."""
    on_degenerate: Literal["error", "warn"] = "error"
    """What to do when all candidates coincide."""
    sampler: dict[str, Any] = field(default_factory=dict)
    """Options of the policy's set_sampler."""
    env: Source | None = None
    """Environment: a name, or name and kwargs; null takes that of the policy's run."""
    sha256: ValueGuidedHashes | None = None
    """Hashes of the weights; others are refused."""

    def __post_init__(self) -> None:
        if self.keep > self.num_samples:
            raise ConfigError(f"keep={self.keep} of num_samples={self.num_samples} candidates; lower keep")


@config_dataclass
class SteeredHashes:
    """SHA-256 of what a steered policy is made of."""

    policy: Sha256 | None = None
    """Of the policy."""
    actor: Sha256 | None = None
    """Of the noise actor."""


@config_dataclass
class SteeredConfig:
    """A policy whose latent is chosen by a noise actor (DSRL)."""

    policy: Source
    """What is steered; it decodes as it did when the actor learned."""
    actor: str
    """Directory of the noise actor, as a fine-tuning run writes it."""
    type: Literal["steered"] = "steered"
    format: Literal[1] = 1
    deterministic: bool = True
    """Act by the actor's mode; false samples from it, which value guidance around this policy needs."""
    bound: Above0 | None = None
    """Half-width of the box of latents, if it shall be another than the actor's own."""
    env: Source | None = None
    """Environment: a name, or name and kwargs; null takes that of the policy's run."""
    sha256: SteeredHashes | None = None
    """Hashes of the weights; others are refused."""


@config_dataclass
class RealTimeConfig:
    """A policy whose chunks continue the ones being executed (real-time chunking)."""

    policy: Source
    """What is guided: a head with a score, or a composition."""
    type: Literal["real_time"] = "real_time"
    format: Literal[1] = 1
    cap: NotNegative | Literal["auto", "none"] | None = "auto"
    """Largest factor of the pull towards the old chunk; auto (or null): half of the solver's steps, at most 10; none
    lifts it."""
    jacobian: Literal["true", "identity", True] = "true"
    """true pulls through the network (a backward pass a query), identity leaves its Jacobian out."""
    sampler: dict[str, Any] = field(default_factory=dict)
    """Options of the policy's set_sampler."""
    env: Source | None = None
    """Environment: a name, or name and kwargs; null takes that of the policy's run."""
    sha256: Sha256 | None = None
    """Hash of the policy's weights; others are refused."""


@config_dataclass
class LeRobotConfig:
    """A policy that LeRobot trained; the text ``lerobot:PATH`` is short for it."""

    path: str
    """Folder of a checkpoint (``.../pretrained_model``) or hub id."""
    type: Literal["lerobot"] = "lerobot"
    format: Literal[1] = 1
    fps: Annotated[float, Field(gt=0)] | None = None
    """Rate of the actions, Hz; LeRobot's checkpoints do not state it, and composing needs it."""
    sampler: dict[str, Any] = field(default_factory=dict)
    """Options of set_sampler, e.g. ``{sampler: ddim, num_inference_steps: 10}``; empty decodes as LeRobot does."""


NestingConfig = ComposedConfig | ValueGuidedConfig | OptimisedConfig | SteeredConfig | RealTimeConfig | LeRobotConfig
TYPES: dict[str, type] = {
    "composed": ComposedConfig,
    "value_guided": ValueGuidedConfig,
    "optimised": OptimisedConfig,
    "steered": SteeredConfig,
    "real_time": RealTimeConfig,
    "lerobot": LeRobotConfig,
}


def nesting_config(data: Any, where: str) -> NestingConfig:
    """The typed form of a mapping; raises ``ConfigError`` that begins with ``where`` for anything else."""
    if not isinstance(data, Mapping) or not isinstance(data.get("type"), str):
        raise ConfigError(f"{where}: expected a mapping with 'type', one of: {', '.join(TYPES)}")
    name = data["type"]
    if name not in TYPES:
        raise ConfigError(f"{where}: unknown type '{name}'" + did_you_mean(name, TYPES))
    config: NestingConfig = build_config(TYPES[name], data, where)
    return config
