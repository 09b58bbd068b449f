"""Examines a LeRobot dataset of any version and names everything wrong with it: where, in which episode, what to do.

Unlike a reader, which stops at the first fault, the doctor gathers what it can, so one damaged file does not hide
another.  Nothing is written; ``doctor_repair`` mends what can be rebuilt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robopolicy.core.errors import RobopolicyError
from robopolicy.datasets.doctor_meta import check_meta
from robopolicy.datasets.doctor_rows import check_rows
from robopolicy.datasets.doctor_stats import check_stats
from robopolicy.datasets.doctor_survey import survey
from robopolicy.datasets.doctor_types import Finding, Survey
from robopolicy.datasets.doctor_videos import check_videos
from robopolicy.datasets.reader import Reader

__all__ = ["Finding", "Jitter", "diagnose", "examine", "exit_code", "jitter_table"]

RANK = {"error": 0, "warning": 1, "note": 2}


def diagnose(root: str | Path, deep: bool = False) -> list[Finding]:
    """All findings, worst first.  ``deep`` also decodes every frame (minutes for large sets).

    Raises ``DatasetError`` when there is no usable ``meta/info.json``.
    """
    return examine(Path(root), deep).findings


def examine(root: Path, deep: bool = False) -> Survey:
    """As ``diagnose``, with the tables that were read."""
    found = survey(root)
    check_meta(found)
    check_rows(found)
    check_videos(found)
    check_stats(found)
    if deep:
        _decode_everything(found)
    found.findings.sort(key=lambda f: (RANK[f.severity], f.code, -1 if f.episode is None else f.episode))
    return found


def _decode_everything(found: Survey) -> None:
    reader = Reader(found.root, on_defect="skip")
    for camera in reader.camera_keys:
        for episode in reader.episodes:
            try:
                for row in range(episode.start, episode.stop):
                    reader.frames(camera, np.array([row]))
            except RobopolicyError as e:
                mend = "restore the file from a copy, or drop the episode"
                found.add("frame-undecodable", "error", f"{camera}: {e}", mend, episode.index)


def exit_code(findings: Sequence[Finding]) -> int:
    """0 when nothing needs mending (notes do not count), else 1."""
    return int(any(f.severity != "note" for f in findings))


@dataclass(frozen=True)
class Jitter:
    """How far the time stamps of an episode are from ``frame_index / fps``, in milliseconds."""

    episode: int
    frames: int
    worst_ms: float
    mean_ms: float
    worst_frame: int
    backward_steps: int


def jitter_table(found: Survey) -> list[Jitter]:
    """One line an episode, worst first; empty when the data carry no time stamps."""
    times = found.rows.columns.get("timestamp")
    table = []
    for index in found.entry_by_id() if times is not None else ():
        rows = found.rows.of_episode(index)
        if not len(rows):
            continue
        stamps = times[rows].astype(np.float64)  # type: ignore[index]
        error = np.abs(stamps - np.arange(len(rows)) / found.info.fps) * 1e3
        backward = int((np.diff(stamps) <= 0).sum())
        worst = int(error.argmax())
        table.append(Jitter(index, len(rows), float(error[worst]), float(error.mean()), worst, backward))
    return sorted(table, key=lambda j: -j.worst_ms)
