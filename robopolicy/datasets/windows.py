"""Training windows over a dataset, gathered a batch at a time with one indexing a key.

Source: Diffusion Policy's window set (see ``windows_index``), LeRobot's batch keys.  Differs from both: nothing is
copied per sample in Python; low-dimensional columns are contiguous arrays, images come from a decode-once frame cache.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from robopolicy.core.errors import ConfigError, DatasetError, did_you_mean
from robopolicy.core.needs import WindowNeeds
from robopolicy.core.specs import ACTION, ACTION_IS_PAD, TASK, FeatureKind, ObservationSpec
from robopolicy.datasets.cache import FrameCache
from robopolicy.datasets.goals import Goals, goal_keys
from robopolicy.datasets.keypose_config import KeyposeConfig
from robopolicy.datasets.keyposes import Keyposes
from robopolicy.datasets.reader import Reader
from robopolicy.datasets.reader_types import Episode
from robopolicy.datasets.windows_index import Anchors, ShortEpisodes, all_anchors, clamp_rows, diffusion_anchors

Deltas = Mapping[str, Sequence[int]]
PLAIN = WindowNeeds()


class Windows:
    """Windows of ``n_obs_steps`` observations and ``horizon`` actions.

    Args:
        reader: the dataset.
        observation_spec: which observations to gather; an image's size in it is the size delivered, unless
            ``image_sizes`` says otherwise.  A ``task`` feature adds the sentences.
        n_obs_steps, horizon, n_action_steps: as in the policy (frames at the dataset's rate).
        episodes: ids of the episodes to use, all of the reader's when None.
        image_sizes: (height, width) by camera.
        cache_dir: folder of the frame cache (default: see ``cache.default_directory``).
        in_memory: keep decoded frames in RAM only.
        short_episodes: what to do with episodes shorter than any window, see ``diffusion_anchors``.
        deltas: frames relative to the newest observation by key, instead of the default windows; each such key also
            gets ``<key>_is_pad``.
        anchors: ``"diffusion"`` for Diffusion Policy's set of windows, ``"all"`` for one window a frame.
        extra_keys: further columns gathered over the action window, such as "next.reward".
        progress: show a progress bar while frames are decoded for the first time.
        needs: what else the policy asks for: with ``goal_steps`` every goal feature of the spec is gathered from later
            frames of the key that it mirrors (see ``goals``); with ``keyposes`` all actions of a window are the one
            at the next key pose after its newest observation.  Chains are ``chains.ChainedWindows``.
        keyposes: which frames are key poses.
    """

    def __init__(
        self,
        reader: Reader,
        observation_spec: ObservationSpec,
        n_obs_steps: int,
        horizon: int,
        n_action_steps: int,
        episodes: Sequence[int] | None = None,
        image_sizes: Mapping[str, tuple[int, int]] | None = None,
        cache_dir: str | Path | None = None,
        *,
        in_memory: bool = False,
        short_episodes: ShortEpisodes = "drop",
        deltas: Deltas | None = None,
        anchors: Literal["diffusion", "all"] = "diffusion",
        extra_keys: Sequence[str] = (),
        progress: bool = True,
        needs: WindowNeeds = PLAIN,
        keyposes: KeyposeConfig | None = None,
    ) -> None:
        if min(n_obs_steps, horizon, n_action_steps) < 1:
            raise ConfigError(
                f"n_obs_steps, horizon and n_action_steps must be >= 1, got {n_obs_steps}, {horizon}, {n_action_steps}"
            )
        self.reader = reader
        self.observation_spec = observation_spec
        self.episodes: tuple[Episode, ...] = (
            reader.episodes if episodes is None else tuple(reader.episode(i) for i in sorted(set(episodes)))
        )
        starts, lengths = [e.start for e in self.episodes], [e.length for e in self.episodes]
        self.anchors: Anchors = (
            all_anchors(starts, lengths)
            if anchors == "all"
            else diffusion_anchors(starts, lengths, horizon, n_obs_steps, n_action_steps, short_episodes)
        )
        if not len(self.anchors):
            raise DatasetError(
                f"{reader.root}: no windows: the longest of {len(self.episodes)} episodes has "
                f"{max(lengths, default=0)} frames, horizon {horizon} needs more; use a shorter horizon or "
                "short_episodes='pad'"
            )
        mirrored = goal_keys(observation_spec) if needs.goal_steps else {}
        self._deltas, self._padded = self._plan(n_obs_steps, horizon, deltas, extra_keys, mirrored)
        sizes = self._sizes(image_sizes or {}, mirrored)
        self._caches = {
            key: FrameCache(reader, key, size, cache_dir, in_memory=in_memory, progress=progress)
            for key, size in sizes.items()
        }
        self._sources = {key: self._source(key, key) for key in self._deltas}
        goals = {key: self._source(recorded, key) for key, recorded in mirrored.items()}
        self._goals = Goals(goals, needs.goal_steps) if needs.goal_steps else None
        self._keyposes = Keyposes(reader, self.episodes, keyposes or KeyposeConfig()) if needs.keyposes else None
        self._bookkeeping = {"index": reader.numbers("index"), "episode_index": reader.numbers("episode_index")}
        self._tasks = _task_sentences(reader) if TASK in observation_spec else None

    def __len__(self) -> int:
        return len(self.anchors)

    @property
    def caches(self) -> Mapping[str, FrameCache]:
        """The frame cache of every camera gathered."""
        return self._caches

    @property
    def layout(self) -> dict[str, int]:
        """What a continued run must find again."""
        layout = {"windows": len(self)}
        if self._keyposes is not None:
            layout["keyposes"] = zlib.crc32(self._keyposes.next_row.tobytes())
        return layout

    def gather(
        self, indices: np.ndarray, draws: np.ndarray | None = None, futures: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Batch of the windows ``indices`` ``(B,)``.

        Observations ``(B, n_obs_steps, ...)`` (images channel-first uint8), ``action`` ``(B, horizon, D)``,
        ``action_is_pad`` ``(B, horizon)`` bool, ``index`` and ``episode_index`` ``(B,)``: the numbers, in the whole
        dataset, of the newest observation's frame and its episode; ``task`` ``(B,)`` if the spec has it.

        With goals: ``goal.*`` ``(B, goal_steps, ...)`` and ``goal_is_pad`` ``(B,)``.  ``draws`` ``(B,)`` in [0, 1)
        choose among the frames after the newest observation, without them it is the episode's last frame; ``futures``
        ``(B,)`` names the windows after which goals lie, when not after each window itself.
        """
        indices = np.asarray(indices, dtype=np.int64)
        batch: dict[str, np.ndarray] = {}
        planned: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}
        for key, deltas in self._deltas.items():
            if deltas not in planned:
                planned[deltas] = clamp_rows(self.anchors, indices, np.array(deltas, dtype=np.int64))
            rows, is_pad = planned[deltas]
            batch[key] = self._sources[key][rows]
            if key in self._padded:
                batch[f"{key}_is_pad"] = is_pad
        anchor = self.anchors.row[indices]
        for key in ("index", "episode_index"):
            batch[key] = self._bookkeeping[key][anchor]
        if self._tasks is not None:
            batch[TASK] = self._tasks[anchor]
        if self._keyposes is not None:
            rows = np.broadcast_to(self._keyposes.next_row[anchor][:, None], batch[ACTION_IS_PAD].shape)
            batch |= {ACTION: self._sources[ACTION][rows], ACTION_IS_PAD: np.zeros(rows.shape, bool)}
        if self._goals is not None:
            after = indices if futures is None else np.asarray(futures, dtype=np.int64)
            batch |= self._goals.gather(self.anchors.row[after], self.anchors.last[after], draws)
        return batch

    def _plan(
        self,
        n_obs_steps: int,
        horizon: int,
        deltas: Deltas | None,
        extra_keys: Sequence[str],
        goals: Collection[str],
    ) -> tuple[dict[str, tuple[int, ...]], set[str]]:
        """Deltas by key, and the keys whose padding is reported."""
        observed = tuple(range(1 - n_obs_steps, 1))
        acted = tuple(range(1 - n_obs_steps, 1 - n_obs_steps + horizon))
        features = self.observation_spec.features
        keys = [f.key for f in features if f.kind is not FeatureKind.LANGUAGE and f.key not in goals]
        plan = dict.fromkeys(keys, observed)
        plan |= {key: acted for key in (ACTION, *extra_keys) if key == ACTION or key not in plan}
        for key, values in (deltas or {}).items():
            if any(int(d) != d for d in values):
                raise ConfigError(f"deltas['{key}'] must be whole frames, got {list(values)}")
            plan[key] = tuple(int(d) for d in values)
        return plan, {ACTION, *(deltas or {})}

    def _sizes(
        self, image_sizes: Mapping[str, tuple[int, int]], goals: Mapping[str, str]
    ) -> dict[str, tuple[int, int]]:
        """Size of every camera gathered, for itself or as a goal."""
        users = {key: [key] for key in self._deltas if key in self.reader.camera_keys}
        for goal, key in goals.items():
            if key in self.reader.camera_keys:
                users.setdefault(key, []).append(goal)
        if unknown := sorted(set(image_sizes) - set(users)):
            raise ConfigError(f"image_sizes names '{unknown[0]}'" + did_you_mean(unknown[0], users))
        sizes: dict[str, tuple[int, int]] = {}
        for camera, keys in users.items():
            wanted = {self.observation_spec[key].shape[1:] for key in keys if key in self.observation_spec}
            if camera in image_sizes:
                sizes[camera] = image_sizes[camera]
            elif len(wanted) > 1:
                raise ConfigError(f"{' and '.join(keys)} must have one size, got {sorted(wanted)}")
            else:
                height, width = wanted.pop() if wanted else self.reader.features[camera].shape[1:]
                sizes[camera] = (height, width)
        return sizes

    def _source(self, recorded: str, key: str) -> np.ndarray:
        """Rows of the column or camera ``recorded``, checked against the spec of ``key``."""
        if recorded in self._caches:
            return self._caches[recorded].frames
        if recorded not in self.reader.columns:
            raise DatasetError(
                f"{self.reader.root}: no feature '{recorded}'" + did_you_mean(recorded, self.reader.keys)
            )
        values = self.reader.columns[recorded]
        if key in self.observation_spec and self.observation_spec[key].shape != values.shape[1:]:
            wanted = self.observation_spec[key].shape
            raise DatasetError(
                f"{self.reader.root}: '{recorded}' has shape {values.shape[1:]}, the observation spec says {wanted}"
            )
        return values


def _task_sentences(reader: Reader) -> np.ndarray:
    """Sentence of every row, looking each task up once."""
    if "task_index" not in reader.columns:
        return np.array([reader.task_of(row) for row in range(reader.num_frames)], dtype=object)
    numbers = np.stack([reader.columns["task_index"], reader.numbers("episode_index")])
    _, example, inverse = np.unique(numbers, axis=1, return_index=True, return_inverse=True)
    sentences = np.array([reader.task_of(int(row)) for row in example], dtype=object)
    return sentences[inverse.reshape(-1)]
