"""A driver's status in words: flags by name, ages beside their limits, one line for those without a terminal.

Everything that shows a status (dashboard, plain lines, pages) takes its words from here, so that they agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.driver.contract import Status
from robopolicy.real_robot.driver.guard_watch import SILENT
from robopolicy.real_robot.interface import MODES
from robopolicy.real_robot.limits import SafetyLimits, Timeouts
from robopolicy.real_robot.safety.types import SafetyFlag

FINE, WARN, BAD = "fine", "warn", "bad"
FLAG_WORDS = {
    SafetyFlag.NOT_FINITE: "not finite: refused",
    SafetyFlag.STALE_STATE: "state old: slowing down",
    SafetyFlag.LATE_TICK: "tick late",
    SafetyFlag.EARLY_TICK: "tick early: repeated",
    SafetyFlag.JUMP: "action jumped",
    SafetyFlag.WORKSPACE: "workspace",
    SafetyFlag.SPEED: "speed or acceleration",
    SafetyFlag.LEAD: "lead cap",
    SafetyFlag.DRAGGED: "drawn after the arm",
    SafetyFlag.JOINTS: "joints",
    SafetyFlag.FORCE: "force",
    SafetyFlag.RAMP: "slow start",
    SafetyFlag.GRIPPER: "gripper clamped",
    SafetyFlag.STARVED: "no plan",
    SafetyFlag.HELD: "held",
    SafetyFlag.EPOCH: "old epoch: refused",
    SafetyFlag.LOOPBACK: "commands not seen to arrive",
}
STATE_LEVEL = {
    State.OFF: BAD,
    State.LINKED: WARN,
    State.READY: FINE,
    State.ARMED: FINE,
    State.RUNNING: FINE,
    State.HUMAN: FINE,
    State.HOLD: WARN,
    State.FAULT: BAD,
    State.ESTOP: BAD,
}


@dataclass(frozen=True)
class Reading:
    """One value beside its limits: ``level`` is fine, warn or bad."""

    name: str
    value: str
    limits: str = ""
    level: str = FINE


def flag_words(flags: SafetyFlag | int) -> list[str]:
    """What the safety filter did, in words, lowest bit first; an unknown bit is named by its number."""
    left, words = int(flags), []
    for flag, word in FLAG_WORDS.items():
        if left & flag:
            words.append(word)
            left &= ~int(flag)
    return words + [f"bit {i}" for i in range(left.bit_length()) if left >> i & 1]


def mode_word(mode: int) -> str:
    """The robot's mode by name."""
    return MODES[mode] if 0 <= mode < len(MODES) else f"unknown ({mode})"


def age_limits(source: str, t: Timeouts) -> tuple[float | None, float | None]:
    """Soft and hard limit of a source's age, seconds; ``None`` where there is none."""
    if source.startswith("camera."):
        return t.camera_soft, t.camera_hard
    known = {"state": (t.state_soft, t.state_hard), "loopback": (t.loopback_soft, t.loopback_hard)}
    alone = {"operator": t.dead_man, "guard": SILENT}
    return known.get(source, (None, alone.get(source)))


def level_of(value: float, soft: float | None, hard: float | None) -> str:
    """Fine, warn or bad; a value that is no number is bad."""
    if hard is not None and not value <= hard:
        return BAD
    if soft is not None and not value <= soft:
        return WARN
    return FINE if not math.isnan(value) else BAD


def milliseconds(seconds: float) -> str:
    """``0.0123`` -> ``"12 ms"``; seconds from ten on; ``"never"`` for infinity."""
    if not math.isfinite(seconds):
        return "never"
    return f"{seconds:.1f} s" if abs(seconds) >= 10 else f"{1e3 * seconds:.0f} ms"


def age_readings(status: Status, t: Timeouts) -> list[Reading]:
    """Every age with its limits."""
    found = []
    for source, age in status.ages.items():
        soft, hard = age_limits(source, t)
        limits = " / ".join(milliseconds(x) for x in (soft, hard) if x is not None)
        found.append(Reading(source, milliseconds(age), limits, level_of(age, soft, hard)))
    return found


def lead(status: Status) -> float | None:
    """Metres from the measured pose to the last published one."""
    if status.measured is None or status.emitted is None:
        return None
    return float(np.linalg.norm(status.emitted.position - status.measured.position))


def motion_readings(status: Status, limits: SafetyLimits) -> list[Reading]:
    """Pose, lead, force and gripper with their limits."""
    found = [Reading("tool x, y, z", _position(status.measured)), Reading("setpoint", _position(status.emitted))]
    ahead = lead(status)
    if ahead is not None:
        level = level_of(ahead, 0.9 * limits.lead, None)
        found.append(Reading("lead", f"{1e3 * ahead:.1f} mm", f"{1e3 * limits.lead:.0f} mm", level))
    slow, hold = limits.force_slow, limits.force_hold
    found.append(
        Reading("force", f"{status.force:.1f} N", f"{slow:g} / {hold:g} N", level_of(status.force, slow, hold))
    )
    if status.width is not None:
        wish = "" if status.emitted_gripper is None else f", asked {1e3 * status.emitted_gripper:.0f} mm"
        found.append(Reading("gripper", f"{1e3 * status.width:.0f} mm{wish}"))
    return found


def _position(pose: object) -> str:
    position = getattr(pose, "position", None)
    return "none" if position is None else "  ".join(f"{v:+.4f}" for v in position) + " m"


def timing_readings(status: Status, t: Timeouts) -> list[Reading]:
    """Ticks, the plan that is left, the clocks and the measured rates."""
    late = f"{1e3 * status.late_p50:.1f} / {1e3 * status.late_p99:.1f} ms"
    found = [
        Reading("tick late p50 / p99", late, milliseconds(t.tick_late), level_of(status.late_p99, t.tick_late, None))
    ]
    if status.starved > 0:
        level = level_of(status.starved, 0.0, t.starvation)
        found.append(Reading("plan", f"over for {status.starved:.2f} s", f"{t.starvation:g} s", level))
    elif status.plan_end is not None:
        found.append(Reading("plan left", milliseconds(max(0.0, status.plan_end - status.now))))
    if status.clock_offset is not None:
        found.append(Reading("clock offset", f"{1e3 * status.clock_offset:+.1f} ms", "500 ms"))
    found += [Reading(f"rate {name}", f"{rate:.1f} Hz") for name, rate in status.rates.items()]
    return found


def plain_line(status: Status, t: Timeouts) -> str:
    """The status in one line, for logs and for output that is no terminal."""
    ages = " ".join(f"{r.name}={r.value}" + ("!" if r.level != FINE else "") for r in age_readings(status, t))
    parts = [f"{status.state.value:<8}", ages.replace(" ms", "ms")]
    if status.measured is not None:
        parts.append("at " + ",".join(f"{v:+.3f}" for v in status.measured.position))
    if (ahead := lead(status)) is not None:
        parts.append(f"lead {1e3 * ahead:.0f}mm")
    parts.append(f"force {status.force:.1f}N")
    if words := flag_words(status.flags):
        parts.append(f"[{', '.join(words)}]")
    if status.problem:
        parts.append(f"PROBLEM: {status.problem}")
    if status.errors or status.mode not in (1, 2):
        parts.append(f"mode {mode_word(status.mode)} {' '.join(status.errors)}".rstrip())
    return "  ".join(parts)
