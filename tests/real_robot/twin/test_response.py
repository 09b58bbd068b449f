"""How the twin's arm answers targets, against the table of the specification (section 7.3), in lock-step.

The published figures come from another model with other inertias and carry, as it says, perhaps 30 %.  Ours lie within
3 % on steps, 10 % on lags, 5 % on peak speeds and on the stiff arm's travel; the soft arm swings farther than
published, by 12 % at 0.1 m/s and 21 % at 0.25 m/s.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.twin.impedance import ImpedanceGains

SOFT, STIFF, SERL = ImpedanceGains(200, 10), ImpedanceGains(400, 30), ImpedanceGains(2000, 150)


def begin(twin, gains):
    twin.reset(0)
    twin.arm.law.retune(gains)
    return twin.pose


def ramp(twin, gains, speed, seconds):
    """Targets along x at 100 Hz; returns the pose at the start."""
    start = begin(twin, gains)
    for k in range(int(seconds * 100)):
        twin.aim(Pose(start.position + np.array((speed * (k + 1) * 0.01, 0, 0)), start.quaternion))
        twin.step(10)
    return start


def travel(twin, ticks=800):
    """Farthest that the tool gets from here along x, m."""
    here = twin.pose.position[0]
    farthest = 0.0
    for _ in range(ticks // 10):
        twin.step(10)
        farthest = max(farthest, twin.pose.position[0] - here)
    return farthest


@pytest.mark.parametrize(
    ("gains", "at_63", "at_90"), [(SOFT, 0.532, 0.707), (STIFF, 0.420, 0.556), (SERL, 0.259, 0.378)]
)
def test_step_of_5_cm_reaches_63_and_90_percent_in_the_published_times(twin, gains, at_63, at_90):
    start = begin(twin, gains)
    twin.aim(Pose(start.position + np.array((0.05, 0, 0)), start.quaternion))
    reached = {}
    for _ in range(800):
        twin.step(1)
        share = (twin.pose.position[0] - start.position[0]) / 0.05
        for level in (0.63, 0.90):
            if share >= level:
                reached.setdefault(level, twin.time)
    begun = twin.time - 0.8
    assert reached[0.63] - begun == pytest.approx(at_63, rel=0.03)
    assert reached[0.90] - begun == pytest.approx(at_90, rel=0.03)


@pytest.mark.parametrize(("gains", "lag"), [(SOFT, 0.362), (STIFF, 0.310), (SERL, 0.246)])
def test_lag_behind_a_ramp(twin, gains, lag):
    start = ramp(twin, gains, 0.10, 1.5)
    measured = 1.5 - (twin.pose.position[0] - start.position[0]) / 0.10
    assert measured == pytest.approx(lag, rel=0.10)


@pytest.mark.parametrize(("gains", "peak"), [(SOFT, 2.2), (SERL, 3.9)])
def test_peak_speed_per_metre_of_target_jump_over_all_axes(twin, gains, peak):
    speeds = []
    for axis in np.diag((0.05, 0.05, -0.05)):
        start = begin(twin, gains)
        twin.aim(Pose(start.position + axis, start.quaternion))
        for _ in range(100):
            twin.step(5)
            speeds.append(np.linalg.norm(twin.arm.twist[:3]) / 0.05)
    assert max(speeds) == pytest.approx(peak, rel=0.05)


@pytest.mark.parametrize(
    ("gains", "speed", "published", "tolerance"),
    [(SOFT, 0.10, 37, 0.15), (SOFT, 0.25, 95, 0.25), (SERL, 0.10, 24, 0.05), (SERL, 0.25, 61, 0.05)],
)
def test_travel_after_the_last_setpoint(twin, gains, speed, published, tolerance):
    # The soft arm swings past its target before it settles; the farthest point is what matters.
    ramp(twin, gains, speed, 1.5 if speed < 0.2 else 1.0)
    assert 1000 * travel(twin) == pytest.approx(published, rel=tolerance)


@pytest.mark.parametrize(("speed", "published"), [(0.10, 10), (0.25, 25)])
def test_travel_with_a_stop_target_ahead_by_a_tenth_of_a_second(twin, speed, published):
    ramp(twin, SERL, speed, 1.0)
    twin.aim(Pose(twin.pose.position + 0.1 * twin.arm.twist[:3], twin.pose.quaternion))
    assert 1000 * travel(twin) == pytest.approx(published, rel=0.06)


def test_a_stop_target_halves_the_travel_of_the_soft_arm(twin):
    ramp(twin, SOFT, 0.10, 1.5)
    twin.aim(Pose(twin.pose.position + 0.1 * twin.arm.twist[:3], twin.pose.quaternion))
    assert 1000 * travel(twin) == pytest.approx(18, rel=0.25)  # 22 mm here, 41 mm without


def test_lead_cap_bounds_the_speed_that_any_jump_excites(twin):
    """5 cm of lead at 3.9 /s is 0.2 m/s: the strongest single limit of the safety filter."""
    start = begin(twin, SERL)
    fastest = 0.0
    for k in range(150):
        side = 1 if (k // 25) % 2 else -1  # the worst that a policy could do under the cap
        twin.aim(Pose(twin.pose.position + np.array((0, 0.05 * side, 0)), start.quaternion))
        twin.step(10)
        fastest = max(fastest, float(np.linalg.norm(twin.arm.twist[:3])))
    assert fastest < 0.25


def test_lock_step_is_the_same_bit_for_bit(twin):
    def run():
        ramp(twin, SOFT, 0.2, 0.3)
        return twin.arm.q, twin.arm.torque

    first, second = run(), run()
    np.testing.assert_array_equal(first, second)


def test_a_tick_at_a_time_is_the_same_as_many(twin):
    def run(steps):
        start = begin(twin, STIFF)
        twin.aim(Pose(start.position + np.array((0, 0.05, 0)), start.quaternion))
        functools.reduce(lambda _, n: twin.step(n), steps, None)
        return twin.arm.q

    np.testing.assert_array_equal(run([300]), run([1] * 100 + [7] * 28 + [4]))
