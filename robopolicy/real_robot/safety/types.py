"""What goes into the safety filter and what comes out."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntFlag

import numpy as np

from robopolicy.real_robot.frames import Pose

STAGES = ("finite", "gate", "jump", "workspace", "limiter", "lead", "joints", "force")
"""Names of the stages, in their order; what ``SafetyFilter.without`` takes."""
WIDTH_MOST = 0.079  # m; the hand refuses goals at the very end of its range
STOP_AHEAD = 0.1  # s of the measured motion that the stop target lies ahead of the measured pose


class SafetyFlag(IntFlag):
    """What the filter did to a setpoint; the record keeps these numbers, so never renumber."""

    NONE = 0
    NOT_FINITE = 1 << 0  # refused: NaN, infinity, wrong shape, or no unit quaternion
    STALE_STATE = 1 << 1  # slowing down: the measured state is old or was no number
    LATE_TICK = 1 << 2  # the tick came late; it moves the setpoint by one tick's worth all the same
    EARLY_TICK = 1 << 3  # within half a period of the last tick, or ticks come too fast; the last pose was repeated
    JUMP = 1 << 4  # the policy's action was too far from the one before
    WORKSPACE = 1 << 5  # the target was projected onto the workspace
    SPEED = 1 << 6  # the target was further away than one tick may go
    LEAD = 1 << 7  # held back by the lead cap
    DRAGGED = 1 << 8  # the measured pose went away; the setpoint was drawn after it, faster than its limits
    JOINTS = 1 << 9  # slowed down for a joint limit, a joint speed or a singularity
    FORCE = 1 << 10  # slowed down for an external force
    RAMP = 1 << 11  # within the slow start
    GRIPPER = 1 << 12  # the gripper's width was clamped
    STARVED = 1 << 13  # there was no setpoint: slowing down, or standing
    HELD = 1 << 14  # the stop target, not the setpoint
    EPOCH = 1 << 15  # refused: made before the last stop
    LOOPBACK = 1 << 16  # warning: our commands have not been seen to come back for a while


def _no_rate() -> np.ndarray:
    return np.zeros(6)


@dataclass(frozen=True, eq=False)
class Setpoint:
    """Where the tool should be at this tick, and what is known of where it goes next.

    ``position (3,)`` metres, ``quaternion (4,)`` x, y, z, w, base frame: unchecked, as the policy's numbers gave them.
    ``gripper``: width in metres, or ``None`` for no wish.  ``rate (6,)``: m/s and rad/s of the target's own motion; a
    target that moves is followed without lag.  ``left``, ``turn_left``: metres and radians of the way from this
    target to the end of the plan; infinite for a target without a known end.
    ``action``: the policy's action that the tool is on the way to, with its number; two setpoints on the way to the
    same action have the same number.  ``action_steps``: periods between it and the policy's action before.
    ``epoch``: of the run that it was made for.
    """

    position: np.ndarray
    quaternion: np.ndarray
    gripper: float | None = None
    rate: np.ndarray = field(default_factory=_no_rate)
    left: float = 0.0
    turn_left: float = 0.0
    action: Pose | None = None
    action_number: int = -1
    action_steps: int = 1
    epoch: int = 0


@dataclass(frozen=True, eq=False)
class Measured:
    """The arm as last heard of.

    ``at``: when it was so, in local monotonic seconds (corrected stamp, not the arrival).  ``position``,
    ``quaternion``: of the tool in the base frame.  ``twist (6,)``: m/s and rad/s of the tool.  ``q (7,)``: joint
    angles, rad; empty where there are none, and the joint check then holds.  ``force (3,)``: external force at the
    tool, N.  ``width``: between the fingers, m.  Numbers are unchecked; one that is not finite makes the whole sample
    count as not received.
    """

    at: float
    position: np.ndarray
    quaternion: np.ndarray
    twist: np.ndarray = field(default_factory=_no_rate)
    q: np.ndarray = field(default_factory=lambda: np.zeros(0))
    force: np.ndarray = field(default_factory=lambda: np.zeros(3))
    width: float = 0.0


@dataclass(frozen=True)
class Link:
    """What the gate asks of the rest of the driver: the present ``epoch``; when one of our commands was last seen to
    come back (``loopback_at``), when the operator's dead-man was last heard (``operator_at``), both local monotonic
    seconds; ``None`` where the set-up has neither, which only simulation has."""

    epoch: int
    loopback_at: float | None = None
    operator_at: float | None = None


@dataclass(frozen=True, eq=False)
class Emitted:
    """What may be published.

    ``pose``: or ``None`` when no pose satisfies the limits and nothing may be published.  ``gripper``: width in
    metres or ``None``.  ``hold``: why the arm holds, ``None`` while it follows.  ``fault``: the hold needs an
    operator's recovery. ``rate (6,)``: speed of the emitted pose, m/s and rad/s.  ``scale``: share of the speed
    limits in force.
    """

    pose: Pose | None
    gripper: float | None
    flags: SafetyFlag
    hold: str | None = None
    fault: bool = False
    rate: np.ndarray = field(default_factory=_no_rate)
    scale: float = 1.0
