"""Opens a LeRobot dataset (v2.0, v2.1, v3.0) and gives contiguous columns and decoded frames, without changing a file.

Source: the LeRobot dataset format.  Differs from ``lerobot.LeRobotDataset``: needs neither lerobot nor torch, reads all
three versions as they are, identifies frames by integer number, never goes to the network for a local path, and has one
meaning of a row: its position in ``columns``, also when only some episodes were asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from robopolicy.core.errors import ConfigError, DatasetError, did_you_mean
from robopolicy.core.specs import ActionSpace, ObservationSpec
from robopolicy.datasets import reader_columns, reader_episodes, reader_specs, reader_v2, reader_v3
from robopolicy.datasets.reader_columns import DataFile
from robopolicy.datasets.reader_hub import resolve_root
from robopolicy.datasets.reader_images import TableImages
from robopolicy.datasets.reader_info import Info, read_info
from robopolicy.datasets.reader_types import ON_DEFECT, Defect, Episode, Feature, Layout
from robopolicy.datasets.video import VideoStore, resize_rgb

# Features of more values a row than this are read when they are first asked for, each on its own.
LARGE_ROW = 4096


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


class Reader:
    """A dataset opened for reading.

    Args:
        source: folder of the dataset, or a hub id ``owner/name``.  A local path never leads to the network.
        episodes: ids (``episode_index``) of the episodes to read, all when None; they are kept in id order.
        on_defect: what to do with unreadable episodes: ``"raise"`` a ``DatasetError``, or ``"skip"`` them and list the
            reasons in ``defects``.
        revision: of the hub repository.
        max_open_videos: containers kept open.

    Rows count through the chosen episodes: row r is ``columns[key][r]`` and belongs to the ``Episode`` with
    ``start <= r < stop``.  The columns ``index`` and ``episode_index`` keep the numbers of the whole dataset.
    Floats are float32, integers int64; vectors ``(N, D)``, bookkeeping scalars ``(N,)``.
    """

    def __init__(
        self,
        source: str | Path,
        episodes: Sequence[int] | None = None,
        *,
        on_defect: str = "raise",
        revision: str | None = None,
        max_open_videos: int = 8,
    ) -> None:
        if on_defect not in ON_DEFECT:
            raise ConfigError(f"on_defect must be 'raise' or 'skip', got {on_defect!r}")
        self.root: Path = resolve_root(source, revision)
        self._info, self.defects = read_info(self.root)
        wanted = None if episodes is None else _check_ids(episodes)
        module = reader_v3 if self._info.major == 3 else reader_v2
        layout: Layout = module.read_layout(self.root, self._info, wanted)
        self.defects += layout.defects
        if wanted is not None and (unknown := sorted(wanted - {e.index for e in layout.episodes})):
            raise DatasetError(f"{self.root}: no episodes {unknown[:8]} in the episode table")
        self.tasks: dict[int, str] = layout.tasks
        self._open_tables(layout, on_defect)
        self._videos = VideoStore(self._info.fps, max_open_videos)
        self._images = TableImages(self.root, self._files)

    # -- what is there ---------------------------------------------------------------------------------------------

    @property
    def version(self) -> str:
        """``codebase_version`` of info.json, such as "v3.0"."""
        return self._info.version

    @property
    def info(self) -> Info:
        """The cleaned info.json (``info.raw`` is the file as it is)."""
        return self._info

    @property
    def fps(self) -> float:
        """Frames a second."""
        return self._info.fps

    @property
    def keys(self) -> tuple[str, ...]:
        """All feature keys, cameras included."""
        return tuple(self.features)

    @property
    def camera_keys(self) -> tuple[str, ...]:
        """Keys of the cameras, in the order of info.json."""
        return tuple(k for k, f in self.features.items() if f.is_camera)

    @property
    def num_frames(self) -> int:
        """Number of rows of the chosen episodes."""
        return len(self._physical)

    def episode(self, index: int) -> Episode:
        """The episode with id ``index``; ``DatasetError`` when it was not chosen or does not exist."""
        found = self._by_id.get(index)
        if found is None:
            raise DatasetError(f"{self.root}: episode {index} is not among the {len(self.episodes)} episodes read")
        return found

    def observation_spec(self) -> ObservationSpec:
        """Spec of all observations of one step; cameras at their recorded size."""
        return reader_specs.observation_spec(self._info, self.features.values())

    def action_space(self) -> ActionSpace:
        """What one action means."""
        return reader_specs.action_space(self._info, self.features)

    def task_of(self, row: int) -> str:
        """Task sentence of a row; the episode's only task, or "", when the task table does not have it."""
        if "task_index" in self.columns and (text := self.tasks.get(int(self.columns["task_index"][row]))) is not None:
            return text
        tasks = self.episodes[int(np.searchsorted(self._starts, row, side="right")) - 1].tasks
        return tasks[0] if len(tasks) == 1 else ""

    def numbers(self, key: str) -> np.ndarray:
        """Column ``frame_index``, ``episode_index`` or ``index`` ``(N,)``, worked out when the files lack it."""
        if key in self.columns:
            return self.columns[key]
        if key == "frame_index":
            return np.concatenate([np.arange(e.length) for e in self.episodes])
        if key == "episode_index":
            return np.repeat([e.index for e in self.episodes], [e.length for e in self.episodes])
        return self._physical.copy()

    # -- frames ----------------------------------------------------------------------------------------------------

    def frames(self, camera: str, rows: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
        """Frames ``(n, 3, H, W)`` uint8 of ``camera`` at ``rows`` ``(n,)``, any order, repeats allowed.

        ``size`` is (height, width); None keeps the recorded size.  Raises ``DatasetError`` naming file and frame when
        one is missing or damaged.
        """
        return self.decode(camera, np.asarray(rows, dtype=np.int64), size, self._videos)

    def decode(self, camera: str, rows: np.ndarray, size: tuple[int, int] | None, videos: VideoStore) -> np.ndarray:
        """As ``frames`` with the caller's own containers, for decoding in several threads at once."""
        feature = self.features.get(camera)
        if feature is None or not feature.is_camera:
            raise DatasetError(f"{self.root}: no camera '{camera}'" + did_you_mean(camera, self.camera_keys))
        height, width = size or feature.shape[1:]
        unique, inverse = np.unique(rows, return_inverse=True)
        if unique.size and not 0 <= unique[0] <= unique[-1] < self.num_frames:
            raise DatasetError(f"rows must lie in 0..{self.num_frames - 1}, got {unique[0]}..{unique[-1]}")
        out = np.empty((len(unique), 3, height, width), np.uint8)
        for i, image in enumerate(self._rgb(feature, unique, videos)):
            if size is None and image.shape[:2] != (height, width):
                raise DatasetError(
                    f"{self.root}: '{camera}' has frames of {image.shape[:2]}, info.json says {(height, width)}; "
                    "give a size to have them resized"
                )
            out[i] = resize_rgb(image, size).transpose(2, 0, 1)
        return out if len(unique) == len(rows) and np.all(inverse == np.arange(len(rows))) else out[inverse]

    def frame_sources(self, camera: str, episode: Episode) -> list[tuple[Path, float, int]]:
        """Where an episode's frames of ``camera`` come from: (file, start in it, first frame number).

        The start is seconds for a video and a row for pictures in tables (then usually one file, several if the episode
        goes on in the next).
        """
        if self.features[camera].storage == "video":
            span = episode.videos[camera]
            return [(span.path, span.start, int(self._frame_index[episode.start]))]
        first, last = int(self._physical[episode.start]), int(self._physical[episode.stop - 1])
        return [
            (f.path, float(max(first, f.first) - f.first), 0)
            for f in self._files
            if f.first <= last and f.first + f.rows > first
        ]

    def _rgb(self, feature: Feature, rows: np.ndarray, videos: VideoStore) -> Iterator[np.ndarray]:
        if feature.storage == "image":
            yield from self._images.read(feature.source, self._physical[rows])
            return
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(owner):
            span = self.episodes[number].videos[feature.key]
            seconds = span.start + self._frame_index[rows[owner == number]] / self.fps
            yield from videos.read(span.path, seconds)

    # -- opening ---------------------------------------------------------------------------------------------------

    def _open_tables(self, layout: Layout, on_defect: str) -> None:
        entries, bad = layout.episodes, {}
        if self._info.major == 2:
            # v2 has one file an episode, so a missing file costs its episode and not the dataset.
            there = [p.is_file() for p in layout.data_files]
            self._files = reader_columns.scan([p for p, ok in zip(layout.data_files, there, strict=True) if ok])
            ids = [e.index for e, ok in zip(entries, there, strict=True) if ok]
            runs = reader_episodes.find_runs(self._files, ids, [])
        else:
            self._files = reader_columns.scan(layout.data_files)
            runs = reader_episodes.find_runs(self._files, None, [(e.index, e.length) for e in entries])
        self.features = self._settle_features()
        cameras = [k for k, f in self.features.items() if f.storage == "video"]
        for entry in entries:
            if found := reader_episodes.check_entry(entry, runs, cameras):
                bad[entry.index] = found
        self._choose(layout, runs, bad, on_defect)
        self._frame_index = self.numbers("frame_index")
        if wrong := reader_episodes.check_frame_order(self.episodes, self._frame_index):
            self._choose(layout, runs, bad | wrong, on_defect)
            self._frame_index = self.numbers("frame_index")

    def _choose(self, layout: Layout, runs: reader_episodes.Runs, bad: dict[int, list[Defect]], on_defect: str) -> None:
        if bad and on_defect == "raise":
            reader_episodes.refuse(bad, self.root)
        known = {str(d) for d in self.defects}
        self.defects += [d for found in bad.values() for d in found if str(d) not in known]
        self.episodes, self._physical = reader_episodes.select(layout.episodes, runs, bad)
        if not self.episodes:
            raise DatasetError(f"{self.root}: no readable episodes; first reason: {next(iter(bad.values()))[0]}")
        self._starts = np.array([e.start for e in self.episodes], dtype=np.int64)
        self._by_id = {e.index: e for e in self.episodes}
        tabular = {k: f for k, f in self.features.items() if not f.is_camera}
        self.columns = Columns(self._files, tabular, self._physical)

    def _settle_features(self) -> dict[str, Feature]:
        """Features that are really there: a camera of dtype uint8 may be in the tables or in videos."""
        present = set.intersection(*(set(f.columns) for f in self._files)) if self._files else set()
        features: dict[str, Feature] = {}
        for key, feature in self._info.features.items():
            if feature.storage == "video" and feature.source in present:
                features[key] = replace(feature, storage="image")
            elif feature.storage == "video" or feature.source in present:
                features[key] = feature
            else:
                self.defects.append(
                    Defect("column-missing", f"feature '{key}' is in info.json but not in the data files")
                )
        declared = {f.source for f in self._info.features.values()}
        extra = sorted(present - declared)
        if extra:
            self.defects.append(Defect("column-undeclared", f"data columns not in info.json: {', '.join(extra)}"))
        return features


def _check_ids(episodes: Sequence[int]) -> set[int]:
    ids = [int(i) for i in episodes]
    if not ids:
        raise ConfigError("episodes=[] chooses nothing; leave it out to read all episodes")
    if len(set(ids)) != len(ids):
        raise ConfigError(f"episodes contains an id twice: {sorted(i for i in set(ids) if ids.count(i) > 1)}")
    return set(ids)
