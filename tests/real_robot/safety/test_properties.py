"""Whatever is sent, what is emitted stays within every limit; and without any one stage it does not."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.real_robot.frames import Pose, downward
from robopolicy.real_robot.limits import SafetyLimits
from robopolicy.real_robot.safety.filter import SafetyFilter
from robopolicy.real_robot.safety.limiter import Limiter
from robopolicy.real_robot.safety.motion import Rates, stop
from robopolicy.real_robot.safety.vectors import length, vector
from robopolicy.testing.safety import KINDS, trial

FASTEST = SafetyLimits(
    speed=0.25, turn_speed=0.6, acceleration=2.0, turn_acceleration=6.0, lead=0.1, turn_lead=0.4, jump=0.05
)
WITH_OBSTACLE = SafetyLimits(keep_out=({"low": (0.4, -0.1, 0.0), "high": (0.5, 0.1, 0.25)},))
LIMITS = (SafetyLimits(), SafetyLimits.first_run(), FASTEST, WITH_OBSTACLE)
NAMES = {
    *("finite", "unit", "hemisphere", "workspace", "lead", "turn_lead", "gripper", "stop"),
    *("speed", "acceleration", "jerk", "turn_speed", "turn_acceleration", "turn_jerk"),
}


def run(seeds: range, chunks: int, ticks: int) -> tuple[int, int]:
    total, seen = 0, set()
    for seed in seeds:
        # The joint check needs an arm with joints; test_joints.py and the twin have one.
        safety = SafetyFilter(LIMITS[seed % len(LIMITS)]).without("joints")
        trace = trial(safety, seed, chunks, ticks)
        assert trace.violations() == {}, seed
        seen |= set(trace.worst)
        total += trace.ticks
    assert seen >= NAMES  # every property was looked at
    return total, chunks * len(seeds)


def test_no_violation_in_1500_adversarial_chunks():
    ticks, chunks = run(range(1000, 1030), 50, 6)
    assert chunks == 1500
    assert ticks > 6000


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_F09_F11_F12_F13_no_violation_in_four_times_2500_adversarial_chunks(part):
    ticks, chunks = run(range(50 * part, 50 * (part + 1)), 50, 5)
    assert chunks == 2500
    assert ticks > 10_000


@pytest.mark.parametrize("kind", KINDS)
def test_no_violation_when_one_kind_goes_on_for_long(kind):
    for seed in (2,):
        trace = trial(SafetyFilter(LIMITS[seed]).without("joints"), seed, 6, 60, (kind,))
        assert trace.violations() == {}


def test_the_same_inputs_give_the_same_outputs_bit_for_bit():
    worst = [trial(SafetyFilter(SafetyLimits()).without("joints"), 5, 20, 6) for _ in range(2)]
    for trace in worst:
        trace.cut()
    assert worst[0].worst == worst[1].worst


@pytest.mark.parametrize(
    ("stage", "kinds", "chunks", "named"),
    [
        ("limiter", ("walk",), 2, {"speed", "acceleration", "jerk", "turn_speed", "turn_acceleration", "turn_jerk"}),
        ("workspace", ("ramp", "tour"), 16, {"workspace"}),  # it takes a while to get to a wall at 0.1 m/s
        ("lead", (), 0, {"lead", "turn_lead"}),
    ],
)
def test_without_a_stage_the_trials_find_violations(stage, kinds, chunks, named):
    safety = SafetyFilter(SafetyLimits()).without("joints").without(stage)
    found = set()
    for seed in range(4):
        # A slow arm is what the lead cap is for.
        trace = trial(safety, seed, chunks, 80, kinds, 0.0) if kinds else _against_a_wall(safety)
        found |= set(trace.violations())
    assert found >= named


def _against_a_wall(safety):
    """The arm does not move at all; the target goes away from it."""
    from robopolicy.real_robot.safety.types import Link, Measured, Setpoint
    from robopolicy.testing.safety import Trace

    here = Pose(np.array((0.45, 0.0, 0.3)), downward(0.0))
    trace = Trace(safety.limits, 0.01)
    safety.stand(here)
    safety.go(0.0, 0.0)
    trace.begin(here)
    for k in range(200):
        now = 0.01 * (k + 1)
        m = Measured(now, here.position, here.quaternion)
        e = safety.step(Setpoint(here.position + np.array((0.2, 0, 0)), downward(1.0)), m, 0.01, now, Link(0))
        trace.add(e, m)
    return trace


def test_the_wall_itself_is_no_violation_with_the_lead_stage():
    trace = _against_a_wall(SafetyFilter(SafetyLimits()).without("joints"))
    assert trace.violations() == {}
    # and the cap is used: the setpoint waits near it.
    assert trace.worst["lead"] > -0.003


@pytest.mark.parametrize(
    "rates",
    [
        *(Rates(0.1, 1.0, 0.05, 0.01), Rates(0.05, 0.5, 0.05, 0.01), Rates(0.25, 2.0, 0.05, 0.01)),
        *(Rates(0.6, 6.0, 0.05, 0.01), Rates(0.25, 0.5, 0.05, 0.01), Rates(0.1, 1.0, 0.2, 0.01)),
        *(Rates(0.1, 1.0, 0.01, 0.01), Rates(0.01, 2.0, 0.05, 0.01), Rates(0.25, 2.0, 0.1, 0.02)),
    ],
)
def test_a_stop_ends_within_its_bounds(rates):
    """``reach`` and ``peak`` let the limiter skip looking ahead: they must be upper bounds."""
    rng = np.random.default_rng(3)
    for k in range(150):
        v = rng.normal(size=3)
        v *= rates.speed * rng.uniform() ** 0.3 / np.linalg.norm(v)
        a = rng.normal(size=3) if k % 3 else v * rng.choice((-1, 1))
        a *= rates.acceleration * rng.uniform() ** 0.3 / np.linalg.norm(a)
        way = stop(vector(v), vector(a), rates)
        sizes = [float(np.linalg.norm(v)), *map(length, way)]
        assert way[-1] == (0.0, 0.0, 0.0)
        assert len(way) * rates.tick < 2.5
        assert sum(sizes[1:]) * rates.tick <= rates.reach(sizes[0], float(np.linalg.norm(a)))
        assert max(sizes) <= rates.peak(sizes[0], float(np.linalg.norm(a)))


def test_limits_that_cannot_stop_in_time_are_refused():
    from robopolicy.core.errors import ConfigError

    with pytest.raises(ConfigError, match="raise the acceleration"):
        Limiter(SafetyLimits(acceleration=0.02), 0.01)
