"""What the dataset doctor speaks of: findings, and a survey of the dataset that survives any damage in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from robopolicy.datasets.reader_info import Info
from robopolicy.datasets.reader_types import VideoSpan

RESTORE = "restore the file from a copy, or drop its episodes: open with Reader(..., on_defect='skip')"

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing wrong with a dataset.

    ``error``: data are missing or wrong; ``warning``: readable, but something will mislead a reader or a training
    run; ``note``: worth knowing, nothing to mend.  ``episode`` and ``file`` are None when it concerns all.
    """

    code: str
    severity: Severity
    message: str
    mend: str
    episode: int | None = None
    file: str | None = None

    def __str__(self) -> str:
        where = f"episode {self.episode}: " if self.episode is not None else ""
        what = f"{self.file}: " if self.file else ""
        return f"{self.severity} [{self.code}] {where}{what}{self.message}"


@dataclass
class TableEntry:
    """One row of the episode table as stated, whatever it is worth."""

    index: int
    length: int
    tasks: tuple[str, ...] = ()
    range: tuple[int, int] | None = None
    videos: dict[str, VideoSpan] = field(default_factory=dict)
    video_stops: dict[str, float] = field(default_factory=dict)
    stats: dict[str, dict[str, Any]] | None = None


@dataclass
class Rows:
    """All readable data rows in file order: ``file`` (N,) numbers into ``files``; ``columns`` scalars (N,) and
    vectors (N, D)."""

    files: list[str]
    file: np.ndarray
    columns: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.file)

    def of_episode(self, index: int) -> np.ndarray:
        """Row numbers of one episode by its ``episode_index`` column."""
        return np.flatnonzero(self.columns["episode_index"] == index)

    def file_of(self, row: int) -> str:
        """Data file that holds a row."""
        return self.files[int(self.file[row])]


@dataclass
class Survey:
    """Everything the checks look at, with what went wrong while gathering it in ``findings``."""

    root: Path
    info: Info
    entries: list[TableEntry] = field(default_factory=list)
    rows: Rows = field(default_factory=lambda: Rows([], np.zeros(0, np.int64), {}))
    tasks: list[tuple[int, str]] = field(default_factory=list)
    stats: dict[str, dict[str, Any]] | None = None
    findings: list[Finding] = field(default_factory=list)

    def add(
        self,
        code: str,
        severity: Severity,
        message: str,
        mend: str,
        episode: int | None = None,
        file: str | Path | None = None,
    ) -> None:
        """Note a finding; ``file`` may be absolute, it is shown relative to the dataset."""
        if isinstance(file, Path):
            file = file.relative_to(self.root).as_posix() if file.is_relative_to(self.root) else str(file)
        self.findings.append(Finding(code, severity, message, mend, episode, file))

    def entry_by_id(self) -> dict[int, TableEntry]:
        """First table row of each id."""
        return {e.index: e for e in reversed(self.entries)}


def some(values: Iterable[Any], limit: int = 8) -> str:
    """``"1, 2, 3 ... (12 in all)"``."""
    items = list(values)
    text = ", ".join(str(v) for v in items[:limit])
    return text if len(items) <= limit else f"{text} ... ({len(items)} in all)"
