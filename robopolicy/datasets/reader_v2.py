"""Finds episodes, files and tasks of a LeRobot v2.0 / v2.1 dataset: one parquet and one mp4 a camera per episode.

Source: the LeRobot v2 layout (jsonl tables, path templates with ``episode_chunk`` and ``episode_index``).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from robopolicy.core.errors import DatasetError
from robopolicy.datasets.reader_info import V2_DATA, V2_VIDEO, Info
from robopolicy.datasets.reader_types import Defect, EpisodeEntry, Layout, VideoSpan

# Where a file may be when the template does not lead to it.
VIDEO_FALLBACKS = (
    V2_VIDEO,
    "videos/{video_key}/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.mp4",
    V2_VIDEO.replace("videos/", "video/", 1),
    "videos/{video_key}/episode_{episode_index:06d}.mp4",
)
DATA_FALLBACKS = (V2_DATA, "data/episode_{episode_index:06d}.parquet")


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a jsonl file; ``DatasetError`` names file and line when one is damaged."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as e:
        raise DatasetError(f"{path}: missing; the episode and task tables of LeRobot v2 are kept there") from e
    except UnicodeDecodeError as e:
        raise DatasetError(f"{path}: not UTF-8 text ({e}); restore the file") from e
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except ValueError as e:
            raise DatasetError(f"{path}:{number}: not valid JSON ({e}); restore the line") from e


def read_layout(root: Path, info: Info, episodes: Collection[int] | None = None) -> Layout:
    """Episode table of a v2 dataset, in id order; only ``episodes`` (ids) when given.

    Files are located but not opened; a missing one is left out of the entry and reported by the reader.
    """
    layout = Layout([], [], read_tasks(root))
    for entry in read_episode_table(root):
        if episodes is None or entry.index in episodes:
            videos = episode_videos(root, info, entry.index, layout.defects)
            layout.episodes.append(EpisodeEntry(entry.index, entry.length, entry.tasks, videos))
            layout.data_files.append(_data_file(root, info, entry.index, layout.defects))
    return layout


def read_tasks(root: Path) -> dict[int, str]:
    """Task sentences by ``task_index`` from ``meta/tasks.jsonl``."""
    path = root / "meta" / "tasks.jsonl"
    if not path.is_file():
        return {}
    try:
        return {int(row["task_index"]): str(row["task"]) for row in read_jsonl(path)}
    except (KeyError, TypeError, ValueError) as e:
        raise DatasetError(f"{path}: a line needs task_index and task ({e!r}); restore the file") from e


def read_episode_table(root: Path) -> list[EpisodeEntry]:
    """Episodes of ``meta/episodes.jsonl`` sorted by id, without files."""
    path = root / "meta" / "episodes.jsonl"
    table: dict[int, EpisodeEntry] = {}
    for row in read_jsonl(path):
        try:
            entry = EpisodeEntry(int(row["episode_index"]), int(row["length"]), tuple(row.get("tasks") or ()))
        except (KeyError, TypeError, ValueError) as e:
            raise DatasetError(f"{path}: an episode needs episode_index and length, got {str(row)[:100]}") from e
        if entry.index in table:
            raise DatasetError(f"{path}: episode {entry.index} is listed twice; remove one of the lines")
        table[entry.index] = entry
    if not table:
        raise DatasetError(f"{path}: no episodes")
    return [table[i] for i in sorted(table)]


def fill(template: str, info: Info, episode: int, key: str = "") -> str:
    """Path from a template of either version, for a dataset with one file per episode."""
    chunk = episode // info.chunks_size
    values = {
        "episode_chunk": chunk,
        "chunk_index": chunk,
        "episode_index": episode,
        "file_index": episode,
        "video_key": key,
    }
    try:
        return template.format(**values)
    except (KeyError, IndexError, ValueError) as e:
        raise DatasetError(f"meta/info.json: path template {template!r} cannot be filled ({e})") from e


def episode_videos(root: Path, info: Info, episode: int, defects: list[Defect]) -> dict[str, VideoSpan]:
    """Existing per-episode mp4 of every video camera (each starts at second 0)."""
    videos: dict[str, VideoSpan] = {}
    for camera in info.cameras:
        if camera.storage != "video":
            continue
        found = _first_existing(root, (info.video_path, *VIDEO_FALLBACKS), info, episode, camera.source)
        if found is None:
            continue
        if found != fill(info.video_path, info, episode, camera.source):
            _once(defects, Defect("template", "video files are not where info.json's video_path says", file=found))
        videos[camera.key] = VideoSpan(root / found, 0.0)
    return videos


def _data_file(root: Path, info: Info, episode: int, defects: list[Defect]) -> Path:
    found = _first_existing(root, (info.data_path, *DATA_FALLBACKS), info, episode)
    stated = fill(info.data_path, info, episode)
    if found is not None and found != stated:
        _once(defects, Defect("template", "data files are not where info.json's data_path says", file=found))
    return root / (found or stated)


def _first_existing(root: Path, templates: tuple[str, ...], info: Info, episode: int, key: str = "") -> str | None:
    for template in templates:
        path = fill(template, info, episode, key)
        if (root / path).is_file():
            return path
    return None


def _once(defects: list[Defect], defect: Defect) -> None:
    if not any(d.code == defect.code and d.message == defect.message for d in defects):
        defects.append(defect)
