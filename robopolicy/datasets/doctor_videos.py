"""Checks on the videos: every file there and readable, as many frames as rows, episodes where the table says."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from robopolicy.core.errors import DatasetError
from robopolicy.datasets.doctor_types import Survey, TableEntry
from robopolicy.datasets.video_writer import frame_times

TABLE = "meta/episodes"
REWRITE = "set from_timestamp = frames before it in the file / fps"


def check_videos(found: Survey) -> None:
    """Group the episodes by file and check each file once."""
    cameras = [c for c in found.info.cameras if c.storage == "video"]
    stored_in_table = set(found.rows.columns)
    for camera in cameras:
        if camera.key in stored_in_table:
            continue
        by_file: dict[Path, list[TableEntry]] = defaultdict(list)
        for entry in found.entry_by_id().values():
            if camera.key in entry.videos:
                by_file[entry.videos[camera.key].path].append(entry)
            else:
                text = f"the episode table has no video place for '{camera.key}'"
                found.add("video-missing", "error", text, "restore the episode table", entry.index, TABLE)
        for path, entries in sorted(by_file.items()):
            _check_file(found, camera.key, path, sorted(entries, key=lambda e: e.videos[camera.key].start))


def _check_file(found: Survey, key: str, path: Path, entries: list[TableEntry]) -> None:
    mend = "restore the file from a copy, or open with on_defect='skip'"
    if not path.is_file():
        for entry in entries:
            found.add("video-missing", "error", f"no such file ('{key}')", mend, entry.index, path)
        return
    try:
        times = np.array(frame_times(path))
    except DatasetError as e:
        for entry in entries:
            found.add("video-unreadable", "error", str(e).removeprefix(f"{path}: "), mend, entry.index, path)
        return
    fps = found.info.fps
    _check_rate(found, path, times, fps, entries)
    expected = 0
    for entry in entries:
        span = entry.videos[key]
        _check_place(found, key, entry, times, expected, path)
        expected = round(span.start * fps) + entry.length
    if len(times) != expected and len(times) >= expected:
        text = f"{len(times)} frames, its episodes have {expected}: frames of another take are in it"
        found.add("video-frames", "error", text, mend, entries[-1].index, path)


def _check_rate(found: Survey, path: Path, times: np.ndarray, fps: float, entries: list[TableEntry]) -> None:
    """Frame n of a file must be shown at n / fps (relative to its first frame)."""
    if not len(times):
        return
    error = np.abs(times - times[0] - np.arange(len(times)) / fps)
    if error.max() > 0.25 / fps:
        worst = int(error.argmax())
        holders = [e for e in entries if min(v.start for v in e.videos.values()) <= times[worst]] or entries
        text = f"frame {worst} is shown at {times[worst]:.4f} s, expected {worst / fps:.4f} s: the rate is not constant"
        found.add("video-rate", "error", text, "encode the video again at a constant rate", holders[-1].index, path)


def _check_place(found: Survey, key: str, entry: TableEntry, times: np.ndarray, expected: int, path: Path) -> None:
    """An episode's first frame exists at its from_timestamp, right after its predecessor, and its last one too."""
    fps, start = found.info.fps, entry.videos[key].start
    first = round(start * fps)
    off = abs(start * fps - first)
    if off > 0.25:
        text = f"from_timestamp {start:.4f} s ('{key}') lies {off:.2f} frames beside any frame"
        found.add("video-offset", "error", text, REWRITE, entry.index, TABLE)
    elif off / fps > 1e-4:
        text = f"from_timestamp {start:.6f} s ('{key}') is {off / fps * 1e3:.2f} ms off; LeRobot's tolerance refuses it"
        found.add("video-offset", "warning", text, REWRITE, entry.index, TABLE)
    elif first != expected:
        text = f"starts at frame {first} of the file ('{key}'), its predecessors end at {expected}"
        found.add("video-offset", "error", text, REWRITE, entry.index, TABLE)
    if first + entry.length > len(times):
        text = f"needs frames {first}..{first + entry.length - 1} ('{key}'), the file has {len(times)}"
        mend = "the video is truncated or belongs to another take: restore it, or drop the episode"
        found.add("video-short", "error", text, mend, entry.index, path)
    stop = entry.video_stops.get(key)
    if stop is not None and abs(stop - start - entry.length / fps) > 0.25 / fps:
        seconds = entry.length / fps
        text = f"from_timestamp to to_timestamp is {stop - start:.4f} s ('{key}'), its frames last {seconds:.4f} s"
        found.add("video-span", "warning", text, "set to_timestamp = from_timestamp + length / fps", entry.index, TABLE)
