"""Three numbers and four, as tuples: what ``robopolicy.real_robot.frames`` computes, for one sample at a time.

The filter looks some dozens of ticks ahead at every tick; on three numbers a NumPy call costs ten times the sum.
Quaternions are x, y, z, w.  A test holds every function here to its namesake in ``frames``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]
ZERO: Vector = (0.0, 0.0, 0.0)


def vector(values: Iterable[float]) -> Vector:
    """Three floats of any sequence of three numbers."""
    x, y, z = values
    return float(x), float(y), float(z)


def quaternion(values: Iterable[float]) -> Quaternion:
    """Four floats of any sequence of four numbers."""
    x, y, z, w = values
    return float(x), float(y), float(z), float(w)


def add(a: Vector, b: Vector) -> Vector:
    """``a + b``."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def minus(a: Vector, b: Vector) -> Vector:
    """``a - b``."""
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def along(a: Vector, b: Vector, share: float) -> Vector:
    """``a + share * b``."""
    return a[0] + share * b[0], a[1] + share * b[1], a[2] + share * b[2]


def times(a: Vector, factor: float) -> Vector:
    """``factor * a``."""
    return factor * a[0], factor * a[1], factor * a[2]


def dot(a: Vector, b: Vector) -> float:
    """Inner product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def length(a: Vector) -> float:
    """Euclidean length; no overflow for large numbers."""
    return math.hypot(a[0], a[1], a[2])


def capped(a: Vector, most: float) -> Vector:
    """``a``, shortened to length ``most`` if it is longer."""
    size = math.sqrt(a[0] * a[0] + a[1] * a[1] + a[2] * a[2])
    return a if size <= most else times(a, most / size)


def multiply(a: Quaternion, b: Quaternion) -> Quaternion:
    """The rotation ``b`` followed by ``a``."""
    ax, ay, az, aw = a
    bx, by, bz, bw = b
    return (
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    )


def turned(q: Quaternion, way: Vector) -> Quaternion:
    """``q`` turned further by the rotation vector ``way`` of the base frame; normalised."""
    angle = math.sqrt(way[0] * way[0] + way[1] * way[1] + way[2] * way[2])
    scale = 0.5 - angle * angle / 48 if angle < 1e-4 else math.sin(0.5 * angle) / angle
    x, y, z, w = multiply((scale * way[0], scale * way[1], scale * way[2], math.cos(0.5 * angle)), q)
    size = math.sqrt(x * x + y * y + z * z + w * w)
    return x / size, y / size, z / size, w / size


def difference(start: Quaternion, end: Quaternion) -> Vector:
    """Rotation vector of the base frame, at most pi long, that turns ``start`` into ``end``."""
    x, y, z, w = multiply(end, (-start[0], -start[1], -start[2], start[3]))
    if w < 0:
        x, y, z, w = -x, -y, -z, -w
    sine = math.sqrt(x * x + y * y + z * z)
    scale = 2.0 if sine < 1e-9 else 2.0 * math.atan2(sine, w) / sine
    return scale * x, scale * y, scale * z


def angle(start: Quaternion, end: Quaternion) -> float:
    """Angle between two rotations, 0..pi."""
    return length(difference(start, end))


def vertical_row(q: Quaternion) -> Vector:
    """Third row of the rotation matrix: how far up the tool's x, y and z axes point, each -1..1."""
    x, y, z, w = q
    return 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
