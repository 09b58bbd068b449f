"""The tables of an opened dataset: which episodes are readable, their rows, and the columns, loaded when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from robopolicy.core.errors import DatasetError, did_you_mean
from robopolicy.datasets import reader_columns, reader_episodes
from robopolicy.datasets.reader_columns import DataFile
from robopolicy.datasets.reader_episodes import Runs
from robopolicy.datasets.reader_info import Info
from robopolicy.datasets.reader_types import Defect, Episode, Feature, Layout

# Features of more values a row than this are read when they are first asked for, each on its own.
LARGE_ROW = 512


class Columns(Mapping[str, np.ndarray]):
    """Read-only table of contiguous columns, read from disk at the first request."""

    def __init__(self, files: Sequence[DataFile], features: Mapping[str, Feature], rows: np.ndarray) -> None:
        self._files = files
        self._features = features
        self._rows = rows
        self._loaded: dict[str, np.ndarray] = {}

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self._loaded:
            feature = self._features.get(key)
            if feature is None:
                raise KeyError(f"the dataset has no column '{key}'" + did_you_mean(key, self._features))
            self._load([feature] if _is_large(feature) else [f for f in self._features.values() if not _is_large(f)])
        return self._loaded[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._features)

    def __len__(self) -> int:
        return len(self._features)

    def __contains__(self, key: object) -> bool:
        return key in self._features

    def _load(self, features: list[Feature]) -> None:
        for key, values in reader_columns.load_columns(self._files, features, self._rows).items():
            values.flags.writeable = False
            self._loaded[key] = values


def _is_large(feature: Feature) -> bool:
    return int(np.prod(feature.shape)) > LARGE_ROW


@dataclass
class Tables:
    """Readable episodes and their rows; ``physical`` ``(N,)`` numbers each row through all data files."""

    files: list[DataFile]
    features: dict[str, Feature]
    episodes: tuple[Episode, ...]
    physical: np.ndarray
    columns: Columns

    def __post_init__(self) -> None:
        self.starts = np.array([e.start for e in self.episodes], dtype=np.int64)
        self.frame_index = self.numbers("frame_index")

    def numbers(self, key: str) -> np.ndarray:
        """Column ``frame_index``, ``episode_index`` or ``index`` ``(N,)``, worked out when the files lack it."""
        if key in self.columns:
            return self.columns[key]
        if key == "frame_index":
            return np.concatenate([np.arange(e.length) for e in self.episodes])
        if key == "episode_index":
            return np.repeat([e.index for e in self.episodes], [e.length for e in self.episodes])
        return self.physical.copy()


def open_tables(root: Path, info: Info, layout: Layout, on_defect: str, defects: list[Defect]) -> Tables:
    """Open the data files of ``layout`` and keep the episodes that can be read; what is wrong goes to ``defects``.

    Raises ``DatasetError`` for an unreadable episode unless ``on_defect`` is "skip", and when none is readable.
    """
    files, runs = _find_rows(info, layout)
    features = _settle_features(info, files, defects)
    cameras = [k for k, f in features.items() if f.storage == "video"]
    bad = {e.index: found for e in layout.episodes if (found := reader_episodes.check_entry(e, runs, cameras))}

    def choose() -> Tables:
        if bad and on_defect == "raise":
            reader_episodes.refuse(bad, root)
        episodes, physical = reader_episodes.select(layout.episodes, runs, bad)
        if not episodes:
            raise DatasetError(f"{root}: no readable episodes; first reason: {next(iter(bad.values()))[0]}")
        tabular = {k: f for k, f in features.items() if not f.is_camera}
        return Tables(files, features, episodes, physical, Columns(files, tabular, physical))

    tables = choose()
    if wrong := reader_episodes.check_frame_order(tables.episodes, tables.frame_index):
        bad |= wrong
        tables = choose()
    defects += [d for index in sorted(bad) for d in bad[index]]
    return tables


def _find_rows(info: Info, layout: Layout) -> tuple[list[DataFile], Runs]:
    if info.major == 3:
        files = reader_columns.scan(layout.data_files)
        return files, reader_episodes.find_runs(files, None, [(e.index, e.length) for e in layout.episodes])
    # v2 has one file an episode, so a missing file costs its episode and not the dataset.
    pairs = [(p, e.index) for p, e in zip(layout.data_files, layout.episodes, strict=True) if p.is_file()]
    files = reader_columns.scan([p for p, _ in pairs])
    return files, reader_episodes.find_runs(files, [i for _, i in pairs], [])


def _settle_features(info: Info, files: Sequence[DataFile], defects: list[Defect]) -> dict[str, Feature]:
    """Features that are really there: a camera of dtype uint8 may be in the tables or in videos."""
    present = set.intersection(*(set(f.columns) for f in files)) if files else set()
    features: dict[str, Feature] = {}
    for key, feature in info.features.items():
        if feature.storage == "video" and feature.source in present:
            features[key] = replace(feature, storage="image")
        elif feature.storage == "video" or feature.source in present:
            features[key] = feature
        else:
            defects.append(Defect("column-missing", f"feature '{key}' is in info.json but not in the data files"))
    extra = sorted(present - {f.source for f in info.features.values()})
    if extra:
        defects.append(Defect("column-undeclared", f"data columns not in info.json: {', '.join(extra)}"))
    return features
