"""Per-episode statistics for the episode table, and their exact aggregation (format notes, section 6).

Vectors give lists of D numbers; images (C, 1, 1) in 0..1 from a 256-bin histogram a channel, so that nothing can
overflow and quantiles are exact over the frames seen.  Quantiles are never aggregated: averages of quantiles are
not quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robopolicy.datasets.statistics import level_counts

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
MAX_SIDE = 150  # larger images are strided down to about this before counting, as LeRobot does

Stats = dict[str, np.ndarray]


def describe(values: np.ndarray) -> Stats:
    """Statistics over axis 0 of ``values`` (N,) or (N, ...); deeper arrays keep only their channel axis (N, C, ...)."""
    array = np.asarray(values, np.float64)
    count = np.array([len(array)], np.int64)
    if array.ndim == 1:
        array = array[:, None]
    axes = (0, *range(2, array.ndim))
    keep = array.ndim > 2
    shape = (array.shape[1], *(1,) * (array.ndim - 2))
    stats = {
        "min": array.min(axes, keepdims=keep),
        "max": array.max(axes, keepdims=keep),
        "mean": array.mean(axes, keepdims=keep),
        "std": array.std(axes, keepdims=keep),
        **{name: np.quantile(array, q, axes, keepdims=keep) for name, q in QUANTILES.items()},
    }
    return {**{k: v.reshape(shape) for k, v in stats.items()}, "count": count}


class PixelHistogram:
    """Running histogram of uint8 images, three channels; exact mean, std and quantiles whatever the count."""

    def __init__(self) -> None:
        self.bins = np.zeros((3, 256), np.int64)
        self.frames = 0

    def add(self, image: np.ndarray) -> None:
        """Count one image (3, H, W) uint8."""
        stride = max(1, min(image.shape[1:]) // MAX_SIDE)
        self.bins += level_counts(image[None, :, ::stride, ::stride])
        self.frames += 1

    def merge(self, other: PixelHistogram) -> None:
        """Add another histogram's counts."""
        self.bins += other.bins
        self.frames += other.frames

    def stats(self) -> Stats:
        """Statistics as (3, 1, 1) arrays in 0..1; ``count`` is the number of frames."""
        levels = np.arange(256) / 255.0
        total = self.bins.sum(1)
        mean = (self.bins * levels).sum(1) / total
        std = np.sqrt((self.bins * (levels - mean[:, None]) ** 2).sum(1) / total)
        cumulative = self.bins.cumsum(1)
        values = {"mean": mean, "std": std, "min": _quantile(cumulative, 0.0), "max": _quantile(cumulative, 1.0)}
        values |= {name: _quantile(cumulative, q) for name, q in QUANTILES.items()}
        shaped = {k: v.reshape(3, 1, 1) for k, v in values.items()}
        return {**shaped, "count": np.array([self.frames], np.int64)}


def _quantile(cumulative: np.ndarray, q: float) -> np.ndarray:
    """Smallest level whose cumulative share reaches ``q``, per channel, in 0..1."""
    rank = np.maximum(1, np.ceil(q * cumulative[:, -1:])).astype(np.int64)
    return (cumulative >= rank).argmax(1) / 255.0


def aggregate(parts: Sequence[Mapping[str, Any]]) -> Stats:
    """Pool min, max, mean, std and count of several episodes (count-weighted mean, pooled variance), float64."""
    counts = np.array([np.asarray(p["count"]).ravel()[0] for p in parts], np.float64)
    means = np.stack([np.asarray(p["mean"], np.float64) for p in parts])
    variances = np.stack([np.asarray(p["std"], np.float64) for p in parts]) ** 2
    weights = (counts / counts.sum()).reshape(-1, *(1,) * (means.ndim - 1))
    mean = (weights * means).sum(0)
    variance = (weights * (variances + (means - mean) ** 2)).sum(0)
    return {
        "min": np.stack([np.asarray(p["min"], np.float64) for p in parts]).min(0),
        "max": np.stack([np.asarray(p["max"], np.float64) for p in parts]).max(0),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": np.array([int(counts.sum())], np.int64),
    }


def to_json(stats: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, Any]]:
    """Nested lists, ready for ``stats.json``."""
    return {key: {name: np.asarray(v).tolist() for name, v in s.items()} for key, s in stats.items()}
