"""Stage 4: the box, the distance from the base's axis, the table under the finger tips, and boxes to keep out of.

A target outside is replaced by a near point inside (``project``); the limiter asks of every pose that it may still come
through how far that is outside (``excess``), and does not go where that is above zero.
"""

from __future__ import annotations

import math

from robopolicy.real_robot.limits import Box, SafetyLimits
from robopolicy.real_robot.safety.vectors import Quaternion, Vector, length, minus, vertical_row

FAR = 0.05  # m outside from which a raw target is a mistake
FAR_TICKS = 3  # in a row before the arm holds for it
# Extent of the Franka Hand's fingers about the tool centre point, m: sideways (hand x), outwards from the inner face
# (hand y), and beyond the point (hand z).  Rounded up from the maker's drawing; other fingers need other numbers.
FINGER_X, FINGER_Y, FINGER_Z = 0.011, 0.015, 0.010
INSIDE = 1e-9  # m by which projected points are put inside, so that rounding does not put them outside
ROUNDS = 8


class Workspace:
    """The space of one ``SafetyLimits``."""

    def __init__(self, limits: SafetyLimits) -> None:
        self._low = tuple(v + INSIDE for v in limits.workspace.low)
        self._high = tuple(v - INSIDE for v in limits.workspace.high)
        self._inner, self._outer = limits.radius_min + INSIDE, limits.radius_max - INSIDE
        self._floor = limits.floor + INSIDE
        self._out: tuple[Box, ...] = limits.keep_out

    def tips(self, q: Quaternion, width: float) -> float:
        """How far the lowest point of the fingers is below the tool centre point, m (never below zero)."""
        x, y, z = vertical_row(q)
        return abs(x) * FINGER_X + abs(y) * (0.5 * width + FINGER_Y) + max(0.0, -z) * FINGER_Z

    def _push_out(self, p: Vector) -> Vector:
        for box in self._out:
            if all(a < v < b for a, v, b in zip(box.low, p, box.high, strict=True)):
                ways = [(p[i] - box.low[i], i, box.low[i] - INSIDE) for i in range(3)]
                ways += [(box.high[i] - p[i], i, box.high[i] + INSIDE) for i in range(3)]
                ways = [w for w in ways if self._low[w[1]] <= w[2] <= self._high[w[1]]]
                if not ways:
                    continue
                _, axis, value = min(ways)
                p = (value if axis == 0 else p[0], value if axis == 1 else p[1], value if axis == 2 else p[2])
        return p

    def project(self, p: Vector, q: Quaternion, width: float) -> Vector:
        """A near point inside, or ``p`` itself; where the parts of the workspace leave no room, one that is still
        outside (``excess`` says so)."""
        drop = self.tips(q, width)
        for _ in range(ROUNDS):
            if self.excess(p, q, width) <= 0:
                break
            x, y, z = (min(max(v, a), b) for v, a, b in zip(p, self._low, self._high, strict=True))
            radius = math.hypot(x, y)
            wanted = min(max(radius, self._inner), self._outer)
            if radius != wanted:
                # On the base's own axis every direction is as good: forwards.
                x, y = (x * wanted / radius, y * wanted / radius) if radius > 1e-6 else (wanted, 0.0)
            p = self._push_out((x, y, max(z, self._floor + drop)))
        return p

    def excess(self, p: Vector, q: Quaternion, width: float) -> float:
        """Metres that a pose is outside; zero or less inside."""
        return max(self.excess_of_point(p), self._floor + self.tips(q, width) - p[2])

    def excess_of_tips(self, p: Vector, q: Quaternion, width: float) -> float:
        """The part of ``excess`` that depends on the rotation."""
        return self._floor + self.tips(q, width) - p[2]

    def lowest(self, width: float) -> float:
        """Height of the tool centre point above which no rotation can bring the fingers to the table."""
        return self._floor + FINGER_X + FINGER_Y + 0.5 * width + FINGER_Z

    def excess_of_point(self, p: Vector) -> float:
        """The part of ``excess`` that the tool centre point alone decides; as a lower bound of the distance to the
        outside it may be taken with its sign turned."""
        low, high = self._low, self._high
        radius = math.hypot(p[0], p[1])
        worst = max(
            *(low[0] - p[0], low[1] - p[1], low[2] - p[2], p[0] - high[0], p[1] - high[1], p[2] - high[2]),
            *(self._inner - radius, radius - self._outer),
        )
        for box in self._out:
            worst = max(worst, min(min(v - a, b - v) for a, v, b in zip(box.low, p, box.high, strict=True)))
        return worst

    def width_allowed(self, p: Vector, q: Quaternion, width: float) -> float:
        """The widest opening up to ``width`` with which the finger tips stay above the table at this pose."""
        x, y, z = vertical_row(q)
        room = p[2] - self._floor - abs(x) * FINGER_X - max(0.0, -z) * FINGER_Z - abs(y) * FINGER_Y
        if abs(y) < 1e-6:
            return width
        return min(width, max(0.0, 2 * room / abs(y)))


def too_far(raw: Vector, projected: Vector) -> bool:
    """Whether a raw target is so far outside that it is a mistake."""
    return length(minus(raw, projected)) > FAR
