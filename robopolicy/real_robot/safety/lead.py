"""Stage 6: a setpoint is never far ahead of where the arm was measured to be.

The strongest limit: an impedance controller pulls with stiffness times lead, so this bounds force, speed and the way
the arm goes on after a lost link, whatever else fails.  The ball is centred on the *measured* pose, never on the last
command.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from robopolicy.real_robot.limits import SafetyLimits
from robopolicy.real_robot.safety.vectors import (
    Quaternion,
    Vector,
    along,
    angle,
    difference,
    dot,
    length,
    minus,
    times,
    turned,
)

SOFT = 0.97  # of the cap: where the limiter keeps to, so that a trembling measurement does not drag the setpoint


@dataclass(frozen=True)
class Lead:
    """The two caps: ``most`` metres, ``most_turn`` radians."""

    most: float
    most_turn: float

    @staticmethod
    def of(limits: SafetyLimits) -> Lead:
        """The caps of some limits."""
        return Lead(limits.lead, limits.turn_lead)

    def room(self, p: Vector, direction: Vector, measured: Vector) -> float:
        """Way from ``p`` along the unit vector ``direction`` until the soft ball is left; 0 when that is behind."""
        return _exit(minus(p, measured), direction, SOFT * self.most)

    def turn_room(self, q: Quaternion, direction: Vector, measured: Quaternion) -> float:
        """The same for rotation, radians; exact for turns about the axis of the lead, near it for others."""
        return _exit(difference(measured, q), direction, SOFT * self.most_turn)

    def drag(self, p: Vector, measured: Vector) -> Vector | None:
        """``p`` drawn onto the cap, or ``None`` if it is within."""
        away = minus(p, measured)
        size = length(away)
        return None if size <= self.most else along(measured, away, self.most * (1 - 1e-9) / size)

    def turn_drag(self, q: Quaternion, measured: Quaternion) -> Quaternion | None:
        """The same for rotation; the sign is that of ``q``."""
        way = difference(measured, q)
        size = length(way)
        if size <= self.most_turn:
            return None
        drawn = turned(measured, times(way, self.most_turn * (1 - 1e-9) / size))
        same = sum(a * b for a, b in zip(drawn, q, strict=True)) >= 0
        return drawn if same else (-drawn[0], -drawn[1], -drawn[2], -drawn[3])

    def fits(self, p: Vector, q: Quaternion, measured: Vector, measured_q: Quaternion) -> bool:
        """Whether a pose is within both caps, to a micrometre."""
        return length(minus(p, measured)) <= self.most + 1e-6 and angle(measured_q, q) <= self.most_turn + 1e-6


def _exit(away: Vector, direction: Vector, radius: float) -> float:
    """Distance along a ray to where it leaves the ball of ``radius`` about the origin; 0 if it never is in it again."""
    b = dot(away, direction)
    inside = radius * radius - dot(away, away)
    under = b * b + inside
    return max(0.0, math.sqrt(under) - b) if under > 0 and (inside >= 0 or b < 0) else 0.0
