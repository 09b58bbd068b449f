"""Checks on the data rows: every episode there once, whole, in order, finite, with honest indices and time stamps."""

from __future__ import annotations

import re

import numpy as np

from robopolicy.datasets.doctor_types import RESTORE, Survey, some

TOLERANCE_S = 1e-4  # LeRobot's default; float32 stamps of the longest episodes stay far below it
RECORD_AGAIN = "drop the episode, or restore its rows from a copy"


def check_rows(found: Survey) -> None:
    """Run all row checks."""
    _check_ids(found)
    for entry in found.entry_by_id().values():
        rows = found.rows.of_episode(entry.index) if "episode_index" in found.rows.columns else np.zeros(0, int)
        if not len(rows):
            _report_no_rows(found, entry.index)
            continue
        _check_one(found, entry.index, entry.length, rows)
    _check_index(found)
    _check_finite(found)


def _check_ids(found: Survey) -> None:
    ids = [e.index for e in found.entries]
    for twice in sorted({i for i in ids if ids.count(i) > 1}) if len(set(ids)) != len(ids) else []:
        text = "listed more than once in the episode table"
        found.add("episode-duplicate", "error", text, "remove the wrong line", twice, "meta/episodes")
    if gap := sorted(set(range(max(ids, default=-1) + 1)) - set(ids)):
        text = f"ids {some(gap)} are missing from the episode table"
        found.add("episode-gap", "warning", text, "renumber by converting the dataset again", gap[0], "meta/episodes")
    present = found.rows.columns.get("episode_index", np.zeros(0, np.int64))
    for index in sorted(set(np.unique(present).tolist()) - set(ids)):
        row = int(np.flatnonzero(present == index)[0])
        text = "has rows, but the episode table does not list it (an interrupted recording leaves such rows)"
        mend = "Writer.resume(root) removes leftovers of our recorder; otherwise restore the episode table"
        found.add("episode-unlisted", "error", text, mend, index, found.rows.file_of(row))


def _report_no_rows(found: Survey, index: int) -> None:
    unreadable = [
        f.file for f in found.findings if f.code == "parquet-unreadable" and (f.file or "").startswith("data/")
    ]
    why = f"; unreadable: {some(unreadable)}" if unreadable else ""
    found.add(
        "episode-rows",
        "error",
        f"no rows in the data files{why}",
        RESTORE,
        index,
        unreadable[0] if unreadable else None,
    )


def _check_one(found: Survey, index: int, length: int, rows: np.ndarray) -> None:
    file = found.rows.file_of(int(rows[0]))
    columns = found.rows.columns
    _check_v2_name(found, index, rows)
    steps = columns.get("frame_index")
    takes = 1 if steps is None else int((steps[rows] == 0).sum())
    if rows[-1] - rows[0] + 1 != len(rows) or takes > 1:
        text = f"its id is on the rows of {max(takes, 2)} episodes"
        found.add("episode-duplicate", "error", text, "give each episode its own episode_index", index, file)
    if len(rows) != length:
        text = f"{len(rows)} rows in the data, {length} in the episode table"
        found.add("episode-length", "error", text, RECORD_AGAIN, index, file)
    if steps is not None and not np.array_equal(steps[rows], np.arange(len(rows))):
        bad = int(np.flatnonzero(steps[rows] != np.arange(len(rows)))[0])
        text = f"frame_index is {steps[rows[bad]]} in row {bad}, expected {bad}"
        found.add("frame-order", "error", text, RECORD_AGAIN, index, file)
    if "timestamp" in columns:
        _check_times(found, index, columns["timestamp"][rows].astype(np.float64), file)


def _check_v2_name(found: Survey, index: int, rows: np.ndarray) -> None:
    """A v2 file belongs to the episode in its name; the column inside must agree."""
    for number in np.unique(found.rows.file[rows]):
        name = re.search(r"episode_(\d+)\.parquet", found.rows.files[number])
        if found.info.major == 2 and name and int(name.group(1)) != index:
            text = f"the file of episode {int(name.group(1))} says episode_index {index}: two episodes share an id"
            mend = "set its episode_index column to the number in its name"
            found.add("episode-duplicate", "error", text, mend, index, found.rows.files[number])


def _check_times(found: Survey, index: int, times: np.ndarray, file: str) -> None:
    steps = np.diff(times)
    if (backward := np.flatnonzero(steps <= 0)).size:
        text = (
            f"time stamps go from {times[backward[0]]:.4f} to {times[backward[0] + 1]:.4f} s at frame {backward[0] + 1}"
        )
        found.add(
            "timestamps-order", "error", text, "sort the rows, or write timestamp = frame_index / fps", index, file
        )
        return
    error = np.abs(times - np.arange(len(times)) / found.info.fps)
    if error.max() > TOLERANCE_S:
        worst = int(error.argmax())
        text = f"frame {worst} is stamped {times[worst]:.4f} s, {error[worst] * 1e3:.1f} ms off frame_index / fps"
        mend = "frames are addressed by number here, so training works; write timestamp = frame_index / fps for LeRobot"
        found.add("timestamps-jitter", "warning", text, mend, index, file)


def _check_index(found: Survey) -> None:
    """``index`` is the global frame number, and the episode table's ranges are running sums of the lengths."""
    index = found.rows.columns.get("index")
    if index is not None and len(index):
        steps = np.diff(np.concatenate([[-1], index]))
        ids = found.rows.columns["episode_index"]
        for row in np.flatnonzero(steps != 1)[:8]:
            text = f"'index' goes from {index[row - 1] if row else 'nothing'} to {index[row]}"
            mend = "an episode is missing before it, or write index = 0, 1, 2, ... over all rows"
            found.add("index-gap", "error", text, mend, int(ids[row]), found.rows.file_of(int(row)))
    start = 0
    for entry in sorted(found.entries, key=lambda e: e.index):
        wanted = (start, start + entry.length)
        if entry.range is not None and entry.range != wanted:
            text = f"dataset_from_index, dataset_to_index are {entry.range}, the lengths say {wanted}"
            mend = "robopolicy data doctor --repair"
            found.add("episode-range", "error", text, mend, entry.index, "meta/episodes")
        start += entry.length


def _check_finite(found: Survey) -> None:
    columns = found.rows.columns
    mend = "drop the episode; one NaN spoils a whole training run"
    for key, values in columns.items():
        if values.dtype.kind != "f" or np.isfinite(values).all():
            continue
        bad = ~np.isfinite(values.reshape(len(values), -1))
        rows = np.flatnonzero(bad.any(1))
        ids = columns["episode_index"]
        for episode in np.unique(ids[rows]).tolist():
            mine = rows[ids[rows] == episode]
            frame, channel = mine[0] - np.flatnonzero(ids == episode)[0], bad[mine[0]].argmax()
            text = f"{key}: {len(mine)} frames with NaN or infinity, first at frame {frame}, channel {channel}"
            found.add("non-finite", "error", text, mend, episode, found.rows.file_of(int(mine[0])))
