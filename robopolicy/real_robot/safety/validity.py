"""Stage 1: numbers are numbers of a sane size, shapes right, quaternions nearly unit; then exactly, and of one sign.

Differs from clamping on purpose: a broken number is refused, never mended (clamping infinity is full speed).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.safety.types import Measured, Setpoint
from robopolicy.real_robot.safety.vectors import Quaternion, Vector, capped, quaternion, times, vector

LARGEST = 1e3  # m, rad, m/s, rad/s, N: no arm has such numbers, and squares of much larger ones overflow
NORM = (0.95, 1.05)  # of a quaternion; beyond it, it is a mistake and no rounding


STRIKE_WINDOW = 10.0  # s within which a second broken setpoint or chunk is a fault


class Strikes:
    """Counts broken inputs, across runs."""

    def __init__(self) -> None:
        self._last = -math.inf

    def second(self, now: float) -> bool:
        """Note one at ``now``; whether another came within the ten seconds before."""
        again = now - self._last <= STRIKE_WINDOW
        self._last = now
        return again


@dataclass(frozen=True)
class Wish:
    """A setpoint that passed this stage."""

    position: Vector
    quaternion: Quaternion
    velocity: Vector
    turning: Vector


@dataclass(frozen=True)
class Sample:
    """A measured state that passed this stage; ``q`` is empty or seven angles."""

    at: float
    position: Vector
    quaternion: Quaternion
    velocity: Vector
    turning: Vector
    q: np.ndarray
    force: float
    width: float


def sane(pose: Pose) -> bool:
    """Whether all numbers of a pose, or of a track of poses, are finite and of a size that an arm can have."""
    return bool((np.abs(pose.position) <= LARGEST).all() and (np.abs(pose.quaternion) <= LARGEST).all())


def unit(values: Iterable[float]) -> Quaternion | None:
    """The quaternion normalised, or ``None`` if its norm is not within 0.95..1.05."""
    x, y, z, w = quaternion(values)
    size = math.hypot(x, y, z, w)
    if not NORM[0] <= size <= NORM[1]:
        return None
    return x / size, y / size, z / size, w / size


def hemisphere(q: Quaternion, reference: Quaternion) -> Quaternion:
    """``q`` or its negative, whichever is nearer to ``reference``."""
    near = sum(a * b for a, b in zip(q, reference, strict=True))
    return q if near >= 0 else (-q[0], -q[1], -q[2], -q[3])


def _shaped(values: object, size: int) -> bool:
    array = np.asarray(values)
    # NaN compares as false.
    return array.shape == (size,) and array.dtype.kind in "fiu" and bool((np.abs(array) <= LARGEST).all())


def checked_setpoint(s: Setpoint, reference: Quaternion) -> Wish | None:
    """The setpoint with a unit quaternion in the hemisphere of ``reference``, or ``None`` if anything is wrong with
    it."""
    if not (_shaped(s.position, 3) and _shaped(s.quaternion, 4) and _shaped(s.rate, 6)):
        return None
    if s.gripper is not None and not math.isfinite(s.gripper):
        return None
    if math.isnan(s.left) or math.isnan(s.turn_left) or (s.action is not None and not sane(s.action)):
        return None
    turned = unit(s.quaternion)
    if turned is None:
        return None
    return Wish(vector(s.position), hemisphere(turned, reference), vector(s.rate[:3]), vector(s.rate[3:]))


def unchecked_setpoint(s: Setpoint) -> Wish:
    """What remains of this stage when it is taken out: the numbers as they are."""
    return Wish(vector(s.position), quaternion(s.quaternion), vector(s.rate[:3]), vector(s.rate[3:]))


def checked_sample(m: Measured) -> Sample | None:
    """The state, or ``None`` if anything in it is no number: then nothing of it is believed."""
    shapes = ((m.position, 3), (m.quaternion, 4), (m.twist, 6), (m.force, 3))
    if not all(_shaped(values, size) for values, size in shapes) or not (
        math.isfinite(m.at) and math.isfinite(m.width)
    ):
        return None
    if len(m.q) and not _shaped(m.q, 7):
        return None
    turned = unit(m.quaternion)
    if turned is None:
        return None
    twist = np.asarray(m.twist, np.float64)
    force = math.hypot(*vector(m.force))
    return Sample(
        m.at,
        vector(m.position),
        turned,
        vector(twist[:3]),
        vector(twist[3:]),
        np.asarray(m.q, np.float64),
        force,
        m.width,
    )


def carried(sample: Sample, seconds: float, speed: float, turn_speed: float) -> tuple[Vector, Vector]:
    """Way and turn of the measured motion over some ``seconds``, its speeds first capped: a noisy twist must not carry
    the stop target away."""
    return times(capped(sample.velocity, speed), seconds), times(capped(sample.turning, turn_speed), seconds)
