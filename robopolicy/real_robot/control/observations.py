"""Observations at one instant, from sources that each have their own clock, rate and latency.

Source: nearest picture and interpolated state at the time of one camera, as in UMI (arXiv 2402.10329, section on
observation latency).  Differs: an observation that cannot be had honestly (old, skewed or missing) is not assembled,
and says why; nothing is extrapolated by more than 20 ms.

All times are local monotonic seconds of the *content* (``clocks.StampWatch`` makes them), not of the arrival.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from robopolicy.real_robot.frames import Pose, at_time
from robopolicy.real_robot.limits import Timeouts

STATE_SECONDS, FRAMES = 2.0, 8  # kept of the state, and of each camera
EXTRAPOLATE = 0.020  # s beyond the newest sample for which the newest is still good
GRIPPER_LATENCY = 0.1  # s; the ROS 1 hand is read at 10 Hz
SAME_FRAMES = 10  # equal pictures in a row that mean a frozen camera
BAD_FRAMES = 5  # undecodable pictures in a row after which the arm holds


@dataclass(frozen=True, eq=False)
class StateSample:
    """The arm at ``time``: ``pose`` of the tool, ``q (7,)`` rad, ``dq (7,)`` rad/s, ``force (3,)`` N."""

    time: float
    pose: Pose
    q: np.ndarray
    dq: np.ndarray
    force: np.ndarray = field(default_factory=lambda: np.zeros(3))

    def finite(self) -> bool:
        """Whether every number is one."""
        return self.pose.finite() and all(np.isfinite(v).all() for v in (self.time, self.q, self.dq, self.force))


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture: ``data`` as it came (bytes, decoded on use, or an array); ``assumed``: its time is arrival minus a
    configured latency, because the camera stamps nothing."""

    time: float
    data: Any
    assumed: bool = False


@dataclass(frozen=True, eq=False)
class Snapshot:
    """An observation of ``steps`` instants, oldest first.

    ``time``: of the newest instant, that of the anchor camera's newest picture.  ``poses``, ``q (steps, 7)``,
    ``force (steps, 3)``, ``width (steps,)`` m (``nan`` where there is no hand).  ``frames``: per camera, one a step.
    ``ages``: seconds from each source's content to now, for the newest step.  ``valid (steps,)``: whether history
    reaches back that far; steps before it repeat the oldest known.  ``objects (steps, K)`` and ``object_names``: what a
    tracker of objects said, where there is one.
    """

    time: float
    poses: Pose
    q: np.ndarray
    force: np.ndarray
    width: np.ndarray
    frames: Mapping[str, list[Frame]]
    ages: Mapping[str, float]
    valid: np.ndarray
    objects: np.ndarray | None = None
    object_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class NoSnapshot:
    """Why there is none now."""

    why: str


class _Camera:
    def __init__(self) -> None:
        self.frames: deque[Frame] = deque(maxlen=FRAMES)
        self.same = self.bad = 0
        self.digest = b""
        self.since = -np.inf  # time of the first picture with these bytes

    def seen(self) -> float:
        """Time up to which the camera is known to see: its newest picture's, or that of the first of a frozen row."""
        if not self.frames or self.bad >= BAD_FRAMES:
            return -np.inf
        return self.since if self.same >= SAME_FRAMES else self.frames[-1].time


class Observer:
    """Rings of the newest data, and the observation at the newest instant that all of it covers.

    ``cameras``: names; the first is the anchor.  Without cameras the newest state is the instant.  ``objects``: whether
    a tracker of objects is expected, without which there is no observation.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        timeouts: Timeouts,
        gripper_latency: float = GRIPPER_LATENCY,
        hand: bool = True,
        objects: bool = False,
    ) -> None:
        self._t, self._hand, self._gripper_latency = timeouts, hand, gripper_latency
        self._tracked = objects
        self._objects: deque[tuple[float, np.ndarray]] = deque()
        self._names: tuple[str, ...] = ()
        self._cameras = {name: _Camera() for name in cameras}
        self._states: deque[StateSample] = deque()
        self._widths: deque[tuple[float, float]] = deque()

    # -- what comes in -------------------------------------------------------------------------------------------------

    def state(self, sample: StateSample) -> bool:
        """Take a state; false, and nothing changes, if a number in it is none or it is not newer than the last."""
        if not sample.finite() or (self._states and sample.time <= self._states[-1].time):
            return False
        self._states.append(sample)
        while self._states[0].time < sample.time - STATE_SECONDS:
            self._states.popleft()
        return True

    def gripper(self, time: float, width: float) -> bool:
        """Take a width that was published at ``time``; the hand was read a latency earlier."""
        when = time - self._gripper_latency
        if not np.isfinite((when, width)).all() or (self._widths and when <= self._widths[-1][0]):
            return False
        self._widths.append((when, float(width)))
        while self._widths[0][0] < when - STATE_SECONDS:
            self._widths.popleft()
        return True

    def objects(self, time: float, names: Sequence[str], values: Sequence[float]) -> bool:
        """Take what the tracker of objects said; false, and nothing changes, if a number in it is none, it is not newer
        than the last, or its names are not those of before."""
        numbers, found = np.array(values, np.float64), tuple(names)
        if numbers.shape != (len(found),) or not np.isfinite((time, *numbers)).all():
            return False
        if self._objects and (time <= self._objects[-1][0] or found != self._names):
            return False
        self._names = found
        self._objects.append((time, numbers))
        while self._objects[0][0] < time - STATE_SECONDS:
            self._objects.popleft()
        return True

    def frame(self, camera: str, frame: Frame) -> bool:
        """Take a picture; false if it is older than the last one.  Equal bytes ten times in a row count as no
        picture."""
        c = self._cameras[camera]
        if not np.isfinite(frame.time) or (c.frames and frame.time <= c.frames[-1].time):
            return False
        raw = frame.data if isinstance(frame.data, bytes) else np.ascontiguousarray(frame.data).tobytes()
        digest = hashlib.blake2b(raw, digest_size=16).digest()
        c.same, c.since = (c.same + 1, c.since) if digest == c.digest else (1, frame.time)
        c.digest, c.bad = digest, 0
        c.frames.append(frame)
        return True

    def bad_frame(self, camera: str) -> None:
        """A picture that could not be decoded, or is not of the size it should be: dropped and counted."""
        self._cameras[camera].bad += 1

    def mirrored(self, camera: str, frames: Sequence[Frame], seen: float) -> None:
        """Take pictures that another observer took; ``seen``: up to when that one knows the camera to see."""
        c = self._cameras[camera]
        c.frames.extend(frames)
        frozen = bool(c.frames) and seen < c.frames[-1].time
        c.since, c.same, c.bad = seen, SAME_FRAMES * frozen, BAD_FRAMES * (seen == -np.inf)

    # -- what the watchdogs ask ----------------------------------------------------------------------------------------

    def state_age(self, now: float) -> float:
        """Age of the newest state; infinite before the first."""
        return now - self._states[-1].time if self._states else np.inf

    def state_rate(self) -> float:
        """States a second over what is kept; 0 with fewer than two."""
        if len(self._states) < 2:
            return 0.0
        return (len(self._states) - 1) / (self._states[-1].time - self._states[0].time)

    def camera_age(self, now: float) -> float | None:
        """Age of the oldest of the cameras' newest pictures, ``None`` without cameras.  Of a frozen camera it counts
        from the first of the equal pictures; it is infinite for one whose last five pictures were broken."""
        if not self._cameras:
            return None
        return max(now - c.seen() for c in self._cameras.values())

    def ages(self, now: float) -> dict[str, float]:
        """Age of each source's newest content in seconds: ``state``, ``gripper`` (of its stamp), ``objects``,
        ``camera.NAME``; infinite before the first."""
        found = {"state": self.state_age(now)}
        if self._hand:
            found["gripper"] = now - (self._widths[-1][0] + self._gripper_latency) if self._widths else np.inf
        if self._tracked:
            found["objects"] = now - self._objects[-1][0] if self._objects else np.inf
        return found | {f"camera.{name}": now - c.seen() for name, c in self._cameras.items()}

    def rates(self) -> dict[str, float]:
        """Content a second over what is kept: ``state``, ``camera.NAME``; 0 with fewer than two."""
        found = {"state": self.state_rate()}
        for name, c in self._cameras.items():
            n = len(c.frames)
            found[f"camera.{name}"] = (n - 1) / (c.frames[-1].time - c.frames[0].time) if n > 1 else 0.0
        return found

    # -- the observation -----------------------------------------------------------------------------------------------

    def snapshot(self, now: float, steps: int, dt: float) -> Snapshot | NoSnapshot:
        """Observation of ``steps`` instants ``dt`` seconds apart, the newest as new as the data allow."""
        if not self._states:
            return NoSnapshot("no robot state yet")
        if (age := self.state_age(now)) > self._t.state_soft:
            return NoSnapshot(f"robot state {age:.2f} s old, limit {self._t.state_soft:g} s")
        if self._hand and (old := self.ages(now)["gripper"]) > self._t.gripper_reading:
            return NoSnapshot(f"no gripper state for {old:.2f} s, limit {self._t.gripper_reading:g} s")
        when, ages = self._states[-1].time, {"state": age}
        if self._tracked:
            ages["objects"] = now - self._objects[-1][0] if self._objects else np.inf
            if ages["objects"] > self._t.state_soft:
                return NoSnapshot(f"tracker of objects: {ages['objects']:.2f} s old, limit {self._t.state_soft:g} s")
        if self._cameras:
            for name, c in self._cameras.items():
                ages[name] = now - c.seen()
                if ages[name] > self._t.camera_soft:
                    return NoSnapshot(f"camera '{name}': newest picture {ages[name]:.2f} s old, frozen or broken")
            when = next(iter(self._cameras.values())).frames[-1].time
        if self._widths:
            ages["gripper"] = now - self._widths[-1][0]
        instants = when - dt * np.arange(steps - 1, -1, -1.0)
        frames = {name: [_nearest(c.frames, float(t)) for t in instants] for name, c in self._cameras.items()}
        for name, chosen in frames.items():
            if abs(chosen[-1].time - when) > self._t.skew:
                return NoSnapshot(f"camera '{name}' is {1e3 * (chosen[-1].time - when):+.0f} ms off the others")
        seen = {chosen[-1].time: name for name, chosen in frames.items()}
        if seen and max(seen) - min(seen) > self._t.skew:
            pair = f"'{seen[min(seen)]}' and '{seen[max(seen)]}'"
            return NoSnapshot(f"cameras {pair} are {1e3 * (max(seen) - min(seen)):.0f} ms off each other")
        return self._assemble(when, instants, frames, ages)

    def _assemble(
        self, when: float, instants: np.ndarray, frames: dict[str, list[Frame]], ages: dict[str, float]
    ) -> Snapshot | NoSnapshot:
        states = list(self._states)
        times = np.array([s.time for s in states])
        if instants[-1] > times[-1] + EXTRAPOLATE:
            return NoSnapshot(f"the state is {1e3 * (instants[-1] - times[-1]):.0f} ms behind the picture")
        track = Pose(np.array([s.pose.position for s in states]), np.array([s.pose.quaternion for s in states]))
        poses = [at_time(times, track, float(t)) for t in instants]
        valid = instants >= times[0] - EXTRAPOLATE
        for chosen in frames.values():
            valid &= np.abs(np.array([f.time for f in chosen]) - instants) <= self._t.skew
        width = np.full(len(instants), np.nan)
        if self._widths:
            grip = np.array(self._widths)
            width = np.interp(instants, grip[:, 0], grip[:, 1])
        return Snapshot(
            when,
            Pose(np.array([p.position for p in poses]), np.array([p.quaternion for p in poses])),
            _columns(instants, times, np.array([s.q for s in states])),
            _columns(instants, times, np.array([s.force for s in states])),
            width,
            frames,
            ages,
            valid,
            # The nearest, not between two: a folded angle may jump, and a number in its middle was never true.
            np.array([_near_numbers(self._objects, float(t)) for t in instants]) if self._objects else None,
            self._names,
        )


def _columns(instants: np.ndarray, times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Each column of ``values (N, D)`` interpolated at the instants: ``(steps, D)``; the ends are held."""
    return np.stack([np.interp(instants, times, column) for column in values.T], axis=-1)


def _nearest(frames: Sequence[Frame], when: float) -> Frame:
    """The frame whose time is nearest; the earlier of two as near."""
    times = [f.time for f in frames]
    i = bisect_right(times, when)
    near = frames[max(i - 1, 0)], frames[min(i, len(frames) - 1)]
    return near[0] if abs(near[0].time - when) <= abs(near[1].time - when) else near[1]


def _near_numbers(samples: Sequence[tuple[float, np.ndarray]], when: float) -> np.ndarray:
    """Numbers of the sample whose time is nearest."""
    return min(samples, key=lambda sample: abs(sample[0] - when))[1]
