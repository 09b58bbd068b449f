"""Reads ``meta/info.json`` of LeRobot v2.0, v2.1 and v3.0 and cleans its features.

Source: the LeRobot dataset format (`info.json`).  Differs from lerobot's own parser in that spellings met in public
datasets (names nested or in dicts, missing default columns, keys without prefix, channel-first shapes) are named as
defects and read on where that is safe.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robopolicy.core.errors import DatasetError
from robopolicy.datasets.reader_types import Defect, Feature, Storage

DEFAULT_COLUMNS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
# Keys of sets that were written without LeRobot's prefixes, and the name they get here.
ALIASES = {
    "actions": "action",
    "state": "observation.state",
    "image": "observation.images.image",
    "wrist_image": "observation.images.wrist_image",
}
V2_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
V2_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
V3_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
V3_VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


@dataclass(frozen=True)
class Info:
    """The part of info.json that reading needs.  ``fps`` in Hz; ``raw`` is the file as it is."""

    version: str
    major: int
    fps: float
    chunks_size: int
    data_path: str
    video_path: str
    features: Mapping[str, Feature]
    raw: Mapping[str, Any]

    @property
    def cameras(self) -> tuple[Feature, ...]:
        return tuple(f for f in self.features.values() if f.is_camera)


def load_json(path: Path) -> Any:
    """Parse a JSON file of a dataset; ``DatasetError`` names the file when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise DatasetError(f"{path}: missing; a LeRobot dataset needs it (is this the dataset's root folder?)") from e
    except (ValueError, UnicodeDecodeError) as e:
        raise DatasetError(f"{path}: not valid JSON ({e}); restore the file") from e


def read_info(root: Path) -> tuple[Info, list[Defect]]:
    """Info of the dataset at ``root`` and the defects found in it.

    Raises ``DatasetError`` when the file is missing, is of LeRobot v1, or lacks features or a frame rate.
    """
    path = root / "meta" / "info.json"
    raw = load_json(path)
    if not isinstance(raw, dict) or not isinstance(raw.get("features"), dict) or not raw["features"]:
        raise DatasetError(f"{path}: no 'features' table; restore the file")
    defects: list[Defect] = []
    version, major = _version(root, raw, defects)
    fps = raw.get("fps")
    if not isinstance(fps, (int, float)) or isinstance(fps, bool) or not fps > 0:
        raise DatasetError(f"{path}: expected 'fps' > 0, got {fps!r}")
    try:
        features = _features(raw["features"], defects)
        chunks_size = int(raw.get("chunks_size") or 1000)
    except (TypeError, ValueError) as e:
        raise DatasetError(f"{path}: a shape, names or chunks_size makes no sense ({e}); restore the file") from e
    return (
        Info(
            version=version,
            major=major,
            fps=float(fps),
            chunks_size=chunks_size,
            data_path=raw.get("data_path") or (V3_DATA if major == 3 else V2_DATA),
            video_path=raw.get("video_path") or (V3_VIDEO if major == 3 else V2_VIDEO),
            features=features,
            raw=raw,
        ),
        defects,
    )


def _version(root: Path, raw: Mapping[str, Any], defects: list[Defect]) -> tuple[str, int]:
    version = raw.get("codebase_version")
    if version is None:
        version = "v3.0" if (root / "meta" / "episodes").is_dir() else "v2.1"
        defects.append(Defect("no-version", f"info.json names no codebase_version; read as {version} by its files"))
    major = str(version).lstrip("v").split(".")[0]
    if major not in ("2", "3"):
        raise DatasetError(
            f"{root}: codebase_version {version!r}; expected v2.0, v2.1 or v3.0 (convert older sets with lerobot first)"
        )
    return str(version), int(major)


def _features(raw: Mapping[str, Any], defects: list[Defect]) -> dict[str, Feature]:
    features: dict[str, Feature] = {}
    for source, entry in raw.items():
        key = source
        if source in ALIASES and ALIASES[source] not in raw:
            key = ALIASES[source]
            defects.append(Defect("key-without-prefix", f"feature '{source}' is read as '{key}'"))
        feature = _feature(key, source, entry, defects)
        if feature is not None:
            features[key] = feature
    absent = [k for k in DEFAULT_COLUMNS if k not in raw]
    if absent:
        defects.append(Defect("default-columns-undeclared", f"info.json's features lack {', '.join(absent)}"))
    for key in absent:
        features[key] = Feature(key, key, DEFAULT_COLUMNS[key], (1,), "column")
    return features


def _feature(key: str, source: str, entry: Any, defects: list[Defect]) -> Feature | None:
    if not isinstance(entry, dict) or "dtype" not in entry:
        raise DatasetError(f"meta/info.json: feature '{source}' has no dtype")
    dtype = str(entry["dtype"])
    raw_shape = entry.get("shape") or [1]
    shape = tuple(int(s) for s in (raw_shape if isinstance(raw_shape, (list, tuple)) else [raw_shape]))
    storage: Storage = {"video": "video", "image": "image", "string": "string"}.get(dtype, "column")  # type: ignore[assignment]
    if dtype == "uint8" and len(shape) == 3:
        storage = "video"  # settled by the reader, which sees whether the table has such a column
        defects.append(Defect("camera-dtype", f"feature '{source}' is a camera but has dtype uint8"))
    if storage in ("video", "image"):
        if _is_depth(entry):
            defects.append(Defect("depth-video", f"feature '{source}' is an encoded depth map; it is left out"))
            return None
        return Feature(key, source, dtype, _camera_shape(source, shape, entry.get("names")), storage)
    names = flat_names(entry.get("names"))
    if names is not None and (len(shape) != 1 or len(names) != shape[0]):
        if len(shape) == 1:
            defects.append(Defect("names-length", f"feature '{source}' has {len(names)} names for {shape[0]} values"))
        names = None
    return Feature(key, source, dtype, shape, storage, names)


def _is_depth(entry: Mapping[str, Any]) -> bool:
    details = entry.get("info") or entry.get("video_info") or {}
    return bool(details.get("video.is_depth_map") or details.get("is_depth_map"))


def _camera_shape(source: str, shape: tuple[int, ...], names: Any) -> tuple[int, int, int]:
    """``(3, H, W)`` from a channel-last or channel-first shape, by the axis names and else by the small axis."""
    if len(shape) == 2:
        shape = (*shape, 3)
    if len(shape) != 3:
        raise DatasetError(f"meta/info.json: camera '{source}' has shape {shape}; expected (height, width, 3)")
    axes = [n.rstrip("s") for n in flat_names(names) or ()]
    first = axes[0] == "channel" if "channel" in axes else shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4)
    height, width = (shape[1], shape[2]) if first else (shape[0], shape[1])
    return 3, height, width


def flat_names(names: Any) -> tuple[str, ...] | None:
    """Channel names from any of the spellings in use: list, list in a list, dict of lists, dict name -> position."""
    if names is None:
        return None
    if isinstance(names, str):
        return (names,)
    if isinstance(names, dict):
        if names and all(isinstance(v, int) for v in names.values()):
            return tuple(sorted(names, key=lambda n: names[n]))
        names = list(names.values())
    flat: list[str] = []
    for entry in names:
        flat.extend(flat_names(entry) or ()) if isinstance(entry, (list, tuple, dict)) else flat.append(str(entry))
    return tuple(flat) or None
