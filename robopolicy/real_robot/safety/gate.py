"""Stage 2: whether anything may move at all: epoch, dead-man, age of the state, loopback, lateness of the tick.

Says hold, or slow down, and never how far.  The state machine (``control.states``) has the same watchdogs one level up;
this gate is what remains if that is wired wrongly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from robopolicy.real_robot.limits import Timeouts
from robopolicy.real_robot.safety.types import Link, SafetyFlag

EARLY = 0.5  # of a tick


@dataclass(frozen=True)
class Verdict:
    """``hold``: why to hold, or ``None``.  ``slow``: come to rest, but do not hold yet.  ``flags``: what was seen."""

    hold: str | None = None
    slow: bool = False
    flags: SafetyFlag = SafetyFlag.NONE


def judge(link: Link, epoch: int | None, state_at: float, dt: float, now: float, t: Timeouts) -> Verdict:
    """Judge one tick.

    ``epoch``: of the setpoint, ``None`` without one.  ``state_at``: when the last believable state was taken.  ``dt``:
    seconds since the last tick.
    """
    flags = SafetyFlag.NONE
    if not (math.isfinite(dt) and math.isfinite(now)) or dt < 0:
        return Verdict(f"clock: a tick of {dt} s at {now} s")
    if dt > t.tick_hold:
        return Verdict(
            f"control tick {1e3 * dt:.0f} ms late, limit {1e3 * t.tick_hold:.0f} ms", flags=SafetyFlag.LATE_TICK
        )
    if dt > t.tick_late:
        flags |= SafetyFlag.LATE_TICK
    age = now - state_at
    # A state from the future is as bad as an old one: its age says nothing.
    if age > t.state_hard or age < -t.state_soft:
        return Verdict(f"robot state {age:.2f} s old, limit {t.state_hard:.2f} s", flags=flags | SafetyFlag.STALE_STATE)
    slow = age > t.state_soft
    if slow:
        flags |= SafetyFlag.STALE_STATE
    # Written so that a time that is no number is too long ago.
    if link.operator_at is not None and not now - link.operator_at <= t.dead_man:
        return Verdict(f"dead-man not heard for {now - link.operator_at:.2f} s", flags=flags)
    if link.loopback_at is not None:
        silent = now - link.loopback_at
        if not silent <= t.loopback_hard:
            return Verdict(
                f"our commands were not seen to arrive for {silent:.2f} s", flags=flags | SafetyFlag.LOOPBACK
            )
        if silent > t.loopback_soft:
            flags |= SafetyFlag.LOOPBACK
    if epoch is not None and epoch != link.epoch:
        return Verdict(slow=True, flags=flags | SafetyFlag.EPOCH)
    return Verdict(slow=slow, flags=flags)
