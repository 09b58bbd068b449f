"""Matches the episode table with the rows that are really there.

Source: the LeRobot format's pitfalls.  ``data/file_index`` and ``dataset_from_index`` are not trusted; an episode is
where the ``episode_index`` column says it is, and it must be one run of rows with consecutive ``frame_index``.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from robopolicy.core.errors import DatasetError
from robopolicy.datasets.reader_columns import DataFile
from robopolicy.datasets.reader_types import Defect, Episode, EpisodeEntry

Runs = Mapping[int, Sequence[tuple[int, int]]]


def find_runs(files: Sequence[DataFile], ids_by_file: Sequence[int] | None, lengths: Sequence[tuple[int, int]]) -> Runs:
    """For each episode id the runs ``(first physical row, number of rows)`` in which it occurs.

    ``ids_by_file`` gives the episode of each file for v2 (its name decides, whatever the column says);
    ``lengths`` is the table's ``(id, length)``, used when a v3 set has no ``episode_index`` column at all.
    """
    if ids_by_file is not None:
        return {i: [(f.first, f.rows)] for i, f in zip(ids_by_file, files, strict=True)}
    columns = [f.episode_index for f in files]
    present = [c for c in columns if c is not None]
    if len(present) != len(columns):
        firsts = np.concatenate([[0], np.cumsum([n for _, n in lengths])])
        return {i: [(int(first), n)] for (i, n), first in zip(lengths, firsts[:-1], strict=True)}
    ids = np.concatenate(present) if present else np.zeros(0, np.int64)
    edges = np.concatenate([[0], np.flatnonzero(np.diff(ids)) + 1, [len(ids)]])
    runs: dict[int, list[tuple[int, int]]] = {}
    if len(ids):
        for start, stop in itertools.pairwise(edges):
            runs.setdefault(int(ids[start]), []).append((int(start), int(stop - start)))
    return runs


def check_entry(entry: EpisodeEntry, runs: Runs, cameras: Sequence[str]) -> list[Defect]:
    """Defects that make one episode unreadable: no rows, another number of rows, two runs, a video not found."""
    found = runs.get(entry.index, [])
    defects = []
    if not found:
        defects.append(Defect("episode-rows", "no rows in the data files", entry.index))
    elif len(found) > 1:
        defects.append(Defect("episode-duplicate", f"its id occurs in {len(found)} separate runs of rows", entry.index))
    elif found[0][1] != entry.length:
        defects.append(
            Defect("episode-rows", f"{found[0][1]} rows in the data, {entry.length} in the episode table", entry.index)
        )
    if entry.length < 1:
        defects.append(Defect("episode-empty", "length 0 in the episode table", entry.index))
    for camera in cameras:
        if camera not in entry.videos:
            defects.append(Defect("video-missing", f"no video file for '{camera}'", entry.index))
    return defects


def select(
    entries: Sequence[EpisodeEntry], runs: Runs, bad: Mapping[int, list[Defect]]
) -> tuple[tuple[Episode, ...], np.ndarray]:
    """Readable episodes with their rows, and the physical row of each row ``(N,)``."""
    episodes: list[Episode] = []
    physical: list[np.ndarray] = []
    start = 0
    for entry in entries:
        if entry.index in bad:
            continue
        first = runs[entry.index][0][0]
        episodes.append(Episode(entry.index, entry.length, start, entry.tasks, entry.videos))
        physical.append(np.arange(first, first + entry.length))
        start += entry.length
    return tuple(episodes), np.concatenate(physical) if physical else np.zeros(0, np.int64)


def check_frame_order(episodes: Sequence[Episode], frame_index: np.ndarray) -> dict[int, list[Defect]]:
    """Episodes whose ``frame_index`` does not rise by one from row to row."""
    steps = np.diff(frame_index)
    bad: dict[int, list[Defect]] = {}
    for e in episodes:
        wrong = np.flatnonzero(steps[e.start : e.stop - 1] != 1)
        if wrong.size:
            text = f"frame_index goes from {frame_index[e.start + wrong[0]]} to {frame_index[e.start + wrong[0] + 1]}"
            bad[e.index] = [Defect("frame-order", text, e.index)]
    return bad


def refuse(bad: Mapping[int, list[Defect]], root: object) -> None:
    """Raise ``DatasetError`` for the first unreadable episode (and say how many more there are)."""
    first = bad[min(bad)][0]
    more = f" (and {len(bad) - 1} more episodes)" if len(bad) > 1 else ""
    raise DatasetError(
        f"{root}: {first}{more}; run 'robopolicy data doctor', or open with on_defect='skip' to leave such episodes out"
    )
