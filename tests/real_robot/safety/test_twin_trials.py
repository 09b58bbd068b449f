"""Adversarial chunks through loop and filter to the physics of the twin; `benchmarks/bench_safety.py` sends 10,000."""

from __future__ import annotations

import pytest

pytest.importorskip("mujoco")

from robopolicy.real_robot.limits import HARD_CAPS, SafetyLimits
from robopolicy.testing.safety import TOLERANCE
from robopolicy.testing.safety_twin import CAP, TwinTrial

NAMES = {
    *("finite", "unit", "hemisphere", "workspace", "lead", "turn_lead"),
    *("speed", "acceleration", "jerk", "turn_speed", "turn_acceleration", "turn_jerk"),
}
AT_CAPS = SafetyLimits(**{k: v for k, v in HARD_CAPS.items() if "force" not in k})


def check(trace, chunks):
    assert trace.counted["chunks"] == chunks
    assert {name: worst for name, worst in trace.worst.items() if worst > TOLERANCE} == {}
    assert set(trace.worst) >= NAMES  # every property was looked at
    assert trace.tool_speed <= CAP


def test_F12_driven_fast_and_far_the_twin_stays_within_every_limit():
    trial = TwinTrial()
    trace = trial.run(1, 25, wild=False)
    trial.close()
    check(trace, 25)
    assert trace.counted["submitted"] == 25
    assert trace.tool_speed > 0.03  # it did move


def test_a_start_that_ends_in_a_reflex_is_put_back():
    trial = TwinTrial()
    trace = trial.run(80, 2)  # the arm is aimed at a corner without any filter, and stops with an error
    trial.close()
    assert trace.counted["chunks"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(("limits", "controller"), [(SafetyLimits(), "franka_ros"), (AT_CAPS, "serl")])
def test_F09_F11_F12_F13_hostile_chunks_leave_the_twin_within_every_limit(limits, controller):
    trial = TwinTrial(limits, controller)
    trace = trial.run(2, 60)
    check(trace, 60)
    assert trace.counted["refused"] + trace.counted["faults"] > 2  # they were hostile
    assert "gripper" in trace.worst
    trace.take(fast := trial.run(3, 40, wild=False))
    trial.close()
    check(fast, 40)
    assert trace.counted["chunks"] == 100
