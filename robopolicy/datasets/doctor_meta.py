"""Checks on what the metadata say of themselves: totals, splits, tasks and template places."""

from __future__ import annotations

from typing import Any

import numpy as np

from robopolicy.datasets.doctor_types import Survey, some

REPAIR = "robopolicy data doctor --repair"
INFO = "meta/info.json"


def check_meta(found: Survey) -> None:
    """Run all checks on metadata."""
    for name, truth in true_totals(found).items():
        stated = found.info.raw.get(name)
        if stated != truth and (stated is not None or found.info.major == 2 or name != "total_videos"):
            text = f"'{name}' is {stated}, there are {truth}"
            found.add("totals", "error", text, REPAIR, None, INFO)
    _check_splits(found)
    _check_tasks(found)


def true_totals(found: Survey) -> dict[str, int]:
    """The totals that info.json should state, counted in the tables."""
    entries = list(found.entry_by_id().values())
    totals = {
        "total_episodes": len(entries),
        "total_frames": sum(e.length for e in entries),
        "total_tasks": len({i for i, _ in found.tasks}),
    }
    if found.info.major == 2:
        cameras = sum(c.storage == "video" for c in found.info.cameras)
        chunks = -(-len(entries) // found.info.chunks_size)
        totals |= {"total_videos": cameras * len(entries), "total_chunks": chunks}
    return totals


def _check_splits(found: Survey) -> None:
    stated = found.info.raw.get("splits")
    splits: dict[str, Any] = stated if isinstance(stated, dict) else {}
    count = len(found.entry_by_id())
    for name, text in splits.items():
        start, _, stop = str(text).partition(":")
        if not (start.isdigit() and stop.isdigit() and int(start) <= int(stop) <= count):
            found.add("splits", "warning", f"split '{name}' is '{text}' of {count} episodes", REPAIR, None, INFO)
        elif len(splits) == 1 and (int(start), int(stop)) != (0, count):
            text = f"the only split '{name}' is '{text}', there are {count} episodes"
            found.add("splits", "warning", text, REPAIR, None, INFO)


def _check_tasks(found: Survey) -> None:
    file = "meta/tasks.parquet" if found.info.major == 3 else "meta/tasks.jsonl"
    order = [i for i, _ in found.tasks]
    if order != list(range(len(order))):
        text = f"rows are in the order {some(order)}; LeRobot looks tasks up by row and returns the wrong sentence"
        found.add("tasks-order", "error", text, REPAIR, None, file)
    sentences = dict(found.tasks)
    if len(set(sentences.values())) != len(sentences):
        found.add("tasks-duplicate", "warning", "one sentence has several task_index", "merge them", None, file)
    used = found.rows.columns.get("task_index")
    if used is None:
        return
    for entry in found.entry_by_id().values():
        rows = found.rows.of_episode(entry.index)
        numbers = np.unique(used[rows]).tolist()
        _check_episode_tasks(found, entry.index, entry.tasks, numbers, sentences, file)


def _check_episode_tasks(
    found: Survey, index: int, stated: tuple[str, ...], numbers: list[Any], sentences: dict[int, str], file: str
) -> None:
    if unknown := [n for n in numbers if n not in sentences]:
        text = f"task_index {some(unknown)} is not in the task table"
        found.add("tasks-unknown", "error", text, "restore the task table", index, file)
    elif stated and numbers and set(stated) != {sentences[n] for n in numbers}:
        text = (
            f"its rows say {some(sorted({sentences[n] for n in numbers}), 3)!r}, the episode table {some(stated, 3)!r}"
        )
        mend = "the task table's sentences were exchanged, or the episode table's: restore one of them"
        found.add("tasks-mismatch", "error", text, mend, index, file)
