"""Frames of a dataset by row, whether they are in videos or in tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from robopolicy.core.errors import DatasetError, did_you_mean
from robopolicy.datasets.reader_images import TableImages
from robopolicy.datasets.reader_table import Tables
from robopolicy.datasets.reader_types import Episode, Feature
from robopolicy.datasets.video import VideoStore, resize_rgb


class FrameReader:
    """Decodes frames of any camera; keeps at most ``max_open_videos`` containers open."""

    def __init__(self, root: Path, tables: Tables, fps: float, max_open_videos: int) -> None:
        self.root = root
        self.fps = fps
        self._tables = tables
        self._videos = VideoStore(fps, max_open_videos)
        self._images = TableImages(root, tables.files)

    def read(
        self, camera: str, rows: np.ndarray, size: tuple[int, int] | None = None, videos: VideoStore | None = None
    ) -> np.ndarray:
        """Frames ``(n, 3, H, W)`` uint8 at ``rows`` ``(n,)`` in any order, repeats allowed.

        ``size`` is (height, width), the recorded one when None; ``videos`` are the caller's own containers, for
        decoding in several threads at once.
        """
        feature = self._tables.features.get(camera)
        if feature is None or not feature.is_camera:
            cameras = [k for k, f in self._tables.features.items() if f.is_camera]
            raise DatasetError(f"{self.root}: no camera '{camera}'" + did_you_mean(camera, cameras))
        total = len(self._tables.physical)
        unique, inverse = np.unique(np.asarray(rows, dtype=np.int64), return_inverse=True)
        if unique.size and not 0 <= unique[0] <= unique[-1] < total:
            raise DatasetError(f"rows must lie in 0..{total - 1}, got {unique[0]}..{unique[-1]}")
        height, width = size or feature.shape[1:]
        out = np.empty((len(unique), 3, height, width), np.uint8)
        for i, image in enumerate(self._rgb(feature, unique, videos or self._videos)):
            if size is None and image.shape[:2] != (height, width):
                raise DatasetError(
                    f"{self.root}: '{camera}' has frames of {image.shape[:2]}, info.json says {(height, width)}; "
                    "give a size to have them resized"
                )
            out[i] = resize_rgb(image, size).transpose(2, 0, 1)
        ordered = len(unique) == len(inverse) and bool(np.all(np.diff(inverse) == 1))
        return out if ordered else out[inverse]

    def sources(self, camera: str, episode: Episode) -> list[tuple[Path, float, int]]:
        """Where an episode's frames of ``camera`` come from: (file, start in it, first frame number).

        The start is seconds for a video and a row for pictures in tables (then usually one file, several if the episode
        goes on in the next).
        """
        tables = self._tables
        if tables.features[camera].storage == "video":
            span = episode.videos[camera]
            return [(span.path, span.start, int(tables.frame_index[episode.start]))]
        first, last = int(tables.physical[episode.start]), int(tables.physical[episode.stop - 1])
        return [
            (f.path, float(max(first, f.first) - f.first), 0)
            for f in tables.files
            if f.first <= last and f.first + f.rows > first
        ]

    def _rgb(self, feature: Feature, rows: np.ndarray, videos: VideoStore) -> Iterator[np.ndarray]:
        tables = self._tables
        if feature.storage == "image":
            yield from self._images.read(feature.source, tables.physical[rows])
            return
        owner = np.searchsorted(tables.starts, rows, side="right") - 1
        for number in np.unique(owner):
            span = tables.episodes[number].videos[feature.key]
            yield from videos.read(span.path, span.start + tables.frame_index[rows[owner == number]] / self.fps)
