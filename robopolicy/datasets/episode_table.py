"""The per-episode table of a v3.0 dataset: places, frame ranges, tasks, statistics and free metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from robopolicy.core.errors import DatasetError
from robopolicy.datasets.layout_v3 import EPISODES_PATH
from robopolicy.datasets.rolling_parquet import RollingParquet

LIMIT = 1 << 20
FIXED = ("episode_index", "length", "tasks", "dataset_from_index", "dataset_to_index")
PREFIXES = ("data/", "videos/", "meta/", "stats/")


class EpisodeTable:
    """Appends one row an episode; the schema is fixed by the first row."""

    def __init__(self, root: Path) -> None:
        self._files = RollingParquet(root, EPISODES_PATH, LIMIT, one_group=True)
        self._stats: dict[str, list[dict[str, Any]]] = {}
        self._meta_keys: set[str] | None = None
        for group in self._files.read():
            self._remember(group)

    def _remember(self, table: pa.Table) -> None:
        for row in table.to_pylist():
            stats: dict[str, dict[str, Any]] = {}
            for name, value in row.items():
                if name.startswith("stats/"):
                    _, key, what = name.split("/")
                    stats.setdefault(key, {})[what] = value
            for key, values in stats.items():
                self._stats.setdefault(key, []).append(values)
            self._meta_keys = {n for n in row if n not in FIXED and not n.startswith(PREFIXES)}

    def stats(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Per feature, the statistics of every episode in order."""
        return self._stats

    def check_meta(self, meta: Mapping[str, Any]) -> None:
        """Refuse metadata that cannot be a column: reserved names, non-scalars, or other keys than before."""
        for name, value in meta.items():
            if name in FIXED or name.startswith(PREFIXES):
                raise DatasetError(f"episode metadata '{name}' is a reserved column; rename it")
            if not isinstance(value, (bool, int, float, str, np.generic)):
                raise DatasetError(f"episode metadata '{name}' must be a number, bool or string, got {type(value)}")
        if self._meta_keys is not None and set(meta) != self._meta_keys:
            raise DatasetError(
                f"episode metadata must have the same keys throughout: expected {sorted(self._meta_keys)}, "
                f"got {sorted(meta)}"
            )

    def append(
        self,
        episode: int,
        rows: tuple[int, int],
        tasks: Sequence[str],
        place: tuple[int, int],
        videos: Mapping[str, tuple[int, int, float]],
        stats: Mapping[str, Mapping[str, np.ndarray]],
        meta: Mapping[str, Any],
    ) -> None:
        """Add a row: global frame range, data file, per camera (chunk, file, seconds; the mp4 is the episode's own)."""
        chunk, file = self._files.place_of_next()
        row: dict[str, Any] = {
            "episode_index": episode,
            "tasks": list(tasks),
            "length": rows[1] - rows[0],
            "data/chunk_index": place[0],
            "data/file_index": place[1],
            "dataset_from_index": rows[0],
            "dataset_to_index": rows[1],
        }
        for key, (video_chunk, video_file, seconds) in videos.items():
            row[f"videos/{key}/chunk_index"] = video_chunk
            row[f"videos/{key}/file_index"] = video_file
            row[f"videos/{key}/from_timestamp"] = 0.0
            row[f"videos/{key}/to_timestamp"] = float(seconds)
        row |= {name: value.item() if isinstance(value, np.generic) else value for name, value in meta.items()}
        for key, values in stats.items():
            row |= {f"stats/{key}/{name}": np.asarray(v).tolist() for name, v in values.items()}
        row |= {"meta/episodes/chunk_index": chunk, "meta/episodes/file_index": file}
        table = pa.Table.from_pylist([row])
        self._files.append(table)
        self._remember(table)

    def drop_from(self, episode: int) -> None:
        """Remove the rows of ``episode`` and later ones."""
        self._files.drop_from("episode_index", episode)
        self._stats, self._meta_keys = {}, None
        for group in self._files.read():
            self._remember(group)
