"""What an operator reads: words, limits, and plain lines where there is no terminal."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
import pytest

from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.driver.contract import Status
from robopolicy.real_robot.frames import Pose, downward
from robopolicy.real_robot.limits import SafetyLimits, Timeouts
from robopolicy.real_robot.report.dashboard import Dashboard
from robopolicy.real_robot.report.words import (
    FLAG_WORDS,
    STATE_LEVEL,
    age_readings,
    flag_words,
    lead,
    mode_word,
    motion_readings,
    plain_line,
    timing_readings,
)
from robopolicy.real_robot.safety.types import SafetyFlag

STATUS = Status(
    now=100.0,
    state=State.RUNNING,
    why="started",
    epoch=1,
    link=True,
    plan_end=100.8,
    starved=0.0,
    measured=Pose(np.array((0.45, 0.0, 0.3)), downward(0.0)),
    q=(0.0,) * 7,
    width=0.04,
    force=9.0,
    emitted=Pose(np.array((0.47, 0.0, 0.3)), downward(0.0)),
    emitted_gripper=0.05,
    flags=SafetyFlag.SPEED | SafetyFlag.RAMP,
    mode=2,
    errors=(),
    ages={"state": 0.012, "loopback": 0.2, "operator": 0.31, "camera.front": 0.2},
    rates={"state": 99.8},
    clock_offset=0.0004,
    late_p50=0.0002,
    late_p99=0.03,
    counters={"ticks": 1000, "late": 0},
)


def level(readings, name):
    return next(r.level for r in readings if r.name == name)


def test_every_flag_and_state_has_a_word():
    assert set(FLAG_WORDS) == set(SafetyFlag) - {SafetyFlag.NONE}
    assert set(STATE_LEVEL) == set(State)
    assert flag_words(SafetyFlag.LEAD | SafetyFlag.FORCE) == ["lead cap", "force"]
    assert flag_words(1 << 40) == ["bit 40"]
    assert flag_words(0) == []
    assert (mode_word(2), mode_word(5), mode_word(9)) == ("move", "user stopped", "unknown (9)")


def test_ages_stand_beside_their_limits():
    found = age_readings(STATUS, Timeouts())
    assert [level(found, n) for n in ("state", "loopback", "operator", "camera.front")] == [
        "fine",
        "warn",
        "bad",
        "warn",
    ]
    assert next(r.limits for r in found if r.name == "state") == "100 ms / 250 ms"
    never = age_readings(replace(STATUS, ages={"camera.wrist": math.inf, "state": math.nan}), Timeouts())
    assert [(r.value, r.level) for r in never] == [("never", "bad"), ("never", "bad")]


def test_lead_force_and_lateness_are_judged():
    limits = SafetyLimits()
    assert lead(STATUS) == pytest.approx(0.02)
    assert level(motion_readings(STATUS, limits), "lead") == "fine"
    far = replace(STATUS, emitted=Pose(np.array((0.498, 0.0, 0.3)), downward(0.0)), force=13.0)
    assert level(motion_readings(far, limits), "lead") == "warn"
    assert level(motion_readings(far, limits), "force") == "warn"
    assert level(motion_readings(replace(STATUS, force=21.0), limits), "force") == "bad"
    timing = timing_readings(STATUS, Timeouts())
    assert level(timing, "tick late p50 / p99") == "warn"
    assert next(r.value for r in timing if r.name == "plan left") == "800 ms"
    over = timing_readings(replace(STATUS, starved=1.2, plan_end=98.8), Timeouts())
    assert next(r for r in over if r.name == "plan").value == "over for 1.20 s"


def test_a_plain_line_holds_what_matters():
    line = plain_line(replace(STATUS, mode=4, errors=("cartesian_reflex",)), Timeouts())
    assert "\n" not in line
    for part in (
        "running",
        "loopback=200ms!",
        "state=12ms ",
        "lead 20mm",
        "force 9.0N",
        "[speed or acceleration, slow start]",
    ):
        assert part in line
    assert line.endswith("mode reflex cartesian_reflex")


def test_without_a_terminal_there_are_lines_at_changes_and_every_two_seconds():
    out = io.StringIO()
    with Dashboard("twin", SafetyLimits(), Timeouts(), out=out) as board:
        assert board.plain
        for i in range(50):
            board.show(replace(STATUS, now=100 + 0.1 * i), {"left": "3 s"})
        board.show(replace(STATUS, now=105.1, state=State.HOLD, why="paused by the operator"))
        board.note("recording ended")
    lines = out.getvalue().splitlines()
    assert lines[0] == "running: started"
    assert sum("state=12ms" in line for line in lines) == 3
    assert lines[-2:] == ["hold: paused by the operator", "recording ended"]
    assert "\x1b" not in out.getvalue()


def test_on_a_terminal_it_draws_every_part_in_place():
    rich = pytest.importorskip("rich.console")
    screen = io.StringIO()
    board = Dashboard("arm", SafetyLimits(), Timeouts(), keys="space hold", plain=False, out=screen)
    console = rich.Console(file=screen, width=150)
    console.print(
        board.drawn(replace(STATUS, recording="out/run_1", errors=("joint_reflex",)), {"policy p95": "180 ms"})
    )
    text = screen.getvalue()
    for part in (
        "RUNNING",
        "started",
        "slow start",
        "100 ms / 250 ms",
        "20.0 mm",
        "180 ms",
        "joint_reflex",
        "out/run_1",
        "space hold",
    ):
        assert part in text, part


def test_when_it_closes_the_last_changes_remain():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    out = Terminal()
    with Dashboard("arm", SafetyLimits(), Timeouts(), out=out) as board:
        assert not board.plain
        board.show(STATUS)
        board.show(replace(STATUS, state=State.FAULT, why="link lost"))
    assert out.getvalue().rstrip().endswith("fault: link lost")
