"""Reads LeRobot v2.0 and v2.1 datasets for conversion to v3.0; the mp4 files are taken over byte for byte."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.core.errors import DatasetError
from robopolicy.datasets.convert_source import SourceEpisode
from robopolicy.datasets.reader import Reader
from robopolicy.datasets.reader_info import DEFAULT_COLUMNS


class LeRobotSource:
    """An older LeRobot dataset as a ``Source``."""

    def __init__(self, path: Path, fps: float | None = None, task: str | None = None) -> None:
        self._reader = reader = Reader(path)
        if reader.info.major != 2:
            raise DatasetError(f"{path}: is {reader.version} already; only v2.0 and v2.1 are converted")
        if fps is not None and fps != reader.fps:
            raise DatasetError(f"{path}: was recorded at {reader.fps} Hz; --fps {fps} would falsify its time stamps")
        self._task = task
        self.fps = reader.fps
        self.robot_type = reader.info.raw.get("robot_type")
        self.observation_spec = reader.observation_spec()
        self.action_space = reader.action_space()
        self.num_episodes = len(reader.episodes)
        self.origin: Mapping[str, Any] = {"format": reader.version, "name": reader.root.name}
        observed = {*self.observation_spec.keys, "action", *DEFAULT_COLUMNS}
        self._extras = [k for k in reader.columns if k not in observed]
        self.extras = {k: self._declare(k) for k in self._extras}
        storages = {reader.features[k].storage for k in reader.camera_keys}
        if len(storages) > 1:
            raise DatasetError(f"{path}: some cameras are videos and some images in tables; convert one kind at a time")
        self._videos = storages == {"video"}
        self.exact_images = storages == {"image"}

    def _declare(self, key: str) -> dict[str, Any]:
        feature, values = self._reader.features[key], self._reader.columns[key]
        dtype = "string" if values.dtype == object else values.dtype.name
        return {"dtype": dtype, "shape": list(feature.shape), "names": list(feature.names) if feature.names else None}

    def episodes(self) -> Iterator[SourceEpisode]:
        """All episodes by ascending id."""
        reader = self._reader
        for episode in reader.episodes:
            rows = np.arange(episode.start, episode.stop)
            obs = {k: reader.columns[k][rows] for k in self.observation_spec.keys if k not in reader.camera_keys}
            videos = {k: episode.videos[k].path for k in reader.camera_keys} if self._videos else {}
            if not self._videos:
                obs |= {k: reader.frames(k, rows) for k in reader.camera_keys}
            extras = {k: reader.columns[k][rows] for k in self._extras}
            tasks = [self._task or reader.task_of(int(r)) for r in rows]
            meta = {"source_episode": episode.index}
            action = reader.columns["action"][rows]
            yield SourceEpisode(str(episode.index), obs, action, tasks, extras, videos, meta)
