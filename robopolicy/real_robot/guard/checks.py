"""The checks of the guard, each a few scalar operations; ``CHECKS`` is their order.

Source: the numbers are those of ``GuardConfig``; the rules are the driver's filter's, written a second time from
scratch.  A check is true for a setpoint that must not pass.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from robopolicy.real_robot.guard.config import GuardConfig

NORM_LOW, NORM_HIGH = 0.95, 1.05
LARGEST = 1e6  # what no metre and no part of a quaternion ever is
BOX_SLACK = 1e-6  # m, for rounding
STEP_SLACK, TURN_SLACK = 0.001, 0.005  # m, rad: what the limits of a step leave for jitter
NEAR_SLACK, NEAR_TURN_SLACK = 0.005, 0.02  # m, rad: by how much a stop target may miss, its measurement being older
LONGEST_STEP = 0.1  # s of motion that one step may make up for after a gap


class Pose(NamedTuple):
    """Position x, y, z in m and unit quaternion x, y, z, w, in the base's frame."""

    position: tuple[float, ...]
    quaternion: tuple[float, ...]


class Target(NamedTuple):
    """A ``geometry_msgs/PoseStamped`` as it came; ``stamp`` is (seconds, nanoseconds)."""

    stamp: tuple[int, int]
    frame_id: str
    position: tuple[float, ...]
    quaternion: tuple[float, ...]


class Case(NamedTuple):
    """A setpoint to judge: where the arm is, and what passed last in this session (``None``: nothing yet)."""

    config: GuardConfig
    target: Target
    here: Pose
    last: Pose | None
    last_stamp: tuple[int, int]
    ros_now: float


def finite(numbers: tuple[float, ...]) -> bool:
    """Whether all of them are numbers, none of them NaN, infinite or beyond any use."""
    return all(isinstance(n, (int, float)) and -LARGEST <= n <= LARGEST for n in numbers)


def unit(quaternion: tuple[float, ...]) -> tuple[float, ...] | None:
    """The quaternion at length one; ``None`` if it is none, or off that length by more than 5 %."""
    if len(quaternion) != 4 or not finite(quaternion):
        return None
    size = math.sqrt(sum(v * v for v in quaternion))
    return tuple(v / size for v in quaternion) if NORM_LOW <= size <= NORM_HIGH else None


def distance(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Between two points, m."""
    x, y, z = (a[i] - b[i] for i in range(3))
    return math.sqrt(x * x + y * y + z * z)  # x**2 would raise where a number is huge


def angle(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Between two quaternions of any length, rad, 0 to pi; exact for small ones too, pi for those of no length."""
    na, nb = math.sqrt(sum(v * v for v in a)), math.sqrt(sum(v * v for v in b))
    if not (na > 0 and nb > 0):
        return math.pi
    sign = -1.0 if sum(a[i] * b[i] for i in range(4)) < 0 else 1.0
    parts = [a[i] / na - sign * b[i] / nb for i in range(4)]
    chord = math.sqrt(sum(p * p for p in parts))
    return 4.0 * math.asin(min(1.0, chord / 2.0))


def _numbers(case: Case) -> bool:
    t = case.target
    return len(t.position) != 3 or len(t.quaternion) != 4 or not finite((*t.position, *t.quaternion))


def _quaternion(case: Case) -> bool:
    return unit(case.target.quaternion) is None


def _frame(case: Case) -> bool:
    return case.target.frame_id != case.config.frame_id


def _age(case: Case) -> bool:
    age = case.ros_now - (case.target.stamp[0] + case.target.stamp[1] * 1e-9)
    return not -case.config.ahead <= age <= case.config.age


def _order(case: Case) -> bool:
    return case.target.stamp <= case.last_stamp


def _box(case: Case) -> bool:
    low, high, at = case.config.box_low, case.config.box_high, case.target.position
    return not all(low[i] - BOX_SLACK <= at[i] <= high[i] + BOX_SLACK for i in range(3))


def _step(case: Case) -> bool:
    # A step that is too long may only lead to where the arm is: a stop, or the first setpoint of a session.
    c, target = case.config, case.target
    near = distance(target.position, case.here.position) <= c.stop_time * c.speed + NEAR_SLACK
    turned_near = angle(target.quaternion, case.here.quaternion) <= c.stop_time * c.turn_speed + NEAR_TURN_SLACK
    if case.last is None:
        return not (near and turned_near)
    span = (target.stamp[0] - case.last_stamp[0]) + (target.stamp[1] - case.last_stamp[1]) * 1e-9
    span = min(max(span, 0.0), LONGEST_STEP)
    far = distance(target.position, case.last.position) > c.speed * span + STEP_SLACK
    turned = angle(target.quaternion, case.last.quaternion) > c.turn_speed * span + TURN_SLACK
    return (far and not near) or (turned and not turned_near)


def _lead(case: Case) -> bool:
    return (
        distance(case.target.position, case.here.position) > case.config.lead
        or angle(case.target.quaternion, case.here.quaternion) > case.config.turn_lead
    )


CHECKS = (
    ("not finite", _numbers),
    ("quaternion", _quaternion),
    ("frame", _frame),
    ("stamp", _age),
    ("order", _order),
    ("box", _box),
    ("step", _step),
    ("lead", _lead),
)
