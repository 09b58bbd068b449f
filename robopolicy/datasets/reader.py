"""Opens a LeRobot dataset (v2.0, v2.1, v3.0) and gives contiguous columns and decoded frames, without changing a file.

Source: the LeRobot dataset format.  Differs from ``lerobot.LeRobotDataset``: needs neither lerobot nor torch, reads all
three versions as they are, identifies frames by integer number, never goes to the network for a local path, and has one
meaning of a row: its position in ``columns``, also when only some episodes were asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from robopolicy.core.errors import ConfigError, DatasetError
from robopolicy.core.specs import ActionSpace, ObservationSpec
from robopolicy.datasets import reader_specs, reader_v2, reader_v3
from robopolicy.datasets.reader_frames import FrameReader
from robopolicy.datasets.reader_hub import resolve_root
from robopolicy.datasets.reader_info import Info, read_info
from robopolicy.datasets.reader_table import Columns, open_tables
from robopolicy.datasets.reader_types import ON_DEFECT, Episode, Feature, Layout
from robopolicy.datasets.video import VideoStore


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
        self._tables = open_tables(self.root, self._info, layout, on_defect, self.defects)
        self._by_id = {e.index: e for e in self._tables.episodes}
        self._frames = FrameReader(self.root, self._tables, self._info.fps, max_open_videos)

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
    def episodes(self) -> tuple[Episode, ...]:
        """The readable episodes among those asked for, in id order."""
        return self._tables.episodes

    @property
    def features(self) -> dict[str, Feature]:
        """Every feature that is really there, by key."""
        return self._tables.features

    @property
    def columns(self) -> Columns:
        """Contiguous read-only columns by key, loaded at the first request."""
        return self._tables.columns

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
        return len(self._tables.physical)

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
        tasks = self.episodes[int(np.searchsorted(self._tables.starts, row, side="right")) - 1].tasks
        return tasks[0] if len(tasks) == 1 else ""

    def numbers(self, key: str) -> np.ndarray:
        """Column ``frame_index``, ``episode_index`` or ``index`` ``(N,)``, worked out when the files lack it."""
        return self._tables.numbers(key)

    # -- frames ----------------------------------------------------------------------------------------------------

    def frames(self, camera: str, rows: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
        """Frames ``(n, 3, H, W)`` uint8 of ``camera`` at ``rows`` ``(n,)``, any order, repeats allowed.

        ``size`` is (height, width); None keeps the recorded size.  Raises ``DatasetError`` naming file and frame when
        one is missing or damaged.
        """
        return self._frames.read(camera, rows, size)

    def decode(self, camera: str, rows: np.ndarray, size: tuple[int, int] | None, videos: VideoStore) -> np.ndarray:
        """As ``frames`` with the caller's own containers, for decoding in several threads at once."""
        return self._frames.read(camera, rows, size, videos)

    def frame_sources(self, camera: str, episode: Episode) -> list[tuple[Path, float, int]]:
        """Files behind an episode's frames, see ``FrameReader.sources``."""
        return self._frames.sources(camera, episode)


def _check_ids(episodes: Sequence[int]) -> set[int]:
    ids = [int(i) for i in episodes]
    if not ids:
        raise ConfigError("episodes=[] chooses nothing; leave it out to read all episodes")
    if len(set(ids)) != len(ids):
        raise ConfigError(f"episodes contains an id twice: {sorted(i for i in set(ids) if ids.count(i) > 1)}")
    return set(ids)
