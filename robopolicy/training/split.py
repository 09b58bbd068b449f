"""Validation split by episode (Diffusion Policy's rule; spec section 2.4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from robopolicy.core.errors import ConfigError
from robopolicy.datasets.windows_index import validation_episodes
from robopolicy.training.config import DatasetConfig


def validation_positions(count: int, ratio: float, seed: int) -> set[int]:
    """Positions ``0..count-1`` of the validation episodes.

    At least one when ``ratio`` > 0, never all.  Oracle: 206 episodes, ratio 0.02, seed 42 -> {18, 90, 134, 157}.
    """
    return set(validation_episodes(count, ratio, seed))


def split_episodes(available: Sequence[int], config: DatasetConfig) -> tuple[list[int], list[int]]:
    """``(training, validation)`` episode ids out of those the dataset has."""
    chosen = sorted(available)
    if config.episodes is not None:
        if missing := sorted(set(config.episodes) - set(chosen)):
            raise ConfigError(f"dataset.episodes: {config.path} has no episodes {missing[:8]}")
        chosen = sorted(config.episodes)
    held_out = validation_positions(len(chosen), config.val_ratio, config.val_seed)
    training = [e for i, e in enumerate(chosen) if i not in held_out]
    if config.max_train_episodes is not None and config.max_train_episodes < len(training):
        rng = np.random.default_rng(config.val_seed)
        keep = rng.choice(len(training), config.max_train_episodes, replace=False)
        training = [training[i] for i in sorted(keep)]
    return training, [chosen[i] for i in sorted(held_out)]
