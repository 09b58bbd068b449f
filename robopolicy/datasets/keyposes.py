"""Key poses: the few poses of a demonstration that say what was done, such as grasps and stops.

Source: 3D Diffuser Actor's data preparation (Ke et al. 2024; spec diffuser_actor_3d, sections 4.1 and 4.2): RLBench's
rule of stops and CALVIN's rule of accelerations.  Differs: the rules see plain vectors, so that LeRobot data without
joint velocities work too (their speed is a central difference, with a threshold relative to each channel's own
speeds), and quaternion signs are made continuous before they are splined.  A window's observations stay consecutive
frames; the original's history is spaced by key poses.  Use it when ``policy.needs.keyposes``.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

import numpy as np

from robopolicy.core.errors import ConfigError, DatasetError, did_you_mean
from robopolicy.core.specs import ACTION
from robopolicy.datasets.keypose_config import KeyposeConfig
from robopolicy.datasets.reader import Reader
from robopolicy.datasets.reader_types import Episode

log = logging.getLogger(__name__)

# Actions that only make sense from where the arm was when they were recorded.
RELATIVE = ("delta", "joint_delta")
# Accelerations below this share of the largest one are rounding, not peaks.
ROUNDING = 1e-6
# Fewer key poses an episode than this are hardly more than its last frame.
FEW = 1.5


def stops(still: np.ndarray, gripper: np.ndarray, gap: int = 4) -> np.ndarray:
    """Key frames by RLBench's rule, ascending, for frames ``still`` ``(T,)`` bool and ``gripper`` states ``(T, G)``.

    A frame counts if the gripper differs from the frame before, if it is the last one, or if the arm stopped: it is
    still, the gripper is as in both neighbouring frames, it is neither the first nor the last but one, and the stop
    before is at least ``gap`` frames ago.  Of two adjacent frames at the end the first one is dropped.
    """
    changed = _changed(gripper)
    found, last, stopped = [], len(still) - 1, -gap
    for t in range(last):
        at_rest = still[t] and 0 < t < last - 1 and not changed[t] and not changed[t + 1]
        if at_rest and t - stopped >= gap:
            stopped = t
            found.append(t)
        elif changed[t]:
            found.append(t)
    return _without_penultimate([*found, last])


def accelerations(position: np.ndarray, gripper: np.ndarray, share: float = 0.2, gap: int = 5) -> np.ndarray:
    """Key frames by CALVIN's rule, ascending, for a tool at ``position`` ``(T, 3)`` and ``gripper`` states ``(T, G)``.

    Peaks of the acceleration's magnitude among the largest ``share`` of its values and ``gap`` frames apart, frames at
    which the gripper changed, the frame before each of them, and the last frame.
    """
    from scipy.signal import find_peaks

    if len(position) < 2:
        return np.array([len(position) - 1])
    size = np.linalg.norm(np.gradient(np.gradient(position, axis=0), axis=0), axis=1)
    peaks, _ = find_peaks(size, distance=gap)
    peaks = peaks[(size[peaks] >= np.quantile(size, 1 - share)) & (size[peaks] > ROUNDING * size.max())]
    changed = np.flatnonzero(_changed(gripper))
    return np.unique(np.concatenate([peaks, changed, changed - 1, [len(position) - 1]]))


def _changed(gripper: np.ndarray) -> np.ndarray:
    """Whether any gripper differs from the frame before, ``(T,)``; False at the first frame."""
    changed = np.zeros(len(gripper), bool)
    changed[1:] = (gripper[1:] != gripper[:-1]).any(axis=1)
    return changed


def _without_penultimate(frames: list[int]) -> np.ndarray:
    if len(frames) > 1 and frames[-1] - frames[-2] == 1:
        del frames[-2]
    return np.array(frames, np.int64)


def resample(
    trajectory: np.ndarray, points: int, quaternions: Sequence[int] = (), linear: Collection[int] = ()
) -> np.ndarray:
    """``trajectory`` ``(T, D)`` at ``points`` evenly spaced moments, ends included, as float64 ``(points, D)``.

    Cubic splines through all frames, but straight lines for the channels ``linear`` (grippers).  ``quaternions`` are
    the first channels of unit quaternions (either order): their sign is made continuous, and they are unit again after.
    """
    from scipy.interpolate import CubicSpline

    values = np.array(trajectory, np.float64)
    if values.ndim != 2 or len(values) < 1 or points < 1:
        raise ConfigError(f"expected a trajectory (T >= 1, D) and points >= 1, got {values.shape} and {points}")
    if len(values) == 1:
        return np.repeat(values, points, axis=0)
    for first in quaternions:
        turn = values[:, first : first + 4]
        flips = np.sign((turn[1:] * turn[:-1]).sum(axis=1))
        turn[1:] *= np.cumprod(np.where(flips == 0, 1.0, flips))[:, None]
    knots, moments = np.arange(len(values)), np.linspace(0, len(values) - 1, points)
    result = CubicSpline(knots, values, axis=0)(moments)
    for channel in linear:
        result[:, channel] = np.interp(moments, knots, values[:, channel])
    for first in quaternions:
        turn = result[:, first : first + 4]
        turn /= np.linalg.norm(turn, axis=1, keepdims=True)
    return result


class Keyposes:
    """The key poses of ``episodes`` of a dataset.

    Raises ``ConfigError`` naming the option when channels cannot be told, or when actions are relative to a pose.
    """

    def __init__(self, reader: Reader, episodes: Sequence[Episode], config: KeyposeConfig) -> None:
        mode = reader.action_space().mode
        if mode in RELATIVE:
            raise ConfigError(f"key poses need absolute actions, those of {reader.root} are '{mode}'")
        self._config = config
        self._gripper = _gripper_states(reader, config)
        self._motion, self._limit = self._speeds(reader)
        self.frames = {e.index: self._find(e) for e in episodes}
        self.next_row = np.arange(reader.num_frames)
        for episode in episodes:
            rows, at = np.arange(episode.length), self.frames[episode.index]
            later = np.searchsorted(at, rows, side="right").clip(max=len(at) - 1)
            self.next_row[episode.start : episode.stop] = episode.start + at[later]
        count = sum(map(len, self.frames.values()))
        mean = count / max(len(episodes), 1)
        log.info("%d key poses in %d episodes, %.1f an episode", count, len(episodes), mean)
        if mean < FEW:
            log.warning(
                "most episodes have no key pose but their last frame, so all that is learned is where they end; raise "
                "dataset.keyposes.still (now %g), or set dataset.keyposes.rule to the other one (now %s)",
                config.still,
                config.rule,
            )

    def _speeds(self, reader: Reader) -> tuple[np.ndarray, np.ndarray]:
        """Speeds ``(N, J)`` and their limits for stops, or the tool's positions ``(N, 3)`` for accelerations."""
        key, config = self._config.motion_key, self._config
        if key not in reader.columns or reader.columns[key].ndim != 2:
            raise ConfigError(f"keyposes.motion_key: no vector '{key}'" + did_you_mean(key, reader.keys))
        names = reader.features[key].names or ()
        channels = _motion_channels(names, config, reader.columns[key].shape[1])
        values = reader.columns[key][:, channels].astype(np.float64)
        if config.rule == "accelerations":
            return values, np.zeros(0)
        moved = np.array([not names or "vel" not in names[c].lower() for c in channels])
        speeds = np.abs(values)
        for episode in reader.episodes:
            rows = slice(episode.start, episode.stop)
            speeds[rows, moved] = np.abs(np.gradient(values[rows][:, moved], axis=0)) if episode.length > 1 else 0.0
        limit = np.full(len(channels), config.still)
        limit[moved] *= np.quantile(speeds[:, moved], 0.99, axis=0)
        return speeds, limit

    def _find(self, episode: Episode) -> np.ndarray:
        rows = slice(episode.start, episode.stop)
        motion, gripper, config = self._motion[rows], self._gripper[rows], self._config
        if config.rule == "accelerations":
            return accelerations(motion, gripper, config.peak_share, config.peak_gap)
        still: np.ndarray = np.all(motion <= self._limit, axis=1)
        return stops(still, gripper, config.stop_gap)


def _gripper_states(reader: Reader, config: KeyposeConfig) -> np.ndarray:
    """Whether each gripper is on the upper side of its channel's range, ``(N, G)`` bool."""
    names = reader.action_space().names or ()
    wanted = config.gripper
    if wanted is None:
        wanted = tuple(n for n in names if "gripper" in n.lower())
        if not wanted:
            raise ConfigError(
                f"keyposes.gripper: no action channel of {reader.root} is called gripper; name it, or say () if there "
                f"is none (channels: {', '.join(names) or 'unnamed'})"
            )
    values = reader.columns[ACTION][:, _numbers(names, wanted, "keyposes.gripper", reader.action_space().dim)]
    if not values.size:
        return np.zeros((reader.num_frames, 0), bool)
    middle = (values.min(axis=0) + values.max(axis=0)) / 2
    states: np.ndarray = values > middle
    return states


def _motion_channels(names: Sequence[str], config: KeyposeConfig, size: int) -> list[int]:
    if config.motion is not None:
        chosen = _numbers(names, config.motion, "keyposes.motion", size)
    elif config.rule == "accelerations":
        chosen = [i for i, n in enumerate(names) if n.lower().rpartition("_")[2] in ("x", "y", "z")][:3]
    else:
        fast = [i for i, n in enumerate(names) if "vel" in n.lower()]
        chosen = fast or [i for i in range(size) if not names or "gripper" not in names[i].lower()]
    if config.rule == "accelerations" and len(chosen) != 3:
        raise ConfigError(
            f"keyposes.motion: accelerations need the tool's x, y and z among {config.motion_key}; name three of "
            f"{', '.join(names) or f'0..{size - 1}'}"
        )
    if not chosen:
        raise DatasetError(f"keyposes.motion: no channel of {config.motion_key} shows how the arm moves; name some")
    return chosen


def _numbers(names: Sequence[str], wanted: Sequence[str], option: str, size: int) -> list[int]:
    """Channel numbers of names, or of numbers written as text where channels have no names."""
    known = list(names) or [str(i) for i in range(size)]
    for name in wanted:
        if name not in known:
            raise ConfigError(f"{option}: no channel '{name}'" + did_you_mean(name, known))
    return [known.index(name) for name in wanted]
