"""Which windows a dataset has, and which rows each of them reads: integers only.

Source: Diffusion Policy's sampler (Chi et al. 2023; common/sampler.py) for the window set, LeRobot's
``delta_timestamps`` for clamping and ``is_pad``.  Windows are named by their anchor, the row of the newest observation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from robopolicy.core.errors import ConfigError

ShortEpisodes = Literal["drop", "pad"]


def window_count(length: int, horizon: int, n_obs_steps: int, n_action_steps: int) -> int:
    """Windows of an episode of ``length`` frames: ``max(0, L - Tp + pad_before + pad_after + 1)``.

    ``pad_before = n_obs_steps - 1`` and ``pad_after = n_action_steps - 1``, both within ``[0, horizon - 1]``.
    """
    before = min(max(n_obs_steps - 1, 0), horizon - 1)
    after = min(max(n_action_steps - 1, 0), horizon - 1)
    return max(0, length - horizon + before + after + 1)


@dataclass(frozen=True)
class Anchors:
    """Anchor rows of windows with the first and last row of their episodes, each ``(M,)`` int64."""

    row: np.ndarray
    first: np.ndarray
    last: np.ndarray

    def __len__(self) -> int:
        return len(self.row)


def diffusion_anchors(
    starts: Sequence[int],
    lengths: Sequence[int],
    horizon: int,
    n_obs_steps: int,
    n_action_steps: int,
    short_episodes: ShortEpisodes = "drop",
) -> Anchors:
    """Anchors of Diffusion Policy's windows for episodes at rows ``starts`` of ``lengths`` frames.

    Window ``i`` of an episode begins at frame ``i - pad_before``, so its newest observation is frame
    ``i - pad_before + n_obs_steps - 1``.  An episode too short for any window is left out (``"drop"``, as the original
    does) or gives one window, padded as far as needed (``"pad"``).
    """
    if short_episodes not in ("drop", "pad"):
        raise ConfigError(f"short_episodes must be 'drop' or 'pad', got {short_episodes!r}")
    least = 1 if short_episodes == "pad" else 0
    counts = [max(least, window_count(n, horizon, n_obs_steps, n_action_steps)) for n in lengths]
    before = min(max(n_obs_steps - 1, 0), horizon - 1)
    return _anchors(starts, lengths, counts, n_obs_steps - 1 - before)


def all_anchors(starts: Sequence[int], lengths: Sequence[int]) -> Anchors:
    """Every frame an anchor, as lerobot's dataset indexes them."""
    return _anchors(starts, lengths, lengths, 0)


def _anchors(starts: Sequence[int], lengths: Sequence[int], counts: Sequence[int], offset: int) -> Anchors:
    start, length, count = (np.asarray(v, dtype=np.int64) for v in (starts, lengths, counts))
    first = np.repeat(start, count)
    within = np.arange(len(first)) - np.repeat(np.cumsum(count) - count, count)
    return Anchors(first + within + offset, first, np.repeat(start + length - 1, count))


def clamp_rows(anchors: Anchors, indices: np.ndarray, deltas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows ``(B, K)`` that windows ``indices`` ``(B,)`` read at ``deltas`` ``(K,)`` frames, and where they are padding.

    A row outside the anchor's episode becomes the episode's first or last one, and ``is_pad`` ``(B, K)`` is True there.
    """
    wanted = anchors.row[indices, None] + deltas
    rows = np.clip(wanted, anchors.first[indices, None], anchors.last[indices, None])
    return rows, rows != wanted


def validation_episodes(n_episodes: int, ratio: float, seed: int) -> tuple[int, ...]:
    """Positions of the episodes held out, ascending: ``min(max(1, round(N * ratio)), N - 1)`` drawn without repeats.

    ``ratio <= 0`` holds out none, nor does a single episode.  Positions count through the episode list, not by id.
    """
    if ratio >= 1:
        raise ConfigError(f"the validation ratio must be below 1, got {ratio}")
    if ratio <= 0 or n_episodes < 2:
        return ()
    count = min(max(1, round(n_episodes * ratio)), n_episodes - 1)
    chosen = np.random.default_rng(seed).choice(n_episodes, size=count, replace=False)
    return tuple(sorted(int(i) for i in chosen))
