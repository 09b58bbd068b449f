"""Poses and rotations at the robot's border: quaternions in ROS order, rotation vectors, interpolation, in NumPy.

Source: unit quaternions (Shoemake 1985 for slerp); six numbers of a rotation as Zhou et al. 2019 (arXiv 1812.07035).
Every quaternion here is **x, y, z, w**, as on the wire; MuJoCo's w, x, y, z is met in two functions and nowhere else.
All functions work over any leading axes and pass NaN on, so that a filter can look for it afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from robopolicy.core.errors import ConfigError

SixForm = Literal["rows", "columns"]
"""Which part of the matrix six numbers hold: its first two ``rows``, as the simulators, robomimic and Diffusion Policy,
or its first two ``columns``, as the 3D heads (``robopolicy.policies.poses``)."""

IDENTITY = np.array((0.0, 0.0, 0.0, 1.0))


@dataclass(frozen=True, eq=False)
class Pose:
    """Where a frame is: ``position (..., 3)`` in metres and ``quaternion (..., 4)`` x, y, z, w, in the base frame.

    Both become float64 arrays that cannot be written to.  Numbers are not judged here (the safety filter does that);
    shapes are: anything but 3 and 4 numbers with the same leading axes raises ``ConfigError``.
    """

    position: np.ndarray
    quaternion: np.ndarray

    def __post_init__(self) -> None:
        position, quaternion = np.array(self.position, np.float64), np.array(self.quaternion, np.float64)
        if position.shape[-1:] != (3,) or quaternion.shape != (*position.shape[:-1], 4):
            raise ConfigError(
                "pose: expected a position (..., 3) and a quaternion (..., 4) x, y, z, w, got shapes "
                f"{position.shape} and {quaternion.shape}"
            )
        position.flags.writeable = quaternion.flags.writeable = False
        object.__setattr__(self, "position", position)
        object.__setattr__(self, "quaternion", quaternion)

    @staticmethod
    def of_matrix(matrix: ArrayLike) -> Pose:
        """Pose of homogeneous matrices ``(..., 4, 4)``."""
        m = np.asarray(matrix, np.float64)
        return Pose(m[..., :3, 3], quaternion_of_matrix(m[..., :3, :3]))

    def matrix(self) -> np.ndarray:
        """Homogeneous matrices ``(..., 4, 4)``."""
        out = np.zeros((*self.position.shape[:-1], 4, 4))
        out[..., :3, :3], out[..., :3, 3], out[..., 3, 3] = matrix_of_quaternion(self.quaternion), self.position, 1.0
        return out

    def finite(self) -> bool:
        """Whether no number is NaN or infinite."""
        return bool(np.isfinite(self.position).all() and np.isfinite(self.quaternion).all())


# -- order, sign, length -----------------------------------------------------------------------------------------------


def xyzw_of_wxyz(quaternion: ArrayLike) -> np.ndarray:
    """MuJoCo's order ``(..., 4)`` to that of ROS."""
    return np.roll(np.asarray(quaternion, np.float64), -1, axis=-1)


def wxyz_of_xyzw(quaternion: ArrayLike) -> np.ndarray:
    """The order of ROS ``(..., 4)`` to MuJoCo's."""
    return np.roll(np.asarray(quaternion, np.float64), 1, axis=-1)


def normalised(quaternion: ArrayLike) -> np.ndarray:
    """Unit quaternions ``(..., 4)``; zero and non-finite ones become NaN, never some rotation."""
    q = np.asarray(quaternion, np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        unit: np.ndarray = q / np.linalg.norm(q, axis=-1, keepdims=True)
    return unit


def hemisphere(quaternion: ArrayLike, reference: ArrayLike) -> np.ndarray:
    """``quaternion (..., 4)`` or its negative, the same rotation, whichever is nearer to ``reference (..., 4)``."""
    q = np.asarray(quaternion, np.float64)
    dot = np.sum(q * np.asarray(reference, np.float64), axis=-1, keepdims=True)
    out: np.ndarray = np.where(dot < 0, -q, q)
    return out


def _parts(vector: ArrayLike) -> list[np.ndarray]:
    """Components along the last axis; unlike ``np.moveaxis`` at next to no cost, which counts at every tick."""
    v = np.asarray(vector, np.float64)
    return [v[..., i] for i in range(v.shape[-1])]


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    (ax, ay, az), (bx, by, bz) = _parts(a), _parts(b)
    return np.stack((ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx), axis=-1)


# -- algebra -----------------------------------------------------------------------------------------------------------


def multiply(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """The rotation ``b`` followed by ``a``, both ``(..., 4)``."""
    (ax, ay, az, aw), (bx, by, bz, bw) = _parts(a), _parts(b)
    parts = (
        *(aw * bx + ax * bw + ay * bz - az * by, aw * by - ax * bz + ay * bw + az * bx),
        *(aw * bz + ax * by - ay * bx + az * bw, aw * bw - ax * bx - ay * by - az * bz),
    )
    return np.stack(parts, axis=-1)


def conjugate(quaternion: ArrayLike) -> np.ndarray:
    """The opposite rotation of unit quaternions ``(..., 4)``."""
    out: np.ndarray = np.asarray(quaternion, np.float64) * (-1.0, -1.0, -1.0, 1.0)
    return out


def rotate(quaternion: ArrayLike, vector: ArrayLike) -> np.ndarray:
    """``vector (..., 3)`` turned by unit quaternions ``(..., 4)``."""
    q, v = np.asarray(quaternion, np.float64), np.asarray(vector, np.float64)
    twice = 2.0 * _cross(q[..., :3], v)
    out: np.ndarray = v + q[..., 3:] * twice + _cross(q[..., :3], twice)
    return out


def quaternion_of_vector(vector: ArrayLike) -> np.ndarray:
    """Quaternions ``(..., 4)`` of rotation vectors ``(..., 3)`` in radians."""
    v = np.asarray(vector, np.float64)
    half = 0.5 * np.linalg.norm(v, axis=-1, keepdims=True)
    # np.sinc(x) is sin(pi x) / (pi x), exact at zero.
    return np.concatenate((0.5 * np.sinc(half / np.pi) * v, np.cos(half)), axis=-1)


def vector_of_quaternion(quaternion: ArrayLike) -> np.ndarray:
    """Rotation vectors ``(..., 3)``, at most pi long, of unit quaternions ``(..., 4)``."""
    q = np.asarray(quaternion, np.float64)
    q = np.where(q[..., 3:] < 0, -q, q)
    sine = np.linalg.norm(q[..., :3], axis=-1, keepdims=True)
    scale = np.where(sine < 1e-9, 2.0, 2.0 * np.arctan2(sine, q[..., 3:]) / np.where(sine < 1e-9, 1.0, sine))
    out: np.ndarray = scale * q[..., :3]
    return out


def difference(start: ArrayLike, end: ArrayLike) -> np.ndarray:
    """Rotation vector ``(..., 3)``, radians in the base frame, that turns ``start (..., 4)`` into ``end (..., 4)``."""
    return vector_of_quaternion(multiply(end, conjugate(start)))


def turned(quaternion: ArrayLike, vector: ArrayLike) -> np.ndarray:
    """``quaternion (..., 4)`` turned further by rotation vectors ``(..., 3)`` of the base frame; see ``difference``."""
    return multiply(quaternion_of_vector(vector), quaternion)


def slerp(start: ArrayLike, end: ArrayLike, share: ArrayLike) -> np.ndarray:
    """Rotation ``share`` of the short way from ``start`` to ``end`` (``(..., 4)``), at an even rate.

    The result is in the hemisphere of ``start``; ``share (...)`` may leave 0..1, which goes on at the same rate.
    """
    way = difference(start, end) * np.asarray(share, np.float64)[..., None]
    return hemisphere(turned(start, way), start)


def interpolate(start: Pose, end: Pose, share: ArrayLike) -> Pose:
    """Pose ``share (...)`` of the way: straight in position, slerp in rotation."""
    t = np.asarray(share, np.float64)
    position = start.position + (end.position - start.position) * t[..., None]
    return Pose(position, slerp(start.quaternion, end.quaternion, t))


def at_time(stamps: ArrayLike, track: Pose, when: float) -> Pose:
    """Pose at time ``when`` on a ``track`` of N poses with rising ``stamps (N,)``; the ends are held, not extrapolated.

    Raises ``ConfigError`` for an empty track or one whose length is not that of the stamps.
    """
    times = np.asarray(stamps, np.float64)
    if times.ndim != 1 or not len(times) or track.position.shape != (len(times), 3):
        raise ConfigError(f"track: expected N >= 1 stamps and N poses, got {times.shape} and {track.position.shape}")
    after = int(np.searchsorted(times, when, side="right"))
    if after in (0, len(times)):
        end = min(after, len(times) - 1)
        return Pose(track.position[end], track.quaternion[end])
    a, b = (Pose(track.position[i], track.quaternion[i]) for i in (after - 1, after))
    return interpolate(a, b, (when - times[after - 1]) / (times[after] - times[after - 1]))


# -- other forms -------------------------------------------------------------------------------------------------------


def matrix_of_quaternion(quaternion: ArrayLike) -> np.ndarray:
    """Rotation matrices ``(..., 3, 3)`` of unit quaternions ``(..., 4)``."""
    x, y, z, w = _parts(quaternion)
    rows = (
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return np.stack(rows, axis=-1).reshape(*x.shape, 3, 3)


def quaternion_of_matrix(matrix: ArrayLike) -> np.ndarray:
    """Unit quaternions ``(..., 4)`` with ``w >= 0`` of rotation matrices ``(..., 3, 3)``, exact near half turns too."""
    m = np.asarray(matrix, np.float64)
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = ([m[..., i, j] for j in range(3)] for i in range(3))
    # 4 q q^T, x y z w: each row is the quaternion times four of its components; the one with the largest is taken.
    table = np.stack(
        (
            np.stack((1 + xx - yy - zz, xy + yx, xz + zx, zy - yz), -1),
            np.stack((xy + yx, 1 - xx + yy - zz, yz + zy, xz - zx), -1),
            np.stack((xz + zx, yz + zy, 1 - xx - yy + zz, yx - xy), -1),
            np.stack((zy - yz, xz - zx, yx - xy, 1 + xx + yy + zz), -1),
        ),
        axis=-2,
    )
    largest = np.argmax(np.diagonal(table, axis1=-2, axis2=-1), axis=-1)
    row = normalised(np.take_along_axis(table, largest[..., None, None], axis=-2)[..., 0, :])
    out: np.ndarray = np.where(row[..., 3:] < 0, -row, row)
    return out


def six_of_quaternion(quaternion: ArrayLike, form: SixForm = "rows") -> np.ndarray:
    """Six numbers ``(..., 6)`` of unit quaternions ``(..., 4)``, in the order of ``SixForm``."""
    m = matrix_of_quaternion(quaternion)
    m = m if form == "rows" else np.swapaxes(m, -1, -2)
    return m[..., :2, :].reshape(*m.shape[:-2], 6).copy()


def quaternion_of_six(six: ArrayLike, form: SixForm = "rows") -> np.ndarray:
    """Unit quaternions ``(..., 4)`` of six numbers ``(..., 6)`` by Gram-Schmidt; parallel or zero halves give NaN."""
    numbers = np.asarray(six, np.float64)
    first, second = numbers[..., :3], numbers[..., 3:]
    first = normalised(first)
    rest = second - np.sum(first * second, axis=-1, keepdims=True) * first
    # What rounding leaves of parallel halves is no direction.
    size, full = np.linalg.norm(rest, axis=-1, keepdims=True), np.linalg.norm(second, axis=-1, keepdims=True)
    second = normalised(np.where(size > 1e-9 * full, rest, np.nan))
    m = np.stack((first, second, _cross(first, second)), axis=-2)
    return quaternion_of_matrix(m if form == "rows" else np.swapaxes(m, -1, -2))


def downward(yaw: ArrayLike) -> np.ndarray:
    """Quaternions ``(..., 4)`` of a hand that points straight down, turned by ``yaw (...)`` radians about the base's z.

    The rotation of the embedded tasks' actions; ``downward(0)`` is that of the start pose, (1, 0, 0, 0).
    """
    half = 0.5 * np.asarray(yaw, np.float64)
    zero = np.zeros_like(half)
    return np.stack((np.cos(half), np.sin(half), zero, zero), axis=-1)


def yaw_of(quaternion: ArrayLike) -> np.ndarray:
    """Yaw ``(...)`` in -pi..pi whose downward hand is nearest to ``quaternion (..., 4)``; see ``downward``."""
    m = matrix_of_quaternion(quaternion)
    return np.arctan2(m[..., 1, 0] + m[..., 0, 1], m[..., 0, 0] - m[..., 1, 1])
