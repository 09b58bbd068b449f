"""What a fine-tuning run is: frozen typed dataclasses, read like those of policies (see ``config_load``).

``type`` names the method; its options are in the section of that name, so a preset may hold a section for each method
and one line changes it.  The text under each field is its help text (``robopolicy finetune --help all``).
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from robopolicy.core.configs import config_dataclass
from robopolicy.core.errors import ConfigError, did_you_mean
from robopolicy.core.seeding import derive_seed
from robopolicy.rl import improvers
from robopolicy.rl.reward_rule import RewardRule
from robopolicy.training.config import (
    Count,
    EnvironmentConfig,
    Fraction,
    LoggingConfig,
    Positive,
    _env,
)
from robopolicy.training.config_load import COMMAND_LINE, find_preset, read_yaml, validated
from robopolicy.training.critic_config import CriticDataConfig
from robopolicy.training.overrides import merge

# What may change between a run and its continuation: nothing of it is part of the numbers that a round computes.
CHANGEABLE = ("base", "rounds", "max_env_steps", "eval", "checkpoint", "log", "simulate", "device", "run_dir")
COLLECTION_SEEDS = 10_000_000  # first of the start seeds; those of evaluations lie far below


@config_dataclass
class OfflineConfig(CriticDataConfig):
    """Episodes that were there before: demonstrations, and rollouts of `robopolicy evaluate --record`."""

    val_ratio: Fraction = 0.0
    """Share of each dataset's episodes left out."""
    positive_steps: Positive = 1
    """Last steps of a successful episode that count as the goal; 1 as in episodes that are collected."""


@config_dataclass
class CollectConfig:
    """How a round's episodes are collected."""

    episodes: Positive = 10
    """Episodes a round; the weights are fixed while they are collected."""
    warmup_episodes: Count = 20
    """Episodes of the first round, which the base policy collects as it is; 0 = no such round."""
    base_seed: Count | None = None
    """Start seed of the first episode, later ones count up; null = a function of seed, above 10 million."""
    slots: Positive = 8
    """Episodes in flight, batched through the policy together; 1 for anything real."""
    replay_round: bool = True
    """After a kill in mid-round, with several slots: simulate the round again and keep what is on disk already, so that
    each missing episode meets the same batches (bitwise the uninterrupted run); false simulates the missing only."""


@config_dataclass
class SimulateConfig:
    """Who simulates; no part of the result."""

    workers: Count = 2
    """Simulator processes; 0 = in this one."""
    ray: str = ""
    """Put them on Ray: auto, local or the address of a cluster; empty = this machine's processes."""
    timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """Seconds that one chunk may take to simulate."""


@config_dataclass
class FinetuneEvalConfig:
    """Evaluation on fixed start seeds, the same in every run, so that runs can be paired."""

    every_rounds: Count = 5
    """Rounds between evaluations (and one after the last round); 0 = never."""
    at_start: bool = True
    """Also before anything is learned, and after the offline stage; the base policy is measured with it."""
    episodes: Positive = 50
    """Episodes each time and candidate."""
    base_seed: Count = 50_000
    """First start seed; away from the 100000 of `robopolicy evaluate`."""
    candidates: Literal["all", "first"] = "all"
    """Everything that the method offers (pa_rl: optimised and base), or only what will be deployed."""
    slots: Positive = 16
    """Episodes in flight."""
    videos: Count = 0
    """Episodes recorded as MP4 each time."""


@config_dataclass
class FinetuneCheckpointConfig:
    """When to save and what to keep."""

    every_rounds: Positive = 1
    """Rounds between checkpoints; the last round and the end of the offline stage are always saved."""
    every_updates: Positive = 10_000
    """Updates between checkpoints inside one stage of learning (long offline stages)."""
    keep_last: Positive = 2
    """Newest checkpoints to keep."""
    keep_best: Count = 1
    """Best checkpoints to keep, by success of the first candidate."""
    deploy: Literal["best", "newest"] = "best"
    """Which checkpoint policy.yaml names: the best of those that were evaluated, or the newest."""


@config_dataclass
class SafetyConfig:
    """For robots, all off by default: simulators need none of it."""

    mix_base: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Chance that an episode is collected by the base policy (0.2 against the dip right after learning begins)."""
    max_failures: Positive | None = None
    """Stop, saved, after so many failed episodes in a row (5); --resume goes on counting from none."""
    bound_start: Annotated[float, Field(gt=0)] | None = None
    """Bound of the latents in the first round (dsrl); it grows by equal steps to the method's own bound..."""
    bound_rounds: Positive = 20
    """... within so many rounds."""


@config_dataclass
class FinetuneConfig:
    """One fine-tuning run."""

    type: str
    """The method: dsrl, pa_rl, or one that you registered; its options are in the section of that name."""
    base: str
    """The policy to improve: run, checkpoint, policy directory, YAML of a nesting, or lerobot:PATH_OR_HUB_ID."""
    method: Any
    """Options of `type`."""
    env: Annotated[EnvironmentConfig | None, BeforeValidator(_env)] = None
    """Where episodes are collected; null = the environment of the base's run."""
    offline: OfflineConfig | None = None
    """Episodes from before; null = none."""
    rounds: Positive | None = None
    """Stop after so many rounds, the warm-up one included."""
    max_env_steps: Positive | None = None
    """Stop before so many environment steps; never exceeded: the last round gets only episodes that surely fit."""
    rewards: RewardRule = Field(default_factory=RewardRule)
    """What a step of a collected episode is worth."""
    cut_at_success: bool = True
    """The first success ends an episode for learning; what came after it is left out."""
    collect: CollectConfig = Field(default_factory=CollectConfig)
    """Collection."""
    simulate: SimulateConfig = Field(default_factory=SimulateConfig)
    """Who simulates, for collection and evaluation."""
    eval: FinetuneEvalConfig = Field(default_factory=FinetuneEvalConfig)
    """Evaluation."""
    checkpoint: FinetuneCheckpointConfig = Field(default_factory=FinetuneCheckpointConfig)
    """Saving."""
    safety: SafetyConfig = Field(default_factory=SafetyConfig)
    """Safety on robots."""
    log: LoggingConfig = Field(default_factory=LoggingConfig)
    """Logging; `log.every` is the number of updates between the lines of the offline stage."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto = CUDA when there is one."""
    seed: Count = 42
    """Initial weights, episodes, batches and noise are functions of it."""
    run_dir: str | None = None
    """Where everything goes; null = runs/finetune-<preset>-<time>."""

    def __post_init__(self) -> None:
        if not self.base:
            raise ConfigError("name the policy to improve: --base PATH (a run, a checkpoint, a policy directory)")
        if self.rounds is None and self.max_env_steps is None:
            raise ConfigError("nothing ends the run; give --max-env-steps N or --rounds N")

    @property
    def collection_seed(self) -> int:
        """Start seed of the run's first episode."""
        given = self.collect.base_seed
        return COLLECTION_SEEDS + derive_seed("env", self.seed) % 2**30 if given is None else given


def finetune_config_from_dict(data: Mapping[str, Any], origins: Mapping[str, str] | None = None) -> FinetuneConfig:
    """Validate a plain mapping; ``origins`` maps dotted names to where they came from ("" = everything else).

    The method's options are read from the section named like it, or from ``method`` (a run's own config.yaml).
    Sections of other methods are checked and left out.
    """
    origins, plain = origins or {}, dict(data)
    where = origins.get("", "configuration")
    name = plain.get("type")
    if not isinstance(name, str):
        raise ConfigError(f"{where}: expected 'type', one of: {', '.join(improvers.IMPROVERS)}")
    if name not in improvers.IMPROVERS:
        raise ConfigError(f"{where}: unknown fine-tuning method '{name}'" + did_you_mean(name, improvers.IMPROVERS))
    sections = {n: plain.pop(n) for n in improvers.IMPROVERS if n in plain}
    for dotted, origin in origins.items():
        if (other := dotted.split(".")[0]) in sections and other != name and "." in dotted:
            raise ConfigError(f"{origin}: has no effect with type: {name}; leave it out, or give --type {other}")
    if name in sections and "method" in plain:
        raise ConfigError(f"{where}: give the options of {name} in '{name}' or in 'method', not in both")
    options = {n: _section(n, values, origins) for n, values in sections.items()}
    if not isinstance(plain.get("method"), Mapping):
        plain["method"] = options[name] if name in options else _section(name, {}, origins)
    else:
        plain["method"] = _section(name, plain["method"], origins, "method")
    return typing.cast(FinetuneConfig, validated(FinetuneConfig, plain, origins))


def _section(name: str, values: Any, origins: Mapping[str, str], key: str | None = None) -> Any:
    config_class = improvers.IMPROVERS.get(name).config_class
    if dataclasses.is_dataclass(values) and isinstance(values, config_class):
        return values
    return validated(config_class, dict(values or {}), origins, prefix=(key or name,))


def load_finetune_config(path: str | Path, overrides: Mapping[str, str] | None = None) -> FinetuneConfig:
    """Preset ``path`` with dotted ``overrides`` (texts, as typed) applied, validated."""
    path, overrides = find_preset(path), dict(overrides or {})
    origins = {"": str(path)} | {name: f"{COMMAND_LINE} --{name}" for name in overrides}
    return finetune_config_from_dict(merge(read_yaml(path), overrides), origins)
