"""Compares a dataset's stored statistics with recomputed ones and names the known faults of LeRobot's recorder.

Source: faults measured on output of the LeRobot 0.4 recorder (overflowing squares of pixels, averaged quantiles).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from robopolicy.core.specs import FeatureStats
from robopolicy.datasets.reader import Reader
from robopolicy.datasets.reader_info import load_json
from robopolicy.datasets.reader_types import Defect

FILE = "meta/stats.json"
IMAGE_STD_OVERFLOW = "image-std-overflow"
AVERAGED_QUANTILES = "averaged-quantiles"
STATS_DIFFER = "stats-differ"
STATS_SIZE = "stats-size"


def check_stored_stats(reader: Reader, stats: Mapping[str, FeatureStats]) -> list[Defect]:
    """How ``meta/stats.json`` disagrees with recomputed ``stats``, naming the two known faults of LeRobot's recorder.

    ``image-std-overflow``: image std far too small (squares of uint8 overflowed).  ``averaged-quantiles``: q01 or q99
    off by more than 2 % of the range (averaged over episodes).  ``stats-differ``: anything else.  No file, no defects.
    """
    path = reader.root / "meta" / "stats.json"
    if not path.is_file():
        return []
    stored = load_json(path)
    defects = []
    for key, true in stats.items():
        entry = stored.get(reader.features[key].source) if isinstance(stored, dict) else None
        if isinstance(entry, dict):
            defects += _compare(key, entry, true, key in reader.camera_keys)
    return defects


def _compare(key: str, entry: Mapping[str, object], true: FeatureStats, image: bool) -> list[Defect]:
    found: list[Defect] = []
    spread = np.maximum(np.subtract(true.max, true.min), 1e-9)
    # Two samples of frames need not share their extremes, so those of images are not compared.
    for field in ("mean", "std", "q01", "q99") if image else ("min", "max", "mean", "std", "q01", "q99"):
        expected = getattr(true, field)
        if field not in entry or expected is None:
            continue
        values = np.asarray(entry[field], dtype=np.float64).reshape(-1)
        if values.shape != np.shape(expected):
            text = f"{field} of '{key}' has {len(values)} values, the data have {len(expected)}"
            found.append(Defect(STATS_SIZE, text, None, FILE))
        elif code := _disagreement(field, values, np.asarray(expected), spread, image):
            text = f"{field} of '{key}' is stored as {_short(values)}, the data give {_short(expected)}"
            found.append(Defect(code, text, None, FILE))
    return found


def _disagreement(field: str, stored: np.ndarray, true: np.ndarray, spread: np.ndarray, image: bool) -> str:
    far = np.abs(stored - true) / spread
    if field in ("q01", "q99"):
        return AVERAGED_QUANTILES if np.any(far > (0.05 if image else 0.02)) else ""
    if image and field == "std" and np.any(stored < 0.25 * true):
        return IMAGE_STD_OVERFLOW
    return STATS_DIFFER if np.any(far > (0.1 if image else 1e-3)) else ""


def _short(values: Sequence[float] | np.ndarray) -> str:
    shown = ", ".join(f"{v:.4g}" for v in list(values)[:4])
    return shown + (", ..." if len(values) > 4 else "")
