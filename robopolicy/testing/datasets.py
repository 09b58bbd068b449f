"""Tiny LeRobot datasets of every version for tests, written without lerobot and without the framework's own writer.

The same arguments give the same numbers and the same video packets whatever the version, so that readers can be
compared across versions exactly.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robopolicy.testing.tiny_video import encode, join

Version = Literal["v2.0", "v2.1", "v3.0"]
TASKS = ("reach the marker", "leave the marker")


@dataclass(frozen=True)
class TinyEpisode:
    """One generated episode: columns by key ``(L, D)`` and images by camera ``(L, H, W, 3)`` uint8."""

    columns: dict[str, np.ndarray]
    images: dict[str, np.ndarray]
    task_index: int

    @property
    def length(self) -> int:
        return len(self.columns["action"])


def tiny_episodes(
    episodes: int,
    length: int | Sequence[int],
    cameras: int,
    size: tuple[int, int],
    state_dim: int,
    seed: int,
    textured: bool = False,
) -> list[TinyEpisode]:
    """Smooth random motions; the action is the next state's first two values, and a square in the image shows them."""
    lengths = [length] * episodes if isinstance(length, int) else list(length)
    if len(lengths) != episodes:
        raise ValueError(f"{len(lengths)} lengths for {episodes} episodes")
    made = []
    for number, n in enumerate(lengths):
        rng = np.random.default_rng([seed, number])
        phase, rate = rng.uniform(0, 6.28, state_dim), rng.uniform(0.05, 0.2, state_dim)
        path = 0.8 * np.sin(phase + rate * np.arange(n + 1)[:, None])
        columns = {
            "observation.state": path[:-1].astype(np.float32),
            "action": path[1:, :2].astype(np.float32),
            "next.reward": (-np.abs(path[1:, :1])).astype(np.float32),
            "next.done": np.arange(1, n + 1)[:, None] == n,
        }
        images = {f"observation.images.cam{c}": _draw(path[:-1], size, c, textured) for c in range(cameras)}
        made.append(TinyEpisode(columns, images, number % len(TASKS)))
    return made


def _draw(path: np.ndarray, size: tuple[int, int], camera: int, textured: bool) -> np.ndarray:
    height, width = size
    side = max(4, min(size) // 4)
    frames = np.empty((len(path), height, width, 3), np.uint8)
    frames[...] = (40 + 30 * camera, 60, 90)
    if textured:
        frames += np.random.default_rng(camera).integers(0, 60, (height, width, 1), dtype=np.uint8)
    for t, values in enumerate(path):
        y = int((values[0] + 1) / 2 * (height - side))
        x = int((values[-1 if camera else 1] + 1) / 2 * (width - side))
        frames[t, y : y + side, x : x + side] = (220, 200 - 40 * camera, 60)
    return frames


def make_tiny_dataset(
    root: str | Path,
    version: Version = "v3.0",
    episodes: int = 3,
    length: int | Sequence[int] = 20,
    cameras: int = 1,
    size: tuple[int, int] = (32, 32),
    seed: int = 0,
    *,
    state_dim: int = 4,
    fps: int = 10,
    images: Literal["video", "image"] = "video",
    codec: str | None = None,
    episodes_per_file: int = 2,
    textured: bool = False,
) -> Path:
    """Write a small valid dataset and return ``root``.

    Features: ``observation.state`` (state_dim), ``action`` (2), ``next.reward``, ``next.done``, and
    ``observation.images.cam0...`` of ``size`` (height, width).  ``length`` is one number of frames or one an episode.
    ``images="image"`` stores PNGs in the tables; v3.0 starts a new data and video file every ``episodes_per_file``.
    ``textured`` puts grain behind the square, so that frames cost an encoder and a decoder what real ones do.
    """
    root = Path(root)
    made = tiny_episodes(episodes, length, cameras, size, state_dim, seed, textured)
    tables = [_table(e, number, sum(p.length for p in made[:number]), fps, images) for number, e in enumerate(made)]
    writer = _write_v3 if version == "v3.0" else _write_v2
    extra = writer(root, made, tables, fps, images, codec, episodes_per_file)
    if version == "v2.0":
        _write_json(root / "meta" / "stats.json", _stats(made))
    elif version == "v2.1":
        rows = [{"episode_index": i, "stats": _stats([e])} for i, e in enumerate(made)]
        _write_jsonl(root / "meta" / "episodes_stats.jsonl", rows)
    else:
        _write_json(root / "meta" / "stats.json", _stats(made))
    video = cameras > 0 and images == "video"
    info = {
        "codebase_version": version,
        "robot_type": "tiny",
        "total_episodes": episodes,
        "total_frames": sum(e.length for e in made),
        "total_tasks": len({e.task_index for e in made}),
        "chunks_size": 1000,
        "fps": fps,
        "splits": {"train": f"0:{episodes}"},
        **extra,
        "video_path": extra["video_path"] if video else None,
        "features": _features(made[0], size, images),
    }
    _write_json(root / "meta" / "info.json", info)
    return root


def _features(episode: TinyEpisode, size: tuple[int, int], images: str) -> dict[str, Any]:
    features: dict[str, Any] = {}
    for key in episode.images:
        features[key] = {"dtype": images, "shape": [*size, 3], "names": ["height", "width", "channels"]}
    for key, values in episode.columns.items():
        wide = values.shape[1] > 1
        names = [f"{key.split('.')[-1]}{i}" for i in range(values.shape[1])] if wide else None
        features[key] = {"dtype": str(values.dtype), "shape": [values.shape[1]], "names": names}
    features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    for key in ("frame_index", "episode_index", "index", "task_index"):
        features[key] = {"dtype": "int64", "shape": [1], "names": None}
    return features


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


def _stats(episodes: Sequence[TinyEpisode]) -> dict[str, Any]:
    stats: dict[str, Any] = {}
    for key in episodes[0].columns:
        values = np.concatenate([e.columns[key] for e in episodes]).astype(np.float64)
        stats[key] = {name: getattr(values, name)(axis=0).tolist() for name in ("min", "max", "mean", "std")}
        stats[key]["count"] = [len(values)]
    for key in episodes[0].images:
        pixels = np.concatenate([e.images[key] for e in episodes]).reshape(-1, 3) / 255.0
        stats[key] = {
            name: getattr(pixels, name)(axis=0).reshape(3, 1, 1).tolist() for name in ("min", "max", "mean", "std")
        }
        stats[key]["count"] = [sum(e.length for e in episodes)]
    return stats


def _write_v2(
    root: Path, made: list[TinyEpisode], tables: list[pa.Table], fps: int, images: str, codec: str | None, _: int
) -> dict[str, Any]:
    for number, (episode, table) in enumerate(zip(made, tables, strict=True)):
        path = root / f"data/chunk-000/episode_{number:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
        if images == "video":
            for key, frames in episode.images.items():
                encode(root / f"videos/chunk-000/{key}/episode_{number:06d}.mp4", frames, fps, codec)
    _write_jsonl(
        root / "meta" / "episodes.jsonl",
        [{"episode_index": i, "tasks": [TASKS[e.task_index]], "length": e.length} for i, e in enumerate(made)],
    )
    used = sorted({e.task_index for e in made})
    _write_jsonl(root / "meta" / "tasks.jsonl", [{"task_index": i, "task": TASKS[i]} for i in used])
    return {
        "total_videos": len(made) * len(made[0].images) if images == "video" else 0,
        "total_chunks": 1,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }


def _write_v3(
    root: Path,
    made: list[TinyEpisode],
    tables: list[pa.Table],
    fps: int,
    images: str,
    codec: str | None,
    episodes_per_file: int,
) -> dict[str, Any]:
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
    if images == "video":
        for key in made[0].images:
            _write_v3_videos(root, key, made, rows, fps, codec, episodes_per_file)
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


def _write_v3_videos(
    root: Path,
    key: str,
    made: list[TinyEpisode],
    rows: list[dict[str, Any]],
    fps: int,
    codec: str | None,
    episodes_per_file: int,
) -> None:
    for file, start in enumerate(range(0, len(made), episodes_per_file)):
        numbers = list(range(start, min(start + episodes_per_file, len(made))))
        parts = [root / f"part-{n}.mp4" for n in numbers]
        for n, part in zip(numbers, parts, strict=True):
            encode(part, made[n].images[key], fps, codec)
        begins = join(parts, root / f"videos/{key}/chunk-000/file-{file:03d}.mp4", fps)
        for n, part, begin in zip(numbers, parts, begins, strict=True):
            part.unlink()
            rows[n] |= {
                f"videos/{key}/chunk_index": 0,
                f"videos/{key}/file_index": file,
                f"videos/{key}/from_timestamp": begin,
                f"videos/{key}/to_timestamp": begin + made[n].length / fps,
            }


def _write_json(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2), encoding="utf-8")


def _write_jsonl(path: Path, rows: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
