"""What the readers of all LeRobot versions agree on: features, episodes, defects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Storage = Literal["column", "image", "video", "string"]
ON_DEFECT = ("raise", "skip")


@dataclass(frozen=True)
class Defect:
    """One way in which a dataset departs from its format.  ``episode`` and ``file`` are None when it concerns all."""

    code: str
    message: str
    episode: int | None = None
    file: str | None = None

    def __str__(self) -> str:
        where = f"episode {self.episode}: " if self.episode is not None else ""
        what = f"{self.file}: " if self.file else ""
        return f"[{self.code}] {where}{what}{self.message}"


@dataclass(frozen=True)
class Feature:
    """One feature of info.json, cleaned.

    ``key`` is the name used in this framework, ``source`` the one on disk (they differ only for sets without
    LeRobot's prefixes).  ``shape`` is that of one step; cameras are always given as ``(3, H, W)``.
    """

    key: str
    source: str
    dtype: str
    shape: tuple[int, ...]
    storage: Storage
    names: tuple[str, ...] | None = None

    @property
    def is_camera(self) -> bool:
        return self.storage in ("image", "video")


@dataclass(frozen=True)
class VideoSpan:
    """Where an episode's frames of one camera are: frame ``k`` is shown at ``start + k / fps`` seconds of ``path``."""

    path: Path
    start: float


@dataclass(frozen=True)
class EpisodeEntry:
    """One line of the episode table, as the dataset states it."""

    index: int
    length: int
    tasks: tuple[str, ...] = ()
    videos: Mapping[str, VideoSpan] = field(default_factory=dict)


@dataclass(frozen=True)
class Episode:
    """One readable episode: id on disk, number of frames, and the row of its first frame in ``Reader.columns``."""

    index: int
    length: int
    start: int
    tasks: tuple[str, ...] = ()
    videos: Mapping[str, VideoSpan] = field(default_factory=dict)

    @property
    def stop(self) -> int:
        """Row after the last frame."""
        return self.start + self.length


@dataclass
class Layout:
    """What a version-specific module found: the episode table, the data files in order, the task sentences."""

    episodes: list[EpisodeEntry]
    data_files: list[Path]
    tasks: dict[int, str]
    defects: list[Defect] = field(default_factory=list)
