"""Checks on the stored statistics against the data: there, of the right size, finite, and true.

Known upstream faults are named: image standard deviations of LeRobot 0.4 and 0.5 (squares of uint8 overflow) and
quantiles averaged over episodes, which are not quantiles of the dataset (format notes, section 6).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from robopolicy.core.errors import RobopolicyError
from robopolicy.datasets.doctor_types import Survey, TableEntry, some
from robopolicy.datasets.episode_stats import QUANTILES, PixelHistogram, describe
from robopolicy.datasets.reader import Reader
from robopolicy.datasets.reader_types import Feature

REPAIR = "robopolicy data doctor --repair"
BASIC = ("min", "max", "mean", "std")
SAMPLED_FRAMES = 48
SHARE = 0.01  # of a channel's range: farther from the truth than this is reported


def check_stats(found: Survey) -> None:
    """Run all checks on statistics."""
    per_episode = found.info.version == "v2.1"
    trained = [f for f in found.info.features.values() if _is_trained(f)]
    _check_constants(found, trained)
    if per_episode:
        for entry in found.entry_by_id().values():
            _check_set(found, trained, entry.stats, "meta/episodes_stats.jsonl", entry)
        return
    _check_set(found, trained, found.stats, "meta/stats.json", None)
    _check_images(found)
    if found.info.major == 3:
        for entry in found.entry_by_id().values():
            if entry.stats is not None:
                _check_set(found, trained, entry.stats, "meta/episodes", entry)


def _is_trained(feature: Feature) -> bool:
    return feature.is_camera or feature.key.startswith(("observation", "action", "goal"))


def _check_constants(found: Survey, features: list[Feature]) -> None:
    for feature in features:
        values = found.rows.columns.get(feature.key)
        if values is None or len(values) < 2 or values.dtype.kind != "f":
            continue
        flat = values.reshape(len(values), -1)
        if constant := np.flatnonzero(np.ptp(flat, axis=0) == 0).tolist():
            text = f"{feature.key}: channels {some(constant)} never change"
            found.add("constant-channel", "note", text, "nothing to mend: the normaliser pins such channels")


def _check_set(
    found: Survey, features: list[Feature], stats: Mapping[str, Any] | None, file: str, entry: TableEntry | None
) -> None:
    """One set of statistics: of an episode, or of everything when ``entry`` is None."""
    episode = None if entry is None else entry.index
    if not stats:
        found.add("stats-missing", "warning", "no statistics stored; LeRobot needs them", REPAIR, episode, file)
        return
    if missing := [f.key for f in features if f.key not in stats]:
        found.add("stats-missing", "warning", f"no statistics of {some(missing)}", REPAIR, episode, file)
    columns = found.rows.columns
    rows = np.arange(len(found.rows)) if entry is None else found.rows.of_episode(entry.index)
    for feature in features:
        own = stats.get(feature.key)
        if own is None or not _check_sizes(found, feature, own, episode, file) or feature.is_camera:
            continue
        values = columns.get(feature.key)
        if values is not None and len(rows) and np.isfinite(values[rows]).all():
            _check_values(found, feature, own, values[rows].reshape(len(rows), -1), episode, file)


def _check_sizes(found: Survey, f: Feature, own: Mapping[str, Any], episode: int | None, file: str) -> bool:
    channels = 3 if f.is_camera else f.shape[0] if f.shape else 1
    for name in BASIC:
        values = _flat(own.get(name))
        if values is None or len(values) != channels:
            size = "none" if values is None else f"{len(values)} numbers"
            text = f"{f.key}: '{name}' has {size}, expected {channels}"
            found.add("stats-size", "error", text, REPAIR, episode, file)
            return False
        if not np.isfinite(values).all():
            found.add("stats-nonfinite", "error", f"{f.key}: '{name}' is {values.tolist()}", REPAIR, episode, file)
            return False
    return True


def _flat(values: Any) -> np.ndarray | None:
    try:
        return None if values is None else np.asarray(values, np.float64).ravel()
    except (TypeError, ValueError):
        return None


def _check_values(
    found: Survey, f: Feature, own: Mapping[str, Any], values: np.ndarray, episode: int | None, file: str
) -> None:
    if len(f.shape) > 1:
        return
    true = describe(values)
    # LeRobot's episodes come from float32 sums of squares, whose cancellation grows with the mean: allow for it.
    rounding = 1e-5 if episode is None else 1e-3
    scale = SHARE * (true["max"] - true["min"]) + rounding * np.abs(values).max(0) + 1e-9
    zero = (np.asarray(own["std"], np.float64).ravel() == 0) & (true["std"] > scale)
    if zero.any():
        text = f"{f.key}: std 0 in channels {some(np.flatnonzero(zero).tolist())}, which do change"
        found.add("stats-zero-std", "error", text, REPAIR, episode, file)
        return
    for name, stored, truth, channel in _wrong(own, true, scale, BASIC):
        text = f"{f.key}: '{name}' of channel {channel} is stored as {stored:.6g}, the data say {truth:.6g}"
        found.add("stats-wrong", "warning", text, REPAIR, episode, file)
        return
    # Quantiles of so few frames as an episode has depend on the definition used; only the global ones can be judged.
    for name, stored, truth, channel in _wrong(own, true, scale, tuple(QUANTILES) if episode is None else ()):
        text = (
            f"{f.key}: '{name}' of channel {channel} is stored as {stored:.6g}, the data say {truth:.6g}; LeRobot "
            "averages the quantiles of episodes, which are not those of the dataset"
        )
        found.add("stats-quantiles", "warning", text, REPAIR, episode, file)
        return


def _wrong(
    own: Mapping[str, Any], true: Mapping[str, np.ndarray], scale: np.ndarray, names: tuple[str, ...]
) -> Iterator[tuple[str, float, float, int]]:
    """(name, stored, true, channel) of the worst channel of each statistic that is off by more than ``scale``."""
    for name in names:
        stored = _flat(own.get(name))
        if stored is None or stored.shape != true[name].shape:
            continue
        off = np.abs(stored - true[name]) / scale
        if (worst := int(off.argmax())) >= 0 and off[worst] > 1:
            yield name, float(stored[worst]), float(true[name][worst]), worst


def _check_images(found: Survey) -> None:
    """Stored image statistics against a few decoded frames; only gross faults can be told from a sample."""
    for feature in found.info.cameras:
        own = (found.stats or {}).get(feature.key, {})
        stored = _flat(own.get("std"))
        if stored is None or len(stored) != 3 or (sample := sample_pixels(found, feature.key)) is None:
            continue
        true = sample.stats()["std"].ravel()
        ratio = true / np.maximum(stored, 1e-9)
        if true.max() > 0.01 and (ratio.max() > 3 or ratio.min() < 1 / 3):
            text = (
                f"{feature.key}: std is stored as {np.round(stored, 5).tolist()}, decoded frames say "
                f"{np.round(true, 3).tolist()}; the recorder of LeRobot 0.4 and 0.5 overflows here"
            )
            found.add("stats-image-std", "warning", text, REPAIR, None, "meta/stats.json")


def sample_pixels(found: Survey, camera: str, frames: int = SAMPLED_FRAMES) -> PixelHistogram | None:
    """Histogram of up to ``frames`` frames spread over the readable episodes; None when none can be decoded."""
    histogram = PixelHistogram()
    try:
        reader = Reader(found.root, on_defect="skip")
        for row in np.unique(np.linspace(0, reader.num_frames - 1, min(frames, reader.num_frames)).astype(int)):
            histogram.add(reader.frames(camera, np.array([row]))[0])
    except RobopolicyError:
        return histogram if histogram.frames else None
    return histogram if histogram.frames else None
