"""From a dataset on disk to training windows, validation windows, specs and statistics."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from robopolicy.core.needs import WindowNeeds
from robopolicy.core.specs import ACTION, ActionSpec, FeatureKind, FeatureStats, ObservationSpec
from robopolicy.datasets.chains import ChainedWindows
from robopolicy.datasets.goals import recorded_key
from robopolicy.datasets.reader import Reader
from robopolicy.datasets.statistics import compute_stats
from robopolicy.datasets.windows import Windows
from robopolicy.training.config import DatasetConfig
from robopolicy.training.split import split_episodes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Demonstrations:
    """Opened data: one reader, its training and validation episodes, and what a policy is built from."""

    config: DatasetConfig
    reader: Reader
    training: list[int]
    validation: list[int]
    observation_spec: ObservationSpec

    @staticmethod
    def open(config: DatasetConfig) -> Demonstrations:
        """Open the dataset and split it by episode."""
        reader = Reader(config.path)
        training, validation = split_episodes([e.index for e in reader.episodes], config)
        if len(training) + len(validation) < len(reader.episodes):
            reader = Reader(config.path, training + validation)
        spec = resized(reader.observation_spec(), config.image_size)
        log.info("data: %s, %d training and %d validation episodes", config.path, len(training), len(validation))
        return Demonstrations(config, reader, training, validation, spec)

    def stats(self, spec: ObservationSpec) -> dict[str, FeatureStats]:
        """Statistics of the training episodes for the vectors of ``spec`` and the action (images need none).

        A goal has those of the key it mirrors, under that key.
        Raises ``DatasetError`` naming episode and frame of a number that is not finite, in validation episodes too.
        """
        recorded = [recorded_key(f) for f in spec.features if f.kind in (FeatureKind.STATE, FeatureKind.GOAL)]
        keys = (*dict.fromkeys(k for k in recorded if k not in self.reader.camera_keys), ACTION)
        if self.validation:
            compute_stats(self.reader, keys, episodes=self.validation)  # for its check: fail now, not in mid-run
        return compute_stats(self.reader, keys, episodes=self.training)

    def windows(
        self, spec: ObservationSpec, action: ActionSpec, episodes: list[int], needs: WindowNeeds | None = None
    ) -> Windows | ChainedWindows:
        """Windows, or chains of them, over ``episodes`` that carry exactly what a policy with these specs reads."""
        needs = needs or WindowNeeds()
        windows = Windows(
            self.reader,
            spec,
            action.n_obs_steps,
            action.horizon,
            action.n_action_steps,
            episodes,
            cache_dir=self.config.cache_dir,
            short_episodes=self.config.short_episodes,
            needs=needs,
            keyposes=self.config.keyposes,
        )
        if not needs.chained:
            return windows
        chained = ChainedWindows(windows, needs)
        log.info(
            "%d windows in %d chains, %.0f %% of their %d slots padding; the longest has %d",
            len(windows), len(chained), 100 * chained.padding, chained.slots, chained.chains.length.max(),
        )  # fmt: skip
        return chained


def resized(spec: ObservationSpec, size: tuple[int, int] | None) -> ObservationSpec:
    """The spec with every camera at ``size`` (height, width)."""
    if size is None:
        return spec
    return ObservationSpec(
        tuple(dataclasses.replace(f, shape=(3, *size)) if f.kind is FeatureKind.IMAGE else f for f in spec.features)
    )


def fingerprint(windows: Windows | ChainedWindows, reader: Reader) -> dict[str, Any]:
    """What must not change between a run and its continuation: windows, frames and the actions themselves."""
    actions = hashlib.sha256(np.ascontiguousarray(reader.columns[ACTION]).tobytes()).hexdigest()[:16]
    return {**windows.layout, "frames": reader.num_frames, "actions": actions}
