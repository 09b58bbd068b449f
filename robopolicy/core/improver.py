"""The contract between fine-tuning methods (DSRL, PA-RL, your own) and the run that drives them.

An improver takes a policy that acts and makes a better one of it from episodes.  It owns networks, losses and
optimisers and nothing else: simulators, replay, budgets, evaluation and checkpoints belong to the run
(``training.finetune``), which asks it what to do and hands it batches.  One round of a run is

    explorer -> episodes -> replay -> online_work -> step, step, ... -> evaluation of candidates -> checkpoint

Weights are fixed while episodes are collected, and all randomness comes through the keys and generators given, so a
round's outcome is a function of weights and seeds alone.  Source: the project's policy interface, sections 5 and 6.
A batch is that of ``rl.transitions``, with ``latent`` ``(B, *latent_shape)`` where the layout has one.

A method is added with its configuration class (which needs no torch) and a function that builds it:

    IMPROVERS.add("mine", ImproverKind("package.config:MineConfig", "package.mine:build"))
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from robopolicy.core.chunk import ActionChunk
from robopolicy.core.errors import CheckpointError, ConfigError
from robopolicy.core.registry import Registry
from robopolicy.core.specs import ActionSpec, FeatureKind, FeatureSpec, FeatureStats, ObservationSpec

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.optim import Optimizer


@dataclass(frozen=True)
class ReplayLayout:
    """What one decision stores, in physical numbers, images uint8.

    ``features`` are the observation keys (no language); ``k`` is the actions executed a decision, ``gamma`` the
    discount of one environment step; ``latent_shape`` is ``None`` for methods that do not act through latents.
    """

    features: tuple[FeatureSpec, ...]
    n_obs_steps: int
    k: int
    action_dim: int
    latent_shape: tuple[int, ...] | None
    gamma: float

    def __post_init__(self) -> None:
        if not self.features:
            raise ConfigError("the replay stores no observation; name at least one observation key")
        if texts := [f.key for f in self.features if f.kind is FeatureKind.LANGUAGE]:
            raise ConfigError(f"the replay stores numbers, not sentences; leave out {', '.join(texts)}")
        if min(self.n_obs_steps, self.k, self.action_dim) < 1:
            raise ConfigError(
                f"n_obs_steps, k and action_dim must be >= 1, got {self.n_obs_steps}, {self.k}, {self.action_dim}"
            )
        if not 0 < self.gamma < 1:
            raise ConfigError(f"gamma must be in (0, 1), got {self.gamma:g}")

    @property
    def observation_spec(self) -> ObservationSpec:
        """The features as a specification."""
        return ObservationSpec(self.features)


@dataclass(frozen=True)
class Explored:
    """What an explorer did for ``B`` observations: chunks, and the latents ``(B, *latent_shape)`` float32 they are
    of, where the replay stores them."""

    chunk: ActionChunk
    latent: np.ndarray | None = None


class Explorer(Protocol):
    """Acts while episodes are collected.  Its weights are fixed during a round."""

    @property
    def action_spec(self) -> ActionSpec:
        """Of the chunks it returns."""

    @property
    def observation_spec(self) -> ObservationSpec:
        """Everything it reads; the simulator renders nothing else (and what the replay stores)."""

    @property
    def recurrent(self) -> bool:
        """Whether it carries a state through an episode."""

    def explore(
        self,
        obs: Mapping[str, Any],
        noise_keys: Sequence[Sequence[int]],
        episodes: Sequence[Hashable] | None = None,
    ) -> Explored:
        """Act on physical observations ``(B, n_obs_steps, ...)``; row b's noise is a function of ``noise_keys[b]``."""

    def reset(self, episodes: Sequence[Hashable] | None = None) -> None:
        """Forget what was carried for ``episodes`` (default: all)."""


@dataclass(frozen=True)
class Work:
    """``steps`` updates of one kind; ``mixing`` is the share of offline rows in each batch (0 = online only)."""

    kind: str
    steps: int
    mixing: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 0 or not 0 <= self.mixing <= 1:
            raise ConfigError(f"{self.kind}: steps must be >= 0 and mixing in [0, 1], got {self.steps}, {self.mixing}")


class Improver(ABC):
    """A method that improves a policy.  Its only randomness is that of the generators and keys given.

    ``name`` is its name in configurations, ``layout`` what it wants stored, ``batch_size`` the rows of one update.
    """

    name: ClassVar[str]
    layout: ReplayLayout
    batch_size: int

    @abstractmethod
    def explorer(self, warmup: bool) -> Explorer:
        """Who collects the next round; ``warmup`` asks for the base policy's own behaviour."""

    def offline_work(self) -> Sequence[Work]:
        """Updates before the first episode, from offline data alone (default: none)."""
        return ()

    @abstractmethod
    def online_work(self, transitions: int, env_steps: int) -> Sequence[Work]:
        """Updates after a round that brought ``transitions`` decisions and ``env_steps`` environment steps.

        Work is done in the order given; the counts are of that round only.
        """

    @abstractmethod
    def step(self, kind: str, batch: Mapping[str, np.ndarray], generator: torch.Generator) -> dict[str, float]:
        """One update of ``kind`` on a batch of ``batch_size`` rows; returns scalars for the log.

        ``generator`` (CPU) is a function of the seed, the kind and the update's number.
        """

    @abstractmethod
    def candidates(self) -> Mapping[str, Any]:
        """What evaluation runs, policies that act by name (``policies.acting.Acting``); the first is deployed."""

    @abstractmethod
    def modules(self) -> nn.Module:
        """Every module whose weights learning changes: their state dict is what a checkpoint holds."""

    @abstractmethod
    def optimizers(self) -> Mapping[str, Optimizer]:
        """The optimisers by name, for exact resumption."""

    def extra_state(self) -> dict[str, Any]:
        """Counters and the like, as JSON (default: none)."""
        return {}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take back what ``extra_state`` returned; raises ``CheckpointError`` for what it does not know."""
        if state:
            raise CheckpointError(f"{self.name}: unknown counters in the checkpoint: {', '.join(map(str, state))}")

    @property
    def resumable(self) -> bool:
        """Whether a run that is saved now, among updates, and resumed goes on to the bit.

        A run that is asked to stop goes on until it is; between rounds it always must be.  False while something is
        remembered that a checkpoint does not hold.
        """
        return True

    @property
    def bound(self) -> float | None:
        """The bound of the latents as configured, where the method has one: what a curriculum ends at."""
        return None

    def set_bound(self, bound: float) -> None:
        """Explore within ``bound`` from now on, called before every round of a curriculum (safety on robots)."""
        raise ConfigError(f"{self.name} has no bound of latents; set safety.bound_start to null")

    @abstractmethod
    def save(self, directory: Path, base: str) -> Path:
        """Write the deployable artefact into ``directory`` (which exists) and return its YAML nesting, a file there.

        Paths in the nesting are relative to it, except ``base``, the path of the base policy, which is written as
        given.  Policies and critics inside bring their own manifests (``save_policy``, ``save_critic``).
        ``robopolicy.load`` of the nesting is the first of ``candidates``.
        """

    @abstractmethod
    def frozen_hash_parts(self) -> nn.Module | None:
        """Weights that must not change (the base under DSRL): the run hashes them at the start, at every checkpoint
        and at the end, and stops when the hash differs.  ``None``: nothing is frozen."""


@dataclass(frozen=True)
class Beginning:
    """What an improver is built from, besides its own section of the configuration.

    ``base`` acts (``policies.acting.Acting``), in evaluation mode, on the device where learning happens;
    ``observation_spec`` is what the environment offers; ``stats`` are physical statistics by key, ``action`` included:
    those of the base's heads, and of the offline data for keys that no head reads; initial weights are a function of
    ``seed``; ``offline`` says whether there will be offline data.
    """

    base: Any
    observation_spec: ObservationSpec
    stats: Mapping[str, FeatureStats] = field(default_factory=dict)
    seed: int = 0
    offline: bool = False


@dataclass(frozen=True)
class ImproverKind:
    """One method: its configuration class and ``build(config, beginning) -> Improver``, each ``"module:name"`` and
    imported when first asked for (the configuration class needs no torch)."""

    config: str
    build: str

    @property
    def config_class(self) -> type:
        """The class of its section of the configuration; every field has a default."""
        found: type = _named(self.config)
        return found

    def make(self, config: Any, beginning: Beginning) -> Improver:
        """A new improver; raises ``ConfigError`` or ``PolicyInterfaceError`` where it does not fit the base."""
        made: Improver = _named(self.build)(config, beginning)
        return made


def _named(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


IMPROVERS = Registry("fine-tuning method")
