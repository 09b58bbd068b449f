"""Watchdogs: what is seen of link, robot, operator and policy at one tick, and whether that means hold or fault."""

from __future__ import annotations

from dataclasses import dataclass

from robopolicy.real_robot.limits import Timeouts

STATE_RATE_HOLD = 10.0  # Hz of the robot's state below which the arm holds
MODES = ("other", "idle", "move", "guiding", "reflex", "user stopped", "automatic error recovery")
OTHER, IDLE, MOVE, GUIDING, REFLEX, STOPPED, RECOVERING = range(7)


@dataclass(frozen=True)
class Health:
    """What the watchdogs see at one tick; ages in seconds, ``None`` where the set-up has no such source.

    ``link``: the socket is open and pings are answered.  ``preflight``: all checks are green since the link came up.
    ``state_age``, ``state_rate`` (Hz), ``loopback_age``, ``camera_age`` (of the oldest camera), ``operator_age``;
    ``late``: of this tick, s.  ``mode``: the robot's, 0..6.  ``errors``: names of the flags that are up.  ``clock``:
    why the clocks are not to be trusted.  ``starved``: seconds since the plan ended.  ``policy``: what became of the
    policy (hung, raised, died), ``None`` while it works.  ``rivals``: publishers on the command topic that are not
    ours. ``gripper``: why the hand's last goal failed; ``gripper_fault``: its retries are used up.  ``filter_hold``,
    ``filter_fault``: what the safety filter said.  ``guard``: why nothing gets through the guard on the robot's side.
    """

    link: bool = True
    preflight: bool = True
    state_age: float = 0.0
    state_rate: float = 100.0
    loopback_age: float | None = None
    camera_age: float | None = None
    operator_age: float | None = None
    late: float = 0.0
    mode: int = MOVE
    errors: tuple[str, ...] = ()
    clock: str | None = None
    starved: float = 0.0
    policy: str | None = None
    rivals: int = 0
    gripper: str | None = None
    gripper_fault: bool = False
    filter_hold: str | None = None
    filter_fault: bool = False
    guard: str | None = None


def fault_of(h: Health) -> str | None:
    """Why the present state of things needs a recovery, or ``None``.  The robot's user stop is not among them."""
    if not h.link:
        return "link lost"
    if h.errors:
        return "robot errors: " + ", ".join(h.errors)
    if h.mode in (REFLEX, GUIDING, RECOVERING) or not 0 <= h.mode < len(MODES):
        name = MODES[h.mode] if 0 <= h.mode < len(MODES) else "unknown"
        return f"robot mode {h.mode} ({name})"
    if h.policy is not None:
        return f"policy: {h.policy}"
    if h.gripper_fault:
        return f"gripper: {h.gripper}"
    if h.filter_fault:
        return f"safety filter: {h.filter_hold}"
    return None


def hold_of(h: Health, t: Timeouts) -> str | None:
    """Why the arm must hold, or ``None``; the longest-known watchdogs first, so that a message names a cause."""
    # Written so that an age that is no number is too old.
    if not h.state_age <= t.state_hard:
        return f"robot state {h.state_age:.2f} s old, limit {t.state_hard:g} s"
    if not h.state_rate >= STATE_RATE_HOLD:
        return f"robot state at {h.state_rate:.1f} Hz, least {STATE_RATE_HOLD:g} Hz"
    ages = (
        (h.loopback_age, t.loopback_hard, "our commands were not seen to arrive for"),
        (h.camera_age, t.camera_hard, "newest picture of a camera"),
        (h.operator_age, t.dead_man, "operator's dead-man not heard for"),
    )
    for age, limit, what in ages:
        if age is not None and not age <= limit:
            return f"{what} {age:.2f} s, limit {limit:g} s"
    if not h.late <= t.tick_hold:
        return f"control tick {1e3 * h.late:.0f} ms late, limit {1e3 * t.tick_hold:.0f} ms"
    if h.clock is not None:
        return h.clock
    if h.rivals:
        return f"{h.rivals} other publisher(s) on the command topic; stop them"
    if h.guard is not None:
        return h.guard
    if h.gripper is not None:
        return f"gripper: {h.gripper}"
    return h.filter_hold


def deaf_of(h: Health) -> str | None:
    """Why the arm follows no targets although nothing is wrong with it, or ``None``.

    It may be armed like this (preflight takes idle), but not moved: it would leap when its controller starts."""
    if h.mode not in (OTHER, IDLE):
        return None
    return f"robot mode {h.mode} ({MODES[h.mode]}): no controller moves the arm; start it, then resume"
