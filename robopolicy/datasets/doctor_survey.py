"""Gathers a dataset of any version for the doctor without stopping at damage: what cannot be read becomes a finding."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from robopolicy.core.errors import DatasetError
from robopolicy.datasets import reader_v2
from robopolicy.datasets.doctor_survey_rows import gather_rows
from robopolicy.datasets.doctor_types import RESTORE, Survey, TableEntry
from robopolicy.datasets.reader_info import Info, read_info
from robopolicy.datasets.reader_types import VideoSpan
from robopolicy.datasets.reader_v3 import open_parquet, sorted_files

# Whole numbers that each line of a v2 table must have.
NUMBERS = {
    "episodes.jsonl": ("episode_index", "length"),
    "episodes_stats.jsonl": ("episode_index",),
    "tasks.jsonl": ("task_index",),
}


def survey(root: Path) -> Survey:
    """Read all tables of the dataset at ``root``.  Raises ``DatasetError`` only when there is no usable info.json."""
    info, defects = read_info(root)
    found = Survey(root, info)
    for defect in defects:
        found.add(defect.code, "warning", defect.message, "edit meta/info.json", defect.episode, defect.file)
    found.entries = list(_entries_v3(found) if info.major == 3 else _entries_v2(found))
    found.tasks = _tasks(found)
    found.rows = gather_rows(found)
    found.stats = _global_stats(found)
    return found


def _entries_v2(found: Survey) -> Iterator[TableEntry]:
    root, info = found.root, found.info
    stats: dict[int, dict[str, Any]] = {}
    for row in _jsonl(found, "episodes_stats.jsonl") if info.version != "v2.0" else ():
        stats[row["episode_index"]] = row.get("stats") or {}
    for row in _jsonl(found, "episodes.jsonl"):
        index = row["episode_index"]
        entry = TableEntry(index, row["length"], tuple(row.get("tasks") or ()), stats=stats.get(index))
        existing = reader_v2.episode_videos(root, info, index, [])
        for camera in (c for c in info.cameras if c.storage == "video"):
            stated = VideoSpan(root / reader_v2.fill(info.video_path, info, index, camera.source), 0.0)
            entry.videos[camera.key] = existing.get(camera.key, stated)
        yield entry


def _jsonl(found: Survey, name: str) -> list[dict[str, Any]]:
    path = found.root / "meta" / name
    if not path.is_file():
        if name == "episodes.jsonl":
            found.add("table-missing", "error", "missing; no episode can be found without it", RESTORE, file=path)
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            row = json.loads(line) if line.strip() else None
            if row is not None:
                for key in NUMBERS[name]:
                    row[key] = int(row[key])
                rows.append(row)
        except (ValueError, KeyError, TypeError) as e:
            found.add("table-damaged", "error", f"line {number}: {e}", "restore the line from a copy", file=path)
    return rows


def _entries_v3(found: Survey) -> Iterator[TableEntry]:
    files = sorted_files(found.root / "meta" / "episodes", "parquet")
    if not files:
        path = found.root / "meta" / "episodes"
        found.add("table-missing", "error", "no episode table", "restore meta/episodes from a copy", file=path)
    for path in files:
        table = _read_table(found, path)
        if table is None:
            continue
        if not {"episode_index", "length"} <= set(table.column_names):
            found.add("table-damaged", "error", "no episode_index or length column", RESTORE, file=path)
            continue
        for row in table.to_pylist():
            yield _entry_v3(found.root, found.info, row)


def _entry_v3(root: Path, info: Info, row: dict[str, Any]) -> TableEntry:
    entry = TableEntry(int(row["episode_index"]), int(row["length"]), tuple(row.get("tasks") or ()))
    if row.get("dataset_from_index") is not None and row.get("dataset_to_index") is not None:
        entry.range = int(row["dataset_from_index"]), int(row["dataset_to_index"])
    for camera in (c for c in info.cameras if c.storage == "video"):
        place: dict[str, Any] = {
            n: row.get(f"videos/{camera.source}/{n}") for n in ("chunk_index", "file_index", "from_timestamp")
        }
        if any(v is None for v in place.values()):
            continue
        path = reader_v2.fill(info.video_path, info, entry.index, camera.source)
        if "{file_index" in info.video_path:
            path = info.video_path.format(video_key=camera.source, **{k: v for k, v in place.items() if "index" in k})
        entry.videos[camera.key] = VideoSpan(root / path, float(place["from_timestamp"]))
        if (stop := row.get(f"videos/{camera.source}/to_timestamp")) is not None:
            entry.video_stops[camera.key] = float(stop)
    for name in row:
        if name.startswith("stats/") and row[name] is not None:
            _, key, what = name.split("/")
            entry.stats = entry.stats or {}
            entry.stats.setdefault(key, {})[what] = row[name]
    return entry


def _read_table(found: Survey, path: Path) -> pa.Table | None:
    try:
        with open_parquet(path) as file:
            table = file.read().replace_schema_metadata(None)
        table.validate(full=True)
        return table
    except (DatasetError, pa.ArrowException, OSError) as e:
        reason = str(e).splitlines()[0].removeprefix(f"{path}: ")
        found.add("parquet-unreadable", "error", reason, RESTORE, file=path)
        return None


def _tasks(found: Survey) -> list[tuple[int, str]]:
    """(task_index, sentence) in row order, which is what LeRobot looks tasks up by."""
    path = found.root / "meta" / "tasks.parquet"
    if found.info.major == 2 or not path.is_file():
        rows = _jsonl(found, "tasks.jsonl")
        return [(r["task_index"], str(r["task"])) for r in rows if "task" in r]
    if (table := _read_table(found, path)) is None:
        return []
    sentences = [n for n in table.column_names if n != "task_index"]
    if "task_index" not in table.column_names or not sentences:
        mend = "write it again with columns task_index and task"
        found.add("tasks-damaged", "error", f"columns {table.column_names}", mend, file=path)
        return []
    if b"pandas" not in (pq.read_schema(path).metadata or {}):
        text = "the sentence is not marked as the pandas index; LeRobot returns numbers as tasks"
        found.add("tasks-index", "warning", text, "robopolicy data doctor --repair", file=path)
    return list(zip(table["task_index"].to_pylist(), table[sentences[0]].to_pylist(), strict=True))


def _global_stats(found: Survey) -> dict[str, dict[str, Any]] | None:
    path = found.root / "meta" / "stats.json"
    if not path.is_file():
        return None
    try:
        stats = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as e:
        found.add("stats-damaged", "error", f"not valid JSON ({e})", "robopolicy data doctor --repair", file=path)
        return None
    return stats if isinstance(stats, dict) else None
