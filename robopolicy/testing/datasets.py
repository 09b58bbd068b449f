"""Tiny LeRobot datasets of every version for tests, written without lerobot and without the framework's own writer.

The same arguments give the same numbers and the same video packets whatever the version, so that readers can be
compared across versions exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from robopolicy.testing.tiny_episodes import TASKS, TinyEpisode, tiny_episodes
from robopolicy.testing.tiny_layouts import Plan, write_json, write_jsonl, write_v2, write_v3

__all__ = ["TASKS", "TinyEpisode", "make_tiny_dataset", "tiny_episodes"]

Version = Literal["v2.0", "v2.1", "v3.0"]


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
    plan = Plan(root, made, fps, images, codec, episodes_per_file)
    extra = write_v3(plan) if version == "v3.0" else write_v2(plan)
    if version == "v2.1":
        rows = [{"episode_index": i, "stats": _stats([e])} for i, e in enumerate(made)]
        write_jsonl(root / "meta" / "episodes_stats.jsonl", rows)
    else:
        write_json(root / "meta" / "stats.json", _stats(made))
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
    write_json(root / "meta" / "info.json", info)
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
