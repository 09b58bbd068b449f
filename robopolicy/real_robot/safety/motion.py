"""How a setpoint may move: speed, acceleration and jerk of three numbers, and the way it stops.

Source: nested saturation (position error to speed, speed error to acceleration, acceleration under a jerk limit), after
Kroeger & Wahl 2010 in purpose; the law is ours.  It serves positions and, as rates of a rotation, orientations.

Everything is in ticks of one fixed length: the difference quotients of what is emitted *are* the speed, acceleration
and jerk here, so that limits hold for them exactly and not for some continuous motion in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from robopolicy.core.errors import ConfigError
from robopolicy.real_robot.safety.vectors import ZERO, Vector, along, capped, length, minus, times

LONGEST_STOP = 2.0  # s that stopping may take by the limits; a filter that cannot stop sooner is refused
MOST_TICKS = 2000  # of the computed stop, after which there is a mistake
EASE = 0.8  # share of the acceleration that a planned slowing down uses; the rest is for what was not foreseen
ROUND = 1e-9  # relative room for rounding


@dataclass(frozen=True)
class Rates:
    """Limits of one kind of motion: ``speed``, ``acceleration``, ``jerk_time`` (s from no to full acceleration), and
    the ``tick`` in seconds.  Units are metres or radians.  The rest is derived: ``gain`` (1/s) from a speed error to an
    acceleration and ``pull`` (1/s) from a position error to a speed."""

    speed: float
    acceleration: float
    jerk_time: float
    tick: float
    gain: float = field(init=False)
    pull: float = field(init=False)
    jerk_step: float = field(init=False)

    def __post_init__(self) -> None:
        lasts = self.speed / self.acceleration + 2 * self.jerk_time
        if lasts > LONGEST_STOP:
            raise ConfigError(
                f"from {self.speed:g} per s with acceleration {self.acceleration:g} and jerk_time {self.jerk_time:g} s "
                f"a stop takes {lasts:.1f} s, more than {LONGEST_STOP:g}; raise the acceleration or lower the other two"
            )
        gain = min(2.0 / self.jerk_time, 0.4 / self.tick)
        derived = {
            "gain": gain,
            # A quarter of the gain is critical damping.
            "pull": min(0.25 * gain, self.acceleration / self.speed),
            # By how much the acceleration may change in a tick.
            "jerk_step": self.acceleration / self.jerk_time * self.tick,
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @property
    def jerk(self) -> float:
        """Largest jerk, per s3."""
        return self.jerk_step / self.tick

    def approach(self, distance: float) -> float:
        """Speed from which a gentle stop within ``distance`` is possible."""
        a, delay = EASE * self.acceleration, 1.0 / self.pull
        return math.sqrt(a * a * delay * delay + 2 * a * max(distance, 0.0)) - a * delay

    def reach(self, speed: float, acceleration: float) -> float:
        """Upper bound of the way to a stop, from these magnitudes, whatever their directions."""
        peak = speed + 0.5 * acceleration * acceleration / self.jerk + acceleration * self.tick
        return peak * (2.5 * self.jerk_time + 2.5 / self.gain) + 0.5 * peak * peak / self.acceleration

    def peak(self, speed: float, acceleration: float) -> float:
        """Upper bound of the speed on the way to a stop, likewise."""
        return speed + 0.5 * acceleration * acceleration / self.jerk + 2.0 * acceleration * self.tick


def towards(velocity: Vector, acceleration: Vector, wished: Vector, rates: Rates) -> tuple[Vector, Vector]:
    """One tick towards the velocity ``wished``: the new velocity and acceleration.

    The acceleration stays within its limit, and changes by no more than the jerk allows: it moves on a straight line
    between two points of the ball that the limit is.
    """
    aim = capped(times(minus(wished, velocity), rates.gain), rates.acceleration)
    acceleration = along(acceleration, capped(minus(aim, acceleration), rates.jerk_step), 1.0)
    return along(velocity, acceleration, rates.tick), acceleration


def braked(velocity: Vector, acceleration: Vector, rates: Rates) -> tuple[Vector, Vector]:
    """One tick of stopping.  A function of the state alone: the rest of a stop is the stop from where one is."""
    need = times(velocity, -1.0 / rates.tick)
    size = length(need)
    if size <= rates.jerk_step and length(minus(need, acceleration)) <= rates.jerk_step:
        # Slow enough to stand still at once, and to lose the acceleration of doing so a tick later.
        return ZERO, need if size else ZERO
    return towards(velocity, acceleration, ZERO, rates)


def stop(velocity: Vector, acceleration: Vector, rates: Rates) -> list[Vector]:
    """Velocities of the coming ticks of a stop, down to rest."""
    way = []
    while velocity != ZERO or acceleration != ZERO:
        velocity, acceleration = braked(velocity, acceleration, rates)
        way.append(velocity)
        if len(way) >= MOST_TICKS:
            raise AssertionError(f"no stop from {velocity}, {acceleration} within {MOST_TICKS} ticks")
    return way


def slow_enough(velocity: Vector, acceleration: Vector, way: Callable[[], list[Vector]], rates: Rates) -> bool:
    """Whether the speed is within its limit now and all of the ``way`` to a stop, which is computed only if need be."""
    most = rates.speed * (1 + ROUND)
    size = length(velocity)
    if rates.peak(size, length(acceleration)) <= most:
        return True
    return size <= most and all(length(v) <= most for v in way())
