"""Recorder of LeRobot v3.0 datasets that survives ``kill -9`` between any two instructions.

Unlike LeRobot's own recorder, which keeps parquet files open until the end and loses them without a footer, every
``save_episode`` lands complete files only: each camera's mp4 of the episode, a data file and an episode table with
the new rows, tasks, statistics, and last ``info.json``, whose ``total_episodes`` is the commit record.
Whatever an interrupted save left beyond that record belongs to no episode; ``Writer.resume`` removes it.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from robopolicy.core import io
from robopolicy.core.errors import DatasetError
from robopolicy.core.specs import (
    ACTION,
    ActionSpace,
    FeatureKind,
    ObservationSpec,
    action_space_from_dict,
    observation_spec_from_dict,
    to_dict,
)
from robopolicy.datasets import layout_v3 as v3
from robopolicy.datasets.episode_buffer import NO_NUMBERS, EpisodeBuffer
from robopolicy.datasets.episode_stats import PixelHistogram, aggregate, describe, to_json
from robopolicy.datasets.episode_table import EpisodeTable
from robopolicy.datasets.reader_info import load_json
from robopolicy.datasets.reader_v3 import read_tasks
from robopolicy.datasets.rolling_parquet import RollingParquet
from robopolicy.datasets.video_writer import check_size, probe_encoder
from robopolicy.datasets.writer_features import (
    action_feature,
    check_action,
    check_extras,
    check_observation,
    extra_features,
    flat_column,
    observation_features,
)

log = logging.getLogger(__name__)

DATA_LIMIT = 4 << 20  # a data file is rewritten whole at each episode, so it stays small


class Writer:
    """Writes episodes to ``root``; see ``add_frame`` and ``save_episode``.

    ``extra`` declares further per-frame features (``{"next.reward": "float32"}``); left out, they are taken from the
    first frame.  ``image_storage``: ``"video"`` (lossy mp4) or ``"png"`` (exact, inside parquet).  ``video_codec``:
    ``libx264`` or ``libsvtav1``, by default the first that this machine has.  ``source``: where the data come from
    (anything JSON can hold), kept in ``info.json``.
    Raises ``DatasetError`` if ``root`` holds anything already (use ``Writer.resume``).
    """

    def __init__(
        self,
        root: str | Path,
        fps: float,
        observation_spec: ObservationSpec,
        action_space: ActionSpace,
        extra: Mapping[str, Any] | None = None,
        robot_type: str | None = None,
        image_storage: Literal["video", "png"] = "video",
        video_codec: str | None = None,
        source: Mapping[str, Any] | None = None,
    ) -> None:
        root = Path(root)
        # Empty folders and partial files are what a kill before the very first info.json leaves: nothing is lost there.
        if any(p.is_file() and not p.name.startswith(io.PARTIAL) for p in root.rglob("*")):
            raise DatasetError(f"{root} is not empty; choose another folder, or continue it with Writer.resume(root)")
        features = observation_features(observation_spec, "image" if image_storage == "png" else "video")
        videos = [k for k, f in features.items() if f["dtype"] == "video"]
        encoder = probe_encoder(video_codec) if videos else ""
        for key in videos:
            check_size(key, features[key]["shape"][0], features[key]["shape"][1], encoder)
        own = {"observation_spec": to_dict(observation_spec), "action_space": to_dict(action_space)}
        declared = extra_features(extra or {})
        info: dict[str, Any] = {
            "codebase_version": v3.CODEBASE_VERSION,
            "robot_type": robot_type,
            "total_episodes": 0,
            "total_frames": 0,
            "total_tasks": 0,
            "chunks_size": v3.CHUNKS_SIZE,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": int(fps) if float(fps).is_integer() else float(fps),
            "splits": {"train": "0:0"},
            "data_path": v3.DATA_PATH,
            "video_path": v3.VIDEO_PATH if videos else None,
            "features": {**features, ACTION: action_feature(action_space), **declared},
            "robopolicy": {**own, "encoder": encoder, "extras": None if extra is None else list(declared)},
        }
        if source is not None:
            info["robopolicy"]["source"] = dict(source)
        _sweep(root)
        (root / "meta").mkdir(parents=True, exist_ok=True)
        self._open(root, info)
        self._write_info()

    @classmethod
    def resume(cls, root: str | Path) -> Writer:
        """Continue a dataset of this writer after its last closed episode; leftovers of a crash are removed."""
        root = Path(root)
        info = load_json(root / v3.INFO)
        if not isinstance(info, dict) or "robopolicy" not in info:
            raise DatasetError(f"{root / v3.INFO}: not written by this writer; convert the dataset first")
        writer = cls.__new__(cls)
        writer._open(root, info)
        writer._drop_leftovers()
        return writer

    def _open(self, root: Path, info: dict[str, Any]) -> None:
        self.root = root
        self.info = info
        self._broken = ""
        self.observation_spec = observation_spec_from_dict(info["robopolicy"]["observation_spec"])
        self.action_space = action_space_from_dict(info["robopolicy"]["action_space"])
        self._recorded = [f for f in self.observation_spec.features if f.kind is not FeatureKind.LANGUAGE]
        self._features: dict[str, dict[str, Any]] = {}
        self._declare(info["features"])
        self._data = RollingParquet(root, v3.DATA_PATH, DATA_LIMIT)
        self._episodes = EpisodeTable(root)
        self._tasks: list[str] = []
        self._pixels = {f.key: PixelHistogram() for f in self.observation_spec.of_kind(FeatureKind.IMAGE)}
        self._encoder = probe_encoder(info["robopolicy"]["encoder"] or None) if self._videos else ""
        self._new_buffer()

    def _declare(self, features: Mapping[str, Any]) -> None:
        """Features in the order of info.json: the dataset's own, then the five default columns."""
        own = {k: f for k, f in {**self._features, **features}.items() if k not in v3.DEFAULT_FEATURES}
        self._features.clear()
        self._features.update({**own, **v3.DEFAULT_FEATURES})
        self.info["features"] = self._features

    def _new_buffer(self) -> None:
        self._buffer = EpisodeBuffer(self.root, self.info["fps"], self._features, list(self._pixels), self._encoder)

    def _drop_leftovers(self) -> None:
        _sweep(self.root)
        count = self.num_episodes
        self._data.drop_from("episode_index", count)
        self._episodes.drop_from(count)
        for key in self._videos:
            for path in (self.root / "videos" / key).glob("chunk-*/file-*.mp4"):
                if v3.ordinal(path) >= count:
                    path.unlink()
        if count:
            known = read_tasks(self.root)
            self._tasks = [known[i] for i in range(self.info["total_tasks"])]
            io.write_atomic(self.root / v3.TASKS, v3.tasks_bytes(self._tasks))
            self._write_stats()

    @property
    def _videos(self) -> list[str]:
        return [k for k, f in self._features.items() if f["dtype"] == "video"]

    @property
    def num_episodes(self) -> int:
        """Closed episodes."""
        return int(self.info["total_episodes"])

    @property
    def frames_in_episode(self) -> int:
        """Frames of the open episode."""
        return len(self._buffer)

    def add_frame(self, obs: Mapping[str, Any], action: Any, task: str, **extra: Any) -> None:
        """Append one step to the open episode.

        ``obs``: step shapes, images (3, H, W) uint8, the rest float32; ``action`` (D,); ``extra``: per-frame values
        such as ``reward``, ``success``, ``done`` (stored as ``next.reward``...).  Raises ``InvalidObservation`` or
        ``InvalidAction``; a refused frame leaves the episode as it was.
        """
        recorded = [f for f in self._recorded if f.key not in self._buffer.adopted]
        values = check_observation({k: v for k, v in obs.items() if k != "task"}, recorded)
        values[ACTION] = check_action(action, self.action_space)
        own = self.info["robopolicy"]
        if own["extras"] is None:
            declared = extra_features(extra)
            self._declare(declared)
            own["extras"] = list(declared)
        values |= check_extras(extra, {k: self._features[k] for k in own["extras"]})
        with self._writing():
            self._buffer.add(values, str(task))

    def adopt_video(self, key: str, path: Path) -> None:
        """Use an existing mp4 for camera ``key`` of the open episode, byte for byte; its frames then lack that key.

        It must hold exactly one frame an ``add_frame``, at this dataset's rate; ``save_episode`` checks the number.
        """
        if key not in self._videos:
            raise DatasetError(f"'{key}' is no video feature of {self.root}; it has {self._videos or 'none'}")
        with self._writing():
            self._buffer.adopt_video(key, path)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Whatever interrupts a write leaves this object behind the disk: only ``resume`` may go on."""
        import av

        if self._broken:
            raise DatasetError(self._broken)
        safe = f"the {self.num_episodes} closed episodes are safe; continue with Writer.resume"
        self._broken = f"{self.root}: an earlier write was interrupted; {safe}"
        try:
            yield
        except (OSError, av.FFmpegError) as e:
            self._broken = f"{self.root}: writing failed ({e}); {safe} when the disk has room again"
            raise DatasetError(self._broken) from e
        self._broken = ""

    def save_episode(self, meta: Mapping[str, Any] | None = None) -> int:
        """Close the episode on disk and return its index.  ``meta``: scalars for the episode table (seed, success).

        When this returns, the episode is durable; if the process dies before, the episode is as if never begun.
        """
        if not self.frames_in_episode:
            raise DatasetError("save_episode without a frame; call add_frame first, or discard_episode to drop a take")
        self._episodes.check_meta(meta or {})
        with self._writing():
            episode = self._save(meta or {})
        self._new_buffer()
        return episode

    def _save(self, meta: Mapping[str, Any]) -> int:
        length, episode, start = self.frames_in_episode, self.num_episodes, int(self.info["total_frames"])
        named = list(dict.fromkeys(self._buffer.tasks))
        tasks = [*self._tasks, *(t for t in named if t not in self._tasks)]
        self._buffer.land_videos(episode)
        rows, stats = self._buffer.rows(episode, start, tasks)
        place = self._data.place_of_next()
        self._data.append(rows)
        io.fault_point("after_data")
        if tasks != self._tasks:
            io.write_atomic(self.root / v3.TASKS, v3.tasks_bytes(tasks))
        io.fault_point("after_tasks")
        videos = {k: (*v3.chunk_and_file(episode), length / self.info["fps"]) for k in self._videos}
        self._episodes.append(episode, (start, start + length), named, place, videos, stats, meta)
        io.fault_point("after_episodes")
        self._commit(episode, start + length, tasks)
        return episode

    def _commit(self, episode: int, frames: int, tasks: list[str]) -> None:
        """Write the statistics and then the totals, which make the episode count."""
        for key, seen in self._buffer.pixels.items():
            self._pixels[key].merge(seen)
        self._tasks = tasks
        self._write_stats()
        io.fault_point("after_stats")
        self.info |= {"total_episodes": episode + 1, "total_frames": frames, "total_tasks": len(tasks)}
        self.info["splits"] = {"train": f"0:{episode + 1}"}
        for key in self._videos:
            self._features[key].setdefault("info", self._buffer.video_info[key])
        self._write_info()
        io.fault_point("after_info")

    def discard_episode(self) -> None:
        """Forget the frames of the open episode, encoded ones included."""
        self._buffer.abort()
        self._new_buffer()

    def finalize(self) -> None:
        """Complete ``stats.json`` with exact quantiles.  Every closed episode is on disk without it."""
        if self.frames_in_episode:
            raise DatasetError(
                f"{self.frames_in_episode} frames are not saved; call save_episode or discard_episode before finalize"
            )
        if self.num_episodes:
            with self._writing():
                self._write_stats(quantiles=True)

    def _write_stats(self, quantiles: bool = False) -> None:
        stats: dict[str, Any] = {k: aggregate(parts) for k, parts in self._episodes.stats().items()}
        if quantiles:
            columns = {k: f for k, f in self._features.items() if f["dtype"] not in NO_NUMBERS}
            groups = self._data.read(list(columns))
            for key, feature in columns.items():
                values = np.concatenate([flat_column(g[key]) for g in groups])
                stats[key] = describe(values.reshape(-1, *feature["shape"]))
            # Only when every episode passed through this process; a resumed recording has seen the newer ones only.
            frames = self.info["total_frames"]
            stats |= {key: h.stats() for key, h in self._pixels.items() if h.frames == frames}
        io.write_atomic(self.root / v3.STATS, json.dumps(to_json(stats), indent=1))

    def _write_info(self) -> None:
        io.write_atomic(self.root / v3.INFO, json.dumps(self.info, indent=2))

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not None:
            self.discard_episode()
            log.warning("recording stopped by %s; %d closed episodes are kept", kind.__name__, self.num_episodes)
        else:
            self.finalize()


def _sweep(root: Path) -> None:
    """Remove the partial files and folders of interrupted writes, wherever they are below ``root``."""
    for folder in {p.parent for p in root.rglob(f"{io.PARTIAL}*")}:
        io.sweep_partial(folder)
