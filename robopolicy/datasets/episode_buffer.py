"""The open episode of a recording: numbers in memory, video frames already encoded into a folder aside."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from robopolicy.core import io
from robopolicy.core.errors import DatasetError
from robopolicy.datasets.episode_stats import PixelHistogram, Stats, describe
from robopolicy.datasets.layout_v3 import VIDEO_PATH, chunk_and_file
from robopolicy.datasets.video_writer import VideoWriter, count_frames, decode_some, describe_video
from robopolicy.datasets.writer_features import column, png_bytes

STAGING = f"{io.PARTIAL}episode"
ADOPTED_SAMPLE = 100  # frames of an adopted video that are decoded for its statistics
NO_NUMBERS = ("image", "video", "string")


class EpisodeBuffer:
    """Frames of one episode until it is saved or discarded.

    ``features`` are those of ``info.json`` (the mapping is shared, so features declared later are seen);
    ``cameras`` the keys of image features, whatever their storage.
    """

    def __init__(
        self, root: Path, fps: float, features: Mapping[str, Mapping[str, Any]], cameras: Sequence[str], encoder: str
    ) -> None:
        self.root = root
        self.fps = fps
        self.features = features
        self.encoder = encoder
        self.tasks: list[str] = []
        self.pixels = {key: PixelHistogram() for key in cameras}
        self._rows: dict[str, list[Any]] = {}
        self.video_info: dict[str, dict[str, Any]] = {}
        self._videos: dict[str, VideoWriter] = {}
        self.adopted: dict[str, Path] = {}

    def __len__(self) -> int:
        return len(self.tasks)

    def add(self, values: Mapping[str, Any], task: str) -> None:
        """Append one checked frame: images (3, H, W) uint8, other features in their declared shapes."""
        for key, value in values.items():
            if key in self.pixels:
                self.pixels[key].add(value)
            if self.features[key]["dtype"] == "video":
                self._video(key).add(value)
            else:
                stored = {"bytes": png_bytes(value), "path": None} if key in self.pixels else value
                self._rows.setdefault(key, []).append(stored)
        self.tasks.append(task)

    def _video(self, key: str) -> VideoWriter:
        if key not in self._videos:
            height, width, _ = self.features[key]["shape"]
            path = self.root / STAGING / f"{key}.mp4"
            self._videos[key] = VideoWriter(path, height, width, self.fps, self.encoder)
        return self._videos[key]

    def adopt_video(self, key: str, source: Path) -> None:
        """Take over an existing mp4 as the episode's frames of ``key``, byte for byte."""
        path = self.root / STAGING / f"{key}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
        frames = count_frames(path)
        for image in decode_some(path, max(1, frames // ADOPTED_SAMPLE)):
            self.pixels[key].add(image)
        self.adopted[key] = path

    def land_videos(self, episode: int) -> None:
        """Finish and check the mp4 files, flush them to disk, and move each to its place for ``episode``."""
        for video in self._videos.values():
            video.close()
        paths = {**{key: video.path for key, video in self._videos.items()}, **self.adopted}
        for key, path in self.adopted.items():
            if (frames := count_frames(path)) != len(self):
                raise DatasetError(f"{key}: the video of episode {episode} has {frames} frames, expected {len(self)}")
        io.fault_point("before_videos")
        for key, path in paths.items():
            self.video_info[key] = describe_video(path, self.fps)
            chunk, file = chunk_and_file(episode)
            target = self.root / VIDEO_PATH.format(video_key=key, chunk_index=chunk, file_index=file)
            target.parent.mkdir(parents=True, exist_ok=True)
            io.fsync_path(path)
            path.rename(target)
            io.fsync_path(target.parent)
            io.fault_point("after_video")
        shutil.rmtree(self.root / STAGING, ignore_errors=True)

    def rows(self, episode: int, start: int, tasks: Sequence[str]) -> tuple[pa.Table, dict[str, Stats]]:
        """Data rows (columns in feature order, no videos) and the statistics of all features.

        ``start`` is the global row of the first frame; ``tasks`` the sentences in ``task_index`` order.
        """
        steps = np.arange(len(self))
        task_index = {t: i for i, t in enumerate(tasks)}
        values: dict[str, Any] = {
            **self._rows,
            "timestamp": (steps / self.fps).astype(np.float32),
            "frame_index": steps,
            "episode_index": np.full(len(self), episode),
            "index": start + steps,
            "task_index": np.array([task_index[t] for t in self.tasks]),
        }
        table = pa.table({k: column(values[k], f) for k, f in self.features.items() if f["dtype"] != "video"})
        stats = {k: describe(np.stack(values[k])) for k, f in self.features.items() if f["dtype"] not in NO_NUMBERS}
        return table, {**stats, **{key: seen.stats() for key, seen in self.pixels.items()}}

    def abort(self) -> None:
        """Delete what was encoded."""
        for video in self._videos.values():
            video.abort()
        shutil.rmtree(self.root / STAGING, ignore_errors=True)
