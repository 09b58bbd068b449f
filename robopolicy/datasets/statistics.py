"""Statistics of a dataset, recomputed from its data in one pass.

Source: LeRobot's ``stats.json`` for what is computed.  Differs: q01 and q99 are quantiles of all rows (upstream
averages the episodes' quantiles), image moments are exact over sampled frames (upstream's squares of uint8 overflow),
and channels without range are marked, so that a normaliser can pin them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from robopolicy.core.errors import ConfigError, DatasetError, did_you_mean
from robopolicy.core.specs import FeatureStats
from robopolicy.datasets.reader import Reader
from robopolicy.datasets.reader_types import Episode

# Diffusion Policy's range_eps: a channel that moves less than this over the whole dataset counts as constant.
RANGE_FLOOR = 1e-4
IMAGE_FRAMES = 200
BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")
# Frames looked at together, so that large images do not fill the memory.
IMAGE_BATCH = 16


def compute_stats(
    reader: Reader,
    keys: Collection[str] | None = None,
    range_floor: float = RANGE_FLOOR,
    episodes: Sequence[int] | None = None,
    image_frames: int = IMAGE_FRAMES,
    frames: Mapping[str, np.ndarray] | None = None,
) -> dict[str, FeatureStats]:
    """Statistics in physical units of ``keys`` (default: all numbers and cameras except bookkeeping columns).

    Args:
        range_floor: ``max - min`` below which a channel is marked constant (same unit as the channel).
        episodes: ids to use, all of the reader's when None.
        image_frames: frames sampled evenly for each camera; their statistics are per colour channel in 0..1.
        frames: decoded frames ``(N, 3, H, W)`` uint8 by camera (a ``FrameCache``'s), used instead of decoding.

    Raises ``DatasetError`` naming episode and frame at the first NaN or infinity, ``ConfigError`` for unknown keys.
    """
    if range_floor < 0 or image_frames < 1:
        raise ConfigError(f"range_floor must be >= 0 and image_frames >= 1, got {range_floor} and {image_frames}")
    chosen = reader.episodes if episodes is None else tuple(reader.episode(i) for i in sorted(set(episodes)))
    rows = np.concatenate([np.arange(e.start, e.stop) for e in chosen])
    stats: dict[str, FeatureStats] = {}
    for key in _default_keys(reader) if keys is None else keys:
        if key in reader.camera_keys:
            picked = rows[np.unique(np.linspace(0, len(rows) - 1, min(image_frames, len(rows))).round().astype(int))]
            stats[key] = _camera_stats(reader, key, picked, (frames or {}).get(key), range_floor)
        elif key in reader.columns:
            values = reader.columns[key]
            stats[key] = _column_stats(key, values if len(rows) == len(values) else values[rows], chosen, range_floor)
        else:
            raise ConfigError(f"no feature '{key}' in {reader.root}" + did_you_mean(key, reader.keys))
    return stats


def _default_keys(reader: Reader) -> list[str]:
    numeric = [
        k
        for k, f in reader.features.items()
        if f.is_camera or (f.storage == "column" and f.dtype != "bool" and k not in BOOKKEEPING)
    ]
    return numeric


def _column_stats(key: str, values: np.ndarray, episodes: Sequence[Episode], range_floor: float) -> FeatureStats:
    if values.ndim == 4:  # maps (N, C, H, W) such as depth: one value a channel
        flat = np.moveaxis(values, 1, -1).reshape(-1, values.shape[1])
    else:
        flat = values.reshape(len(values), -1)
    if flat.dtype == object:
        raise ConfigError(f"'{key}' is text; it has no statistics")
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        row = int(np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))[0])
        for episode in episodes:
            if row < episode.length:
                raise DatasetError(
                    f"'{key}' is not finite in episode {episode.index}, frame {row}; mend or leave it out"
                )
            row -= episode.length
    return vector_stats(flat, range_floor)


def vector_stats(values: np.ndarray, range_floor: float = RANGE_FLOOR) -> FeatureStats:
    """Statistics of finite ``values`` ``(N, D)`` per column (population std; quantiles by linear interpolation)."""
    wide = values.astype(np.float64)
    low, high = wide.min(axis=0), wide.max(axis=0)
    q01, q99 = np.quantile(wide, [0.01, 0.99], axis=0)
    return FeatureStats(
        min=_tuple(low),
        max=_tuple(high),
        mean=_tuple(wide.mean(axis=0)),
        std=_tuple(wide.std(axis=0)),
        count=len(wide),
        q01=_tuple(q01),
        q99=_tuple(q99),
        constant=tuple(bool(c) for c in high - low < range_floor),
    )


def _camera_stats(
    reader: Reader, key: str, rows: np.ndarray, decoded: np.ndarray | None, range_floor: float
) -> FeatureStats:
    counts = np.zeros((3, 256), np.int64)
    for start in range(0, len(rows), IMAGE_BATCH):
        batch = rows[start : start + IMAGE_BATCH]
        counts += level_counts(decoded[batch] if decoded is not None else reader.frames(key, batch))
    return image_stats(counts, len(rows), range_floor)


def level_counts(images: np.ndarray) -> np.ndarray:
    """How often each level occurs in each channel, ``(C, 256)``, of ``images`` ``(n, C, H, W)`` uint8."""
    channels = np.moveaxis(images, 1, 0).reshape(images.shape[1], -1)
    return np.stack([np.bincount(channel, minlength=256) for channel in channels])


def image_stats(counts: np.ndarray, n_frames: int, range_floor: float = RANGE_FLOOR) -> FeatureStats:
    """Statistics per colour channel in 0..1 from ``level_counts`` of ``n_frames`` frames.

    A quantile is the least level that reaches it.
    """
    levels = np.arange(256) / 255.0
    columns: dict[str, list[float]] = {name: [] for name in ("min", "max", "mean", "std", "q01", "q99")}
    for channel in counts:
        share = channel / channel.sum()
        total = np.cumsum(share)
        present = levels[channel > 0]
        mean = float(share @ levels)
        columns["min"].append(float(present[0]))
        columns["max"].append(float(present[-1]))
        columns["mean"].append(mean)
        columns["std"].append(math.sqrt(float(share @ (levels - mean) ** 2)))
        columns["q01"].append(float(levels[np.searchsorted(total, 0.01)]))
        columns["q99"].append(float(levels[np.searchsorted(total, 0.99)]))
    named = {name: tuple(v) for name, v in columns.items()}
    constant = tuple(b - a < range_floor for a, b in zip(named["min"], named["max"], strict=True))
    return FeatureStats(**named, count=n_frames, constant=constant)


def _tuple(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
