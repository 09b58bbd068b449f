"""A plan in time: from chunks of dated actions to one target per tick.

Source: dated chunks and dropping of late actions as in Diffusion Policy (arXiv 2303.04137, real-robot section) and UMI
(arXiv 2402.10329, section on latency).  Differs: a chunk that is late altogether is counted and thrown away, its last
action is *not* executed; a chunk is cut where it jumps; a segment too fast for the limits is stretched.

Times are local monotonic seconds.  An action due at t is passed at t - latency, since the arm lags its target.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from robopolicy.core.errors import InvalidChunk
from robopolicy.real_robot.frames import Pose, difference, hemisphere, interpolate, normalised
from robopolicy.real_robot.limits import SafetyLimits
from robopolicy.real_robot.safety.jump import first_jump
from robopolicy.real_robot.safety.limiter import CRUISE
from robopolicy.real_robot.safety.types import Setpoint
from robopolicy.real_robot.safety.validity import LARGEST, NORM, sane

SLACK = 0.010  # s before now within which an action already counts as late
GAP = 1.0  # s that may pass before the first action of a chunk and between two: a pause in it would look like a plan
SHORTEST = 1e-3  # s of an action period; far shorter ones overflow where they are divided by
LONGEST, MOST = 60.0, 1024  # s that a chunk may reach ahead, and actions that it may have
STRETCH = 2.0  # action periods by which stretching may shift an action before the rest is dropped
ARM_LATENCY, GRIPPER_LATENCY = 0.20, 0.10  # s; where calibration starts from


@dataclass(frozen=True, eq=False)
class Waypoints:
    """A chunk of N actions as poses of the tool in the base frame.

    ``track``: positions ``(N, 3)`` m, quaternions ``(N, 4)`` x, y, z, w.  ``stamps (N,)``: when each is due, rising.
    ``dt``: seconds of an action period.  ``epoch``: of the run it was asked for.  ``gripper (N,)``: widths in m, or
    ``None``.  ``chunk``: a number of the caller's.
    """

    track: Pose
    stamps: np.ndarray
    dt: float
    epoch: int
    gripper: np.ndarray | None = None
    chunk: int = 0

    def problem(self) -> str | None:
        """Why the whole chunk must be refused, or ``None``."""
        try:
            stamps, dt = np.asarray(self.stamps, np.float64), float(self.dt)
            grip = None if self.gripper is None else np.asarray(self.gripper, np.float64)
        except (TypeError, ValueError):
            return "chunk: something in its stamps, dt or gripper widths is no number"
        n = len(stamps) if stamps.ndim == 1 else 0
        if n == 0 or self.track.position.shape != (n, 3) or (grip is not None and np.shape(grip) != (n,)):
            return (
                f"chunk: expected N >= 1 stamps, poses and gripper widths, got {stamps.shape}, "
                f"{self.track.position.shape} and {np.shape(grip) if grip is not None else None}"
            )
        if n > MOST or (np.isfinite(dt) and dt > GAP):
            return f"chunk: {n} actions of {dt:g} s, limits {MOST} and {GAP:g} s"
        if not sane(self.track) or not np.isfinite(stamps).all() or not (np.isfinite(dt) and dt > 0):
            return f"chunk: a number in it is not finite or beyond {LARGEST:g}, or dt is not above zero"
        if grip is not None and not np.isfinite(grip).all():
            return "chunk: a gripper width is not finite"
        norms = np.linalg.norm(self.track.quaternion, axis=-1)
        if not ((norms >= NORM[0]) & (norms <= NORM[1])).all():
            return f"chunk: a quaternion has norm {norms[np.argmax(np.abs(norms - 1))]:.3f}, expected 1"
        if dt < SHORTEST:
            return f"chunk: dt of {dt:g} s, expected {SHORTEST:g} s or more"
        gaps = np.diff(stamps)
        if (gaps <= 0).any():
            return "chunk: its stamps do not rise"
        if (gaps > GAP).any() or stamps[-1] - stamps[0] > LONGEST:
            return (
                f"chunk: {max(gaps):.1f} s between two actions and {stamps[-1] - stamps[0]:.1f} s in all, limits "
                f"{GAP:g} s and {LONGEST:g} s"
            )
        return None


@dataclass(frozen=True)
class Merge:
    """What became of a chunk: ``taken`` actions; ``late`` ones dropped; ``over_budget``: all were late and the old plan
    goes on; ``stale``: of an older epoch; ``jump``: index in the chunk where it was cut for a jump; ``slow``: actions
    cut off because stretching shifted them too far; ``refused``: why none of it was taken."""

    taken: int = 0
    late: int = 0
    over_budget: bool = False
    stale: bool = False
    jump: int | None = None
    slow: int = 0
    refused: str | None = None


@dataclass
class _Knots:
    """The plan in force: K times, poses, and what each pose is."""

    times: np.ndarray
    track: Pose
    numbers: list[int]
    steps: list[int]
    left: np.ndarray
    turn_left: np.ndarray


@dataclass
class Plan:
    """The reference that the filter follows."""

    limits: SafetyLimits
    latency: float = ARM_LATENCY
    gripper_latency: float = GRIPPER_LATENCY
    epoch: int = 0
    starved: int = field(default=0, init=False)
    over_budget: int = field(default=0, init=False)
    _knots: _Knots | None = field(default=None, init=False)
    _grips: list[tuple[float, float]] = field(default_factory=list, init=False)
    _grip: float | None = field(default=None, init=False)
    _number: int = field(default=0, init=False)
    _dt: float = field(default=0.1, init=False)

    def start(self, at: Pose, now: float, epoch: int) -> None:
        """An empty plan for a new run that begins with the tool at ``at``."""
        self.epoch = epoch
        self._grips, self._grip = [], None
        self._stay(at, now)

    def clear(self, epoch: int) -> None:
        """Forget everything; chunks of earlier epochs are ignored from now on."""
        self.epoch, self._knots, self._grips = epoch, None, []

    def _stay(self, at: Pose, now: float) -> None:
        single = Pose(at.position[None], at.quaternion[None])
        self._knots = _Knots(np.array((now,)), single, [self._number], [1], np.zeros(1), np.zeros(1))

    def stop(self, now: float) -> None:
        """Drop what lies ahead and stay where the plan is now (a chunk was refused)."""
        if self._knots is not None:
            self._stay(self._reference(now)[0], now)
            self._grips = []

    # -- chunks --------------------------------------------------------------------------------------------------------

    def merge(self, chunk: Waypoints, now: float) -> Merge:
        """Replace what lies ahead by the actions of ``chunk`` that are not late.  Raises ``InvalidChunk`` before
        ``start``."""
        if chunk.epoch != self.epoch:
            return Merge(stale=True)
        if self._knots is None:
            raise InvalidChunk("plan: merge() before start(); a run must be started first")
        if (problem := chunk.problem()) is not None:
            self.stop(now)
            return Merge(refused=problem)
        due = np.asarray(chunk.stamps, np.float64) - self.latency
        late = int(np.searchsorted(due, now + SLACK, side="right"))
        if late == len(due):
            self.over_budget += 1
            return Merge(late=late, over_budget=True)
        if due[late] - now > GAP:
            # However full of actions, until then there is nothing to do, and nobody would call it starvation.
            self.stop(now)
            return Merge(refused=f"chunk: its first action is due in {due[late] - now:.1f} s, limit {GAP:g} s")
        before, when = self._previous(now)
        steps = max(1, round((due[late] - when) / chunk.dt))
        track = Pose(chunk.track.position[late:], normalised(chunk.track.quaternion[late:]))
        jump = first_jump(before, track, self.limits, steps)
        end = len(track.position) if jump is None else jump
        here = self._reference(now)[0]
        kept = Pose(track.position[:end], track.quaternion[:end])
        times = self._stretched(here, kept, due[late:], now, chunk.dt)
        taken = len(times)
        self._set(here, now, Pose(track.position[:taken], track.quaternion[:taken]), times, steps)
        self._dt = chunk.dt
        shift = times - due[late : late + taken]
        if chunk.gripper is not None:
            opens = np.asarray(chunk.stamps, np.float64)[late : late + taken] - self.gripper_latency + shift
            widths = np.asarray(chunk.gripper, np.float64)[late : late + taken]
            self._grips = list(zip(opens.tolist(), widths.tolist(), strict=True))
        return Merge(taken, late, jump=None if jump is None else late + jump, slow=end - taken)

    def _stretched(self, here: Pose, track: Pose, due: np.ndarray, now: float, dt: float) -> np.ndarray:
        """Times at which the actions can be passed at the speed limits, as many as are not shifted too far."""
        n = len(track.position)
        if n == 0:
            return np.zeros(0)
        positions = np.vstack((here.position[None], track.position))
        turns = np.vstack((here.quaternion[None], track.quaternion))
        need = np.maximum(
            np.linalg.norm(np.diff(positions, axis=0), axis=-1) / (CRUISE * self.limits.speed),
            np.linalg.norm(difference(turns[:-1], turns[1:]), axis=-1) / (CRUISE * self.limits.turn_speed),
        )
        times, at, shift = [], now, 0.0
        for wanted, least in zip(due[:n].tolist(), need.tolist(), strict=True):
            at = max(wanted + shift, at + least)
            shift = at - wanted
            if shift > STRETCH * dt:
                break
            times.append(at)
        return np.array(times)

    def _set(self, here: Pose, now: float, track: Pose, times: np.ndarray, steps: int) -> None:
        if len(times) == 0:
            self._stay(here, now)
            return
        positions = np.vstack((here.position[None], track.position))
        turns = [here.quaternion]
        for q in track.quaternion:
            turns.append(hemisphere(q, turns[-1]))
        quaternions = np.array(turns)
        lengths = np.linalg.norm(np.diff(positions, axis=0), axis=-1)
        angles = np.linalg.norm(difference(quaternions[:-1], quaternions[1:]), axis=-1)
        numbers = [self._number, *range(self._number + 1, self._number + 1 + len(times))]
        self._number = numbers[-1]
        self._knots = _Knots(
            np.concatenate(((now,), times)),
            Pose(positions, quaternions),
            numbers,
            [1, steps] + [1] * (len(times) - 1),
            _remaining(lengths),
            _remaining(angles),
        )

    def _previous(self, now: float) -> tuple[Pose, float]:
        """The policy's action that the tool is on the way to, or was last at, and its time."""
        knots = self._knots
        assert knots is not None
        i = min(int(np.searchsorted(knots.times, now, side="right")), len(knots.times) - 1)
        return Pose(knots.track.position[i], knots.track.quaternion[i]), max(float(knots.times[i]), now - self._dt)

    # -- targets -------------------------------------------------------------------------------------------------------

    @property
    def end(self) -> float | None:
        """When the plan ends; in the past once it has; ``None`` without a plan."""
        return float(self._knots.times[-1]) if self._knots is not None else None

    def remaining(self, now: float) -> float:
        """Seconds until the plan ends, zero or more."""
        return max(0.0, (self.end or now) - now)

    def _reference(self, now: float) -> tuple[Pose, np.ndarray, int, float]:
        """Pose at ``now``, its rate, the knot ahead, and the share of the segment done."""
        knots = self._knots
        assert knots is not None
        i = int(np.searchsorted(knots.times, now, side="right"))
        if i in (0, len(knots.times)):
            i = min(i, len(knots.times) - 1)
            return Pose(knots.track.position[i], knots.track.quaternion[i]), np.zeros(6), i, 1.0
        a, b = (Pose(knots.track.position[k], knots.track.quaternion[k]) for k in (i - 1, i))
        span = float(knots.times[i] - knots.times[i - 1])
        share = (now - float(knots.times[i - 1])) / span
        rate = np.concatenate((b.position - a.position, difference(a.quaternion, b.quaternion))) / span
        return interpolate(a, b, share), rate, i, share

    def at(self, now: float) -> Setpoint | None:
        """Target at ``now``: of the plan, its end once that has passed, ``None`` without a plan."""
        knots = self._knots
        if knots is None:
            return None
        while self._grips and self._grips[0][0] <= now:
            self._grip = self._grips.pop(0)[1]
        pose, rate, i, share = self._reference(now)
        before = max(i - 1, 0)
        left = float(knots.left[i] + (1 - share) * (knots.left[before] - knots.left[i]))
        turn_left = float(knots.turn_left[i] + (1 - share) * (knots.turn_left[before] - knots.turn_left[i]))
        action = Pose(knots.track.position[i], knots.track.quaternion[i]) if i > 0 else None
        return Setpoint(
            *(pose.position, pose.quaternion, self._grip, rate, left, turn_left, action, knots.numbers[i]),
            action_steps=knots.steps[i],
            epoch=self.epoch,
        )


def _remaining(lengths: np.ndarray) -> np.ndarray:
    """Way from each knot to the last, ``(K,)`` for K - 1 segments."""
    return np.concatenate((np.cumsum(lengths[::-1])[::-1], np.zeros(1)))
