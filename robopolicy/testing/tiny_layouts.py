"""Writes the tables and videos of tiny datasets in the layouts of LeRobot v2 and v3."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robopolicy.testing.tiny_episodes import TASKS, TinyEpisode
from robopolicy.testing.tiny_video import encode, join


@dataclass(frozen=True)
class Plan:
    """What to write and how; ``images`` is "video" or "image"."""

    root: Path
    episodes: list[TinyEpisode]
    fps: int
    images: str
    codec: str | None
    episodes_per_file: int

    def tables(self) -> list[pa.Table]:
        """One table an episode, with LeRobot's bookkeeping columns."""
        firsts = np.cumsum([0, *(e.length for e in self.episodes)])
        return [_table(e, i, int(firsts[i]), self.fps, self.images) for i, e in enumerate(self.episodes)]


def write_json(path: Path, data: Any) -> None:
    """Write indented JSON, making folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2), encoding="utf-8")


def write_jsonl(path: Path, rows: Sequence[Any]) -> None:
    """Write one JSON object a line, making folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


def write_v2(plan: Plan) -> dict[str, Any]:
    """Tables and videos of a v2 dataset, one file an episode; returns the fields of info.json that are v2's own."""
    root, made = plan.root, plan.episodes
    for number, (episode, table) in enumerate(zip(made, plan.tables(), strict=True)):
        path = root / f"data/chunk-000/episode_{number:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
        if plan.images == "video":
            for key, frames in episode.images.items():
                encode(root / f"videos/chunk-000/{key}/episode_{number:06d}.mp4", frames, plan.fps, plan.codec)
    write_jsonl(
        root / "meta" / "episodes.jsonl",
        [{"episode_index": i, "tasks": [TASKS[e.task_index]], "length": e.length} for i, e in enumerate(made)],
    )
    used = sorted({e.task_index for e in made})
    write_jsonl(root / "meta" / "tasks.jsonl", [{"task_index": i, "task": TASKS[i]} for i in used])
    return {
        "total_videos": len(made) * len(made[0].images) if plan.images == "video" else 0,
        "total_chunks": 1,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }


def write_v3(plan: Plan) -> dict[str, Any]:
    """Tables and videos of a v3 dataset, several episodes a file; returns the fields of info.json that are v3's own."""
    root, made, tables, episodes_per_file = plan.root, plan.episodes, plan.tables(), plan.episodes_per_file
    rows: list[dict[str, Any]] = []
    first = 0
    for number, episode in enumerate(made):
        rows.append(_episode_row(number, episode, first, number // episodes_per_file))
        first += episode.length
    for file, start in enumerate(range(0, len(made), episodes_per_file)):
        path = root / f"data/chunk-000/file-{file:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(path, tables[0].schema) as writer:
            for table in tables[start : start + episodes_per_file]:
                writer.write_table(table)
    if plan.images == "video":
        for key in made[0].images:
            _write_v3_videos(plan, key, rows)
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    used = sorted({e.task_index for e in made})
    tasks = pa.table({"task_index": used, "task": [TASKS[i] for i in used]})
    # lerobot finds the sentences only through the pandas metadata that makes them the index.
    described = {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object"}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [{**described, "metadata": None}],
        "pandas_version": "2.0.0",
    }
    pq.write_table(tasks.replace_schema_metadata({"pandas": json.dumps(pandas)}), root / "meta/tasks.parquet")
    return {
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }


def _episode_row(number: int, episode: TinyEpisode, first: int, file: int) -> dict[str, Any]:
    return {
        "episode_index": number,
        "tasks": [TASKS[episode.task_index]],
        "length": episode.length,
        "data/chunk_index": 0,
        "data/file_index": file,
        "dataset_from_index": first,
        "dataset_to_index": first + episode.length,
        "meta/episodes/chunk_index": 0,
        "meta/episodes/file_index": 0,
    }


def _write_v3_videos(plan: Plan, key: str, rows: list[dict[str, Any]]) -> None:
    root, made, fps, episodes_per_file = plan.root, plan.episodes, plan.fps, plan.episodes_per_file
    for file, start in enumerate(range(0, len(made), episodes_per_file)):
        numbers = list(range(start, min(start + episodes_per_file, len(made))))
        parts = [root / f"part-{n}.mp4" for n in numbers]
        for n, part in zip(numbers, parts, strict=True):
            encode(part, made[n].images[key], fps, plan.codec)
        begins = join(parts, root / f"videos/{key}/chunk-000/file-{file:03d}.mp4", fps)
        for n, part, begin in zip(numbers, parts, begins, strict=True):
            part.unlink()
            rows[n] |= {
                f"videos/{key}/chunk_index": 0,
                f"videos/{key}/file_index": file,
                f"videos/{key}/from_timestamp": begin,
                f"videos/{key}/to_timestamp": begin + made[n].length / fps,
            }


def _table(episode: TinyEpisode, number: int, first: int, fps: int, images: str) -> pa.Table:
    n = episode.length
    data: dict[str, Any] = {}
    if images == "image":
        for key, frames in episode.images.items():
            cells = [{"bytes": _png(f), "path": f"frame-{t:06d}.png"} for t, f in enumerate(frames)]
            data[key] = pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    for key, values in episode.columns.items():
        if values.shape[1] == 1:
            data[key] = pa.array(values[:, 0])
        else:
            data[key] = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    data["timestamp"] = pa.array((np.arange(n) / fps).astype(np.float32))
    data["frame_index"] = pa.array(np.arange(n))
    data["episode_index"] = pa.array(np.full(n, number))
    data["index"] = pa.array(np.arange(first, first + n))
    data["task_index"] = pa.array(np.full(n, episode.task_index))
    return pa.table(data)


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
