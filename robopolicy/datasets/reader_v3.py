"""Finds episodes, files and tasks of a LeRobot v3.0 dataset: many episodes per parquet and per mp4.

Source: the LeRobot v3 layout.  Differs from lerobot: tasks are looked up by the value of ``task_index`` and not by row
position, ``data/file_index`` is not used (wrong at file borders after the 0.4 converter), files sort by integers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from robopolicy.core.errors import DatasetError
from robopolicy.datasets import reader_v2 as v2
from robopolicy.datasets.reader_info import Info
from robopolicy.datasets.reader_types import Defect, EpisodeEntry, Layout, VideoSpan

_NUMBERS = re.compile(r"(\d+)")


def read_layout(root: Path, info: Info, episodes: Collection[int] | None = None) -> Layout:
    """Episode table of a v3 dataset, in id order; only ``episodes`` (ids) when given.

    Raises ``DatasetError`` naming the file when a table is missing, has no footer, or lists an episode twice.
    """
    layout = Layout([], sorted_files(root / "data", "parquet"), read_tasks(root))
    if not layout.data_files:
        raise DatasetError(f"{root / 'data'}: no parquet files; the dataset is incomplete")
    if not sorted_files(root / "meta" / "episodes", "parquet") and (root / "meta" / "episodes.jsonl").is_file():
        layout.defects.append(Defect("v2-tables", "a v3 dataset with the episode table of v2 (episodes.jsonl)"))
        layout.tasks = layout.tasks or v2.read_tasks(root)
        for entry in v2.read_episode_table(root):
            if episodes is None or entry.index in episodes:
                videos = v2.episode_videos(root, info, entry.index, layout.defects)
                layout.episodes.append(EpisodeEntry(entry.index, entry.length, entry.tasks, videos))
        return layout
    table: dict[int, EpisodeEntry] = {}
    for row in _episode_rows(root):
        index = int(row["episode_index"])
        if index in table:
            raise DatasetError(f"{root / 'meta' / 'episodes'}: episode {index} is listed twice")
        if episodes is None or index in episodes:
            table[index] = _entry(root, info, row, layout.defects)
    layout.episodes = [table[i] for i in sorted(table)]
    return layout


def sorted_files(folder: Path, suffix: str) -> list[Path]:
    """Files below ``folder`` ordered by the integers in their path (``chunk-1000`` comes after ``chunk-999``)."""
    files = (p for p in folder.rglob(f"*.{suffix}") if not p.name.startswith("."))

    def order(path: Path) -> tuple[list[int], str]:
        name = path.relative_to(folder).as_posix()
        return [int(n) for n in _NUMBERS.findall(name)], name

    return sorted(files, key=order)


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a parquet file; ``DatasetError`` explains a missing file or footer."""
    try:
        return pq.ParquetFile(path, memory_map=True)
    except FileNotFoundError as e:
        raise DatasetError(f"{path}: missing; copy it again or leave its episodes out with episodes=[...]") from e
    except (ValueError, OSError) as e:  # ArrowInvalid and UnicodeDecodeError are ValueErrors
        reason = str(e).splitlines()[0]
        raise DatasetError(
            f"{path}: unreadable parquet ({reason}); the writer was probably killed before it closed the file"
        ) from e


def read_tasks(root: Path) -> dict[int, str]:
    """Task sentences by ``task_index`` from ``meta/tasks.parquet``, whatever its index column is called."""
    path = root / "meta" / "tasks.parquet"
    if not path.is_file():
        return v2.read_tasks(root)
    table = open_parquet(path).read()
    sentences = [n for n in table.column_names if n != "task_index" and pa.types.is_string(table.schema.field(n).type)]
    sentences += [n for n in table.column_names if pa.types.is_large_string(table.schema.field(n).type)]
    if "task_index" not in table.column_names or not sentences:
        raise DatasetError(f"{path}: expected a task_index column and a column of sentences, got {table.column_names}")
    name = "task" if "task" in sentences else sentences[0]
    return dict(zip(table["task_index"].to_pylist(), table[name].to_pylist(), strict=True))


def _episode_rows(root: Path) -> list[dict[str, Any]]:
    files = sorted_files(root / "meta" / "episodes", "parquet")
    if not files:
        raise DatasetError(f"{root / 'meta' / 'episodes'}: no episode table; the dataset was never finished")
    rows: list[dict[str, Any]] = []
    for path in files:
        file = open_parquet(path)
        # The statistics columns are most of the file; they are recomputed from the data instead.
        names = [n for n in file.schema_arrow.names if not n.startswith("stats/")]
        for need in ("episode_index", "length"):
            if need not in names:
                raise DatasetError(f"{path}: no column '{need}'")
        try:
            rows.extend(file.read(columns=names).to_pylist())
        except (ValueError, OSError) as e:
            raise DatasetError(f"{path}: damaged pages ({str(e).splitlines()[0]}); restore the file") from e
    if not rows:
        raise DatasetError(f"{root / 'meta' / 'episodes'}: no episodes")
    return rows


def _entry(root: Path, info: Info, row: Mapping[str, Any], defects: list[Defect]) -> EpisodeEntry:
    index = int(row["episode_index"])
    videos: dict[str, VideoSpan] = {}
    for camera in info.cameras:
        if camera.storage == "video" and (span := _span(root, info, row, camera.source)) is not None:
            videos[camera.key] = span
    missing = [c.key for c in info.cameras if c.storage == "video" and c.key not in videos]
    if missing:
        for key, span in v2.episode_videos(root, info, index, defects).items():
            if key in missing:
                videos[key] = span
                _note_per_episode_files(defects)
    return EpisodeEntry(index, int(row["length"]), tuple(row.get("tasks") or ()), videos)


def _span(root: Path, info: Info, row: Mapping[str, Any], source: str) -> VideoSpan | None:
    chunk, file = row.get(f"videos/{source}/chunk_index"), row.get(f"videos/{source}/file_index")
    if chunk is None or file is None:
        return None
    values = {"video_key": source, "chunk_index": int(chunk), "file_index": int(file)}
    # A template that also asks for the episode belongs to a set with one file per episode.
    values |= {
        "episode_index": int(row["episode_index"]),
        "episode_chunk": int(row["episode_index"]) // info.chunks_size,
    }
    try:
        path = info.video_path.format(**values)
    except (KeyError, IndexError, ValueError) as e:
        raise DatasetError(f"meta/info.json: video_path {info.video_path!r} cannot be filled ({e})") from e
    for candidate in (path, path.replace("videos/", "video/", 1)):
        if (root / candidate).is_file():
            return VideoSpan(root / candidate, float(row.get(f"videos/{source}/from_timestamp") or 0.0))
    return None


def _note_per_episode_files(defects: list[Defect]) -> None:
    if not any(d.code == "video-per-episode" for d in defects):
        defects.append(Defect("video-per-episode", "a v3 dataset with one mp4 per episode; read as such"))
