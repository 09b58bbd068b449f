"""Built-in motions that need no policy: stand still, a slow sine along one axis, a recorded path.

They are what a driver is tried with before any policy is (docs/deploying.md): everything about them is known in
advance, so that whatever else is seen is the driver's or the robot's doing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from robopolicy.core.errors import ConfigError
from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.frames import Pose, at_time, difference
from robopolicy.real_robot.limits import SafetyLimits
from robopolicy.real_robot.safety.types import WIDTH_MOST

DT = 0.1  # s between the actions of a motion
HORIZON = 1.5  # s that a chunk reaches ahead
AGAIN = 0.5  # s between two chunks
SHARE = 0.8  # of the speed limit that a motion may use, so that the limiter does not shape it
SAMPLE = 0.002  # s between the instants at which a motion's speed is looked at
AXES = {"x": 0, "y": 1, "z": 2}


class Motion(Protocol):
    """Where the tool should be ``t`` seconds after the motion began."""

    @property
    def duration(self) -> float:
        """Seconds; infinite for one without an end."""
        ...

    def at(self, t: float) -> tuple[Pose, float | None]:
        """Pose, and the width of the gripper in m, or ``None`` for no wish."""
        ...


@dataclass(frozen=True, eq=False)
class Hold:
    """Stand at ``pose``."""

    pose: Pose
    duration: float = math.inf

    def at(self, t: float) -> tuple[Pose, float | None]:
        """Always the same pose."""
        return self.pose, None


@dataclass(frozen=True, eq=False)
class Sine:
    """``amplitude`` m up and down ``axis`` (x, y or z) around ``pose``, ``frequency`` times a second.

    It begins and ends at rest at ``pose``: the amplitude grows over the first period and shrinks over the last.
    """

    pose: Pose
    axis: str = "x"
    amplitude: float = 0.05
    frequency: float = 0.2
    duration: float = 25.0

    def __post_init__(self) -> None:
        if self.axis not in AXES:
            raise ConfigError(f"axis: expected x, y or z, got '{self.axis}'")
        if not (0 < self.amplitude <= 0.1 and 0 < self.frequency <= 1):
            raise ConfigError(
                f"sine: expected an amplitude up to 0.1 m and a frequency up to 1 Hz, got {self.amplitude:g} m and "
                f"{self.frequency:g} Hz"
            )
        if self.duration < 3 / self.frequency:
            raise ConfigError(
                f"sine: {self.duration:g} s are too short, it needs three periods: {3 / self.frequency:g} s"
            )

    def at(self, t: float) -> tuple[Pose, float | None]:
        """Pose at ``t``."""
        position = np.array(self.pose.position)
        position[AXES[self.axis]] += float(self.along(np.array(t)))
        return Pose(position, self.pose.quaternion), None

    def along(self, times: np.ndarray) -> np.ndarray:
        """Metres away from the middle at ``times (...)``."""
        t = np.clip(times, 0.0, self.duration)
        swell = _smooth(t * self.frequency) * _smooth((self.duration - t) * self.frequency)
        return np.asarray(swell * self.amplitude * np.sin(2 * math.pi * self.frequency * t))

    @property
    def peak_speed(self) -> float:
        """m/s at the steepest point, the growing and shrinking included."""
        steps = np.diff(self.along(np.arange(0.0, self.duration, SAMPLE)))
        return float(np.abs(steps).max() / SAMPLE)


def _smooth(share: np.ndarray) -> np.ndarray:
    """0 to 1 with no slope at either end."""
    x = np.clip(share, 0.0, 1.0)
    return np.asarray(x * x * (3 - 2 * x))


def fitting_sine(
    pose: Pose, limits: SafetyLimits, axis: str, amplitude: float, frequency: float, duration: float
) -> Sine:
    """A sine that stays below the speed, acceleration and jump limits: its amplitude is made smaller if need be.

    Raises ``ConfigError`` if less than 5 mm would be left, or if it would leave the workspace.
    """
    wish = Sine(pose, axis, amplitude, frequency, duration)
    turn = 2 * math.pi * frequency
    most = SHARE * min(limits.speed / (wish.peak_speed / amplitude), limits.acceleration / turn**2)
    most = min(most, SHARE * limits.jump / (DT * wish.peak_speed / amplitude))
    size = min(amplitude, most)
    if size < 0.005:
        raise ConfigError(f"sine: only {1e3 * size:.1f} mm fit the limits at {frequency:g} Hz; lower the frequency")
    k = AXES[axis]
    low, high = limits.workspace.low[k], limits.workspace.high[k]
    if not low + size <= pose.position[k] <= high - size:
        raise ConfigError(
            f"sine: {size:.3f} m around {axis}={pose.position[k]:.3f} leaves the workspace ({low:g} to {high:g} m); "
            "move the arm, or choose another axis or amplitude"
        )
    return Sine(pose, axis, size, frequency, duration)


@dataclass(frozen=True, eq=False)
class Path:
    """A recorded path: ``track`` of T poses at ``times`` (rising, from 0), played at ``speed`` times its own speed.

    ``widths (T,)``: of the gripper, ``nan`` for no wish.
    """

    times: np.ndarray
    track: Pose
    widths: np.ndarray
    speed: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.speed <= 1:
            raise ConfigError(f"speed: expected above 0 and at most 1 (as it was recorded), got {self.speed:g}")
        if len(self.times) < 2 or (np.diff(self.times) <= 0).any():
            raise ConfigError("path: expected at least two instants, rising; the record holds no motion")

    @property
    def duration(self) -> float:
        """Seconds at the chosen speed."""
        return float(self.times[-1] - self.times[0]) / self.speed

    def at(self, t: float) -> tuple[Pose, float | None]:
        """Pose at ``t``, its ends held."""
        when = float(self.times[0]) + self.speed * min(max(t, 0.0), self.duration)
        i = max(0, int(np.searchsorted(self.times, when, side="right")) - 1)
        width = float(self.widths[i])
        return at_time(self.times, self.track, when), None if math.isnan(width) else width


def joined(here: Pose, path: Path, limits: SafetyLimits) -> Path:
    """``path`` with a straight way from ``here`` to its beginning before it, at half the speed limits."""
    first = Pose(path.track.position[0], path.track.quaternion[0])
    turn = float(np.linalg.norm(difference(here.quaternion, first.quaternion)))
    way = float(np.linalg.norm(first.position - here.position))
    # The path's own time runs at ``speed``, the way before it must not run faster for that.
    seconds = path.speed * max(2 * way / limits.speed, 2 * turn / limits.turn_speed, 1.0)
    times = np.concatenate(((path.times[0] - seconds,), path.times))
    positions = np.vstack((here.position[None], path.track.position))
    quaternions = np.vstack((here.quaternion[None], path.track.quaternion))
    return Path(times, Pose(positions, quaternions), np.concatenate(((np.nan,), path.widths)), path.speed)


@dataclass(frozen=True, eq=False)
class HandSteps:
    """Stand at ``pose`` while the hand moves ``step`` m away from ``width`` and back, ``moves`` times in all, one every
    ``every`` s; towards the side where there is more room."""

    pose: Pose
    width: float
    step: float = 0.03
    every: float = 2.0
    moves: int = 6

    @property
    def duration(self) -> float:
        """Seconds, a rest before the first movement included."""
        return self.every * (self.moves + 1)

    def at(self, t: float) -> tuple[Pose, float | None]:
        """The pose, and the width asked for."""
        away = min(int(max(t, 0.0) / self.every), self.moves) % 2
        step = self.step if self.width + self.step <= WIDTH_MOST else -self.step
        return self.pose, self.width + away * step


@dataclass
class Player:
    """Turns a motion into chunks; ``chunk(now)`` whenever the time has come, ``None`` otherwise.

    ``lead``: seconds from now to the first action that can still be met (the action latency and a little more).
    ``began``: local time at which the motion's time is 0; counted from the first chunk on, anew for each epoch: after a
    hold the motion goes on where it was held, not where it would have been.
    """

    motion: Motion
    lead: float = 0.35
    began: float | None = None
    _epoch: int | None = None
    _next: float = 0.0
    _number: int = 0
    _played: float = 0.0

    def played(self, now: float) -> float:
        """Seconds of the motion that are over."""
        return 0.0 if self.began is None else max(0.0, min(now - self.began, self.motion.duration))

    def done(self, now: float) -> bool:
        """Whether the motion is over."""
        return self.began is not None and now - self.began >= self.motion.duration

    def pause(self, now: float) -> None:
        """The arm holds: the motion's time stands still until the next chunk."""
        if self.began is not None:
            self._played, self.began, self._epoch = self.played(now), None, None

    def chunk(self, now: float, epoch: int) -> Waypoints | None:
        """The next chunk for ``epoch``, or ``None`` if the last one still reaches far enough."""
        if self._epoch != epoch:
            if self._epoch is not None:
                self.pause(now)
            self._epoch, self.began, self._next = epoch, now + self.lead - self._played, now
        if now < self._next:
            return None
        assert self.began is not None
        self._next = now + AGAIN
        # Stamps lie on one grid, so that an action has the same place in every chunk that holds it.
        first = math.ceil((now + self.lead - self.began) / DT - 1e-6)
        steps = np.arange(first, first + round(HORIZON / DT))
        found = [self.motion.at(float(k) * DT) for k in steps]
        # A chunk has widths for all of its actions or for none: where that changes another one begins, in time.
        asked = [w is not None for _, w in found]
        if (not_asked := not asked[0]) in asked:
            end = asked.index(not_asked)
            steps, found = steps[:end], found[:end]
            self._next = min(self._next, self.began + float(steps[-1] + 1) * DT - self.lead)
        track = Pose(np.array([p.position for p, _ in found]), np.array([p.quaternion for p, _ in found]))
        widths = [w for _, w in found]
        grip = None if not asked[0] else np.array(widths, np.float64)
        self._number += 1
        return Waypoints(track, self.began + steps * DT, DT, epoch, grip, self._number)
