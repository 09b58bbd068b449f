"""From datasets on disk to chunk transitions, training and held-out, with the specs and statistics of a critic.

Differs from a policy's data: every frame begins a transition, several datasets (demonstrations and rollouts) are read
as one, and each observation has a successor, ``k`` frames later.  The observation after the last frame was not
recorded: where the future goes on (a failure, a time limit) the last one stands for it, as if time stood still there.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import ACTION, ActionSpace, FeatureKind, FeatureStats, ObservationSpec
from robopolicy.datasets.statistics import vector_stats
from robopolicy.datasets.windows import Windows
from robopolicy.rl.config import CriticConfig
from robopolicy.rl.transitions import NEXT, ChunkTransitions
from robopolicy.training.config import DatasetConfig
from robopolicy.training.critic_config import CriticDataConfig
from robopolicy.training.critic_rewards import Labels, Source, choose_source, reward_kind, transitions_of
from robopolicy.training.data import Demonstrations, fingerprint
from robopolicy.training.order import SampleOrder

log = logging.getLogger(__name__)


class SourceTransitions:
    """Transitions of one dataset's ``episodes``: observations here and ``k`` frames on, actions, numbers."""

    def __init__(
        self, demos: Demonstrations, episodes: Sequence[int], spec: ObservationSpec, n_obs_steps: int, k: int
    ) -> None:
        def windows(first: int, action_steps: int) -> Windows:
            keys = [f.key for f in spec.features if f.kind is not FeatureKind.LANGUAGE]
            deltas = dict.fromkeys(keys, tuple(range(first, first + n_obs_steps)))
            return Windows(
                demos.reader,
                spec,
                n_obs_steps,
                n_obs_steps,
                1,
                episodes,
                cache_dir=demos.config.cache_dir,
                anchors="all",
                deltas={**deltas, ACTION: tuple(range(action_steps))},
            )

        self.demos, self.keys = demos, spec.keys
        self.here, self.ahead = windows(1 - n_obs_steps, k), windows(k + 1 - n_obs_steps, 1)
        self.episodes = self.here.episodes

    def __len__(self) -> int:
        return len(self.here)

    @property
    def starts(self) -> np.ndarray:
        """Transitions at which episodes begin."""
        return np.cumsum([0, *(e.length for e in self.episodes)])[:-1]

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Observations, successors under ``next.``, ``action`` ``(B, k, D)`` (the last repeated beyond the end)."""
        here, ahead = self.here.gather(indices), self.ahead.gather(indices)
        batch = {key: here[key] for key in (*self.keys, ACTION, "index", "episode_index")}
        return batch | {NEXT + key: ahead[key] for key in self.keys}


class Transitions:
    """Transitions of several datasets, one after the other; what ``BatchSource`` calls windows."""

    def __init__(self, sources: Sequence[SourceTransitions], table: ChunkTransitions) -> None:
        self.sources, self.table = sources, table
        self.sizes = [len(s) for s in sources]
        self.offsets = np.cumsum([0, *self.sizes])

    def __len__(self) -> int:
        return int(self.offsets[-1])

    @property
    def starts(self) -> np.ndarray:
        """Transitions at which episodes begin."""
        return np.concatenate([s.starts + o for s, o in zip(self.sources, self.offsets[:-1], strict=True)])

    def gather(self, indices: np.ndarray, draws: np.ndarray | None = None) -> dict[str, Any]:
        """Batch of transitions ``indices`` ``(B,)``; see ``rl.transitions``."""
        indices = np.asarray(indices, np.int64)
        if len(self.sources) == 1:
            return self.sources[0].gather(indices) | self.table.rows(indices)
        owner = np.searchsorted(self.offsets, indices, side="right") - 1
        batch: dict[str, Any] = {}
        for i, (source, offset) in enumerate(zip(self.sources, self.offsets, strict=False)):
            at = np.flatnonzero(owner == i)
            if not len(at):
                continue
            for key, values in source.gather(indices[at] - offset).items():
                if key not in batch:
                    batch[key] = np.empty((len(indices), *values.shape[1:]), values.dtype)
                batch[key][at] = values
        return batch | self.table.rows(indices)

    def fingerprint(self) -> dict[str, Any]:
        """What must not change between a run and its continuation: windows, actions, rewards."""
        marks = {str(i): fingerprint(s.here, s.demos.reader) for i, s in enumerate(self.sources)}
        numbers = np.stack([self.table.reward, self.table.discount, self.table.mc_return])
        return {"datasets": marks, "rewards": hashlib.sha256(numbers.tobytes()).hexdigest()[:16]}


class BalancedOrder:
    """The same number of transitions of every dataset in every batch; stands in for ``SampleOrder``.

    A dataset smaller than its share repeats; one without transitions leaves its share to the others.
    """

    def __init__(self, sizes: Sequence[int], batch_size: int, seed: int) -> None:
        self.batch_size = batch_size
        offsets = np.cumsum([0, *sizes])
        filled = [i for i, size in enumerate(sizes) if size]
        if batch_size < len(filled):
            raise ConfigError(f"batch_size={batch_size} is less than the {len(filled)} datasets to balance; raise it")
        edges = [batch_size * j // max(1, len(filled)) for j in range(len(filled) + 1)]
        self._parts = [
            (int(offsets[i]), SampleOrder(sizes[i], edges[j + 1] - edges[j], seed + j)) for j, i in enumerate(filled)
        ]

    def indices(self, step: int) -> np.ndarray:
        """``(batch_size,)`` int64 transitions of step ``step``, dataset after dataset."""
        return np.concatenate([offset + order.indices(step) for offset, order in self._parts])

    def epoch(self, step: int) -> float:
        """Passes over the largest dataset before ``step``."""
        return min(order.epoch(step) for _, order in self._parts)


@dataclass(frozen=True)
class CriticData:
    """Opened datasets, checked against each other: what a critic is built from and learns from."""

    config: CriticDataConfig
    demos: tuple[Demonstrations, ...]
    labels: tuple[Labels, ...]
    source: Source
    observation_spec: ObservationSpec
    action_space: ActionSpace
    fps: float

    @staticmethod
    def open(config: CriticDataConfig) -> CriticData:
        """Open every dataset and split it by episode; ``ConfigError`` where they are not of one robot and rate."""
        demos = tuple(
            Demonstrations.open(
                DatasetConfig(
                    path=path,
                    val_ratio=config.val_ratio,
                    val_seed=config.val_seed,
                    image_size=config.image_size,
                    cache_dir=config.cache_dir,
                )
            )
            for path in config.paths
        )
        labels = tuple(Labels(d.reader, config.assume_all_success) for d in demos)
        spaces = [d.reader.action_space() for d in demos]
        for other, space in zip(demos[1:], spaces[1:], strict=True):
            _check_alike(demos[0], spaces[0], other, space)
        spec, source = _common(demos), choose_source(labels, config)
        return CriticData(config, demos, labels, source, spec, spaces[0], demos[0].reader.fps)

    @property
    def sentences(self) -> Iterable[str]:
        """Task sentences of all datasets."""
        return (text for d in self.demos for text in d.reader.tasks.values())

    @property
    def reward_kind(self) -> Any:
        """What the rewards look like."""
        return reward_kind(self.labels, self.source, self.config)

    def stats(self, spec: ObservationSpec) -> dict[str, FeatureStats]:
        """Statistics of the training episodes of all datasets together, for the vectors of ``spec`` and the action."""
        each = [d.stats(spec) for d in self.demos]  # also finds numbers that are not finite
        if len(each) == 1:
            return each[0]
        pooled = {}
        for key in each[0]:
            parts = [d.reader.columns[key][_rows(d, d.training)] for d in self.demos]
            pooled[key] = vector_stats(np.concatenate([p.reshape(len(p), -1) for p in parts]))
        return pooled

    def transitions(self, config: CriticConfig, spec: ObservationSpec, held_out: bool = False) -> Transitions | None:
        """Transitions of the training or the held-out episodes; ``None`` without any."""
        return self.chunks(spec, config.n_obs_steps, config.n_action_steps, config.gamma, held_out)

    def chunks(
        self, spec: ObservationSpec, n_obs_steps: int, k: int, gamma: float, held_out: bool = False
    ) -> Transitions | None:
        """Transitions of ``k`` actions from every frame of the training or the held-out episodes."""
        sources, tables = [], []
        for demos, labels in zip(self.demos, self.labels, strict=True):
            if not (episodes := demos.validation if held_out else demos.training):
                continue
            source = SourceTransitions(demos, episodes, spec, n_obs_steps, k)
            tables.append(transitions_of(labels, source.episodes, self.source, self.config, gamma, k))
            sources.append(source)
        return Transitions(sources, ChunkTransitions.joined(tables)) if sources else None

    def tell(self, table: ChunkTransitions) -> None:
        """One log line about what the training episodes were worth."""
        kinds = {"success": "success labels (-1 a step)", "recorded": "next.reward"}
        log.info(
            "rewards: %s; %d transitions, %.0f %% of successful episodes, returns %.4g..%.4g", kinds[self.source],
            len(table), 100 * table.success.mean(), table.mc_return.min(), table.mc_return.max(),
        )  # fmt: skip


def _rows(demos: Demonstrations, episodes: Sequence[int]) -> np.ndarray:
    return np.concatenate([np.arange(e.start, e.stop) for e in map(demos.reader.episode, sorted(episodes))])


def _check_alike(first: Demonstrations, ours: ActionSpace, other: Demonstrations, theirs: ActionSpace) -> None:
    pairs: list[tuple[str, Any, Any]] = [
        ("frames a second", first.reader.fps, other.reader.fps),
        ("action channels", ours.dim, theirs.dim),
        ("channel kinds", ours.channel_kinds, theirs.channel_kinds),
    ]
    pairs += [("action names", ours.names, theirs.names)] if ours.names and theirs.names else []
    pairs += [("action mode", ours.mode, theirs.mode)] if "unstated" not in (ours.mode, theirs.mode) else []
    for what, a, b in pairs:
        if a != b:
            raise ConfigError(f"data.paths: {what} differ: {a} in {first.config.path}, {b} in {other.config.path}")


def _common(demos: Sequence[Demonstrations]) -> ObservationSpec:
    """Features that every dataset has, as the first describes them."""
    first, common = demos[0].observation_spec, []
    for feature in first.features:
        others = [d for d in demos[1:] if feature.key in d.observation_spec]
        for d in others:
            if (shape := d.observation_spec[feature.key].shape) != feature.shape:
                hint = "; set --data.image_size" if feature.kind is FeatureKind.IMAGE else ""
                raise ConfigError(
                    f"data.paths: '{feature.key}' is {feature.shape} in {demos[0].config.path}, {shape} in "
                    f"{d.config.path}{hint}"
                )
        if len(others) == len(demos) - 1:
            common.append(feature)
    return ObservationSpec(tuple(common))


def make_order(transitions: Transitions, config: CriticDataConfig, batch_size: int, seed: int) -> Any:
    """The order of the training batches that ``config.mixing`` asks for."""
    if config.mixing == "balanced":
        return BalancedOrder(transitions.sizes, batch_size, seed)
    return SampleOrder(len(transitions), batch_size, seed)
