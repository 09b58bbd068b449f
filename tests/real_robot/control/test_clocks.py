"""Offsets between two clocks, and stamps that cannot be true."""

from __future__ import annotations

import math

import numpy as np
import pytest

from robopolicy.real_robot.control.clocks import OffsetEstimator, StampFault, StampWatch


def burst(estimator, start, base, rtt=0.004, jitter=0.0, wall=0.0, n=20, seed=0):
    """``n`` probes from local ``start``; the robot's clock is local + ``base``."""
    rng, why = np.random.default_rng(seed), None
    for k in range(n):
        sent = start + 0.05 * k
        there, back = rtt / 2 + jitter * rng.uniform(size=2)
        server, received = sent + there + base, sent + there + back
        why = estimator.add(sent, server, received, received + wall) or why
    return why


def test_F19_a_constant_skew_of_2_s_is_corrected_to_half_a_round_trip_and_refused():
    e = OffsetEstimator()
    base = 1e9 + 2.0  # the robot's clock counts from another origin, and is 2 s ahead of our wall clock
    assert burst(e, 10.0, base, rtt=0.006, jitter=0.010, wall=1e9) is None
    m = e.measured
    assert abs(m.theta - base) <= m.error
    assert 0.003 <= m.error <= 0.008
    now = 11.0
    stamp = now - 0.03 + base  # 30 ms old
    assert abs(e.age(stamp, now) - 0.03) <= m.error + 50e-6
    assert "2.0" in m.problem()
    assert "synchronise" in m.problem()


@pytest.mark.parametrize(("skew", "fine"), [(0.0, True), (0.49, True), (-0.49, True), (0.51, False), (-0.51, False)])
def test_F19_half_a_second_is_the_limit(skew, fine):
    e = OffsetEstimator()
    burst(e, 0.0, 1e9 + skew, wall=1e9)
    assert (e.measured.problem() is None) == fine


def test_scattered_offsets_are_refused():
    e = OffsetEstimator()
    burst(e, 0.0, 0.0, jitter=0.3)
    assert "scatters" in e.measured.problem()


def test_the_offset_in_use_follows_at_50_ppm():
    e = OffsetEstimator()
    burst(e, 0.0, 100.0)
    start = e.theta(1.0)
    burst(e, 10.0, 100.010)
    assert e.theta(11.0) - start == pytest.approx(50e-6 * 10, rel=0.1)
    assert e.theta(400.0) == pytest.approx(100.010, abs=1e-3)


def test_F20_a_step_of_a_fifth_of_a_second_is_told_by_the_next_burst():
    e = OffsetEstimator()
    burst(e, 0.0, 100.0)
    assert burst(e, 10.0, 100.004) is None
    why = burst(e, 20.0, 100.204)
    assert "+0.200 s" in why
    assert e.theta(21.0) == pytest.approx(100.204, abs=1e-3)


def test_F20_an_offset_that_slewing_would_not_reach_for_minutes_is_adopted_and_told():
    e = OffsetEstimator()
    assert e.adopt(0.0) is None
    burst(e, 0.0, 100.0)
    assert burst(e, 10.0, 100.015) is None
    assert e.adopt(11.0) is None  # stamps still fit
    assert burst(e, 20.0, 100.030) is None  # no step by itself
    assert "+0.029 s off" in e.adopt(21.0)
    assert e.theta(21.0) == pytest.approx(100.030, abs=1e-6)


@pytest.mark.parametrize("jump", [0.2, -0.2])
def test_F20_a_step_shows_in_the_first_message_after_it(jump):
    w = StampWatch()
    for k in range(20):
        t = 10 + 0.01 * k
        assert w.step(t, t + 0.002, 0.0) is None
        assert w.judge(t, t + 0.002, 0.0).fault is None
    assert w.step(10.2 + jump, 10.202, 0.0) == pytest.approx(jump, abs=0.02)


def test_slow_messages_are_no_step():
    w = StampWatch()
    w.judge(1.0, 1.002, 0.0)
    assert w.step(1.01, 1.4, 0.0) is None


def test_stamps_that_cannot_be_true():
    w = StampWatch()
    assert w.judge(1.0, 1.01, 0.0).fault is None
    assert w.judge(1.0, 1.02, 0.0).fault is StampFault.FROZEN
    assert w.judge(0.99, 1.03, 0.0).fault is StampFault.BACKWARDS
    assert w.judge(1.07, 1.04, 0.0).fault is StampFault.FUTURE
    assert w.judge(math.nan, 1.05, 0.0).fault is StampFault.NOT_A_NUMBER
    assert w.judge(1.05, 1.04, 0.0).fault is None  # 10 ms ahead is what an offset may be wrong by


def test_a_camera_without_a_clock_is_dated_by_its_latency():
    dated = StampWatch(latency=0.04).judge(0.0, 5.0, 123.0)
    assert dated.assumed
    assert dated.time == pytest.approx(4.96)


def test_the_least_delay_is_of_the_last_five_seconds():
    w = StampWatch()
    w.judge(1.0, 1.001, 0.0)
    for k in range(10):
        w.judge(2.0 + k, 2.010 + k, 0.0)
    assert w.least_delay == pytest.approx(0.010)


def test_numbers_that_are_none_and_time_that_runs_backwards_are_dropped():
    e = OffsetEstimator(burst=2)
    for probe in ((0.0, math.nan, 0.1, 0.0), (1.0, 1.0, 0.9, 0.0), (math.inf, 1.0, 2.0, 0.0)):
        e.add(*probe)
    assert not e.ready
    with pytest.raises(ValueError, match="no burst"):
        e.theta(0.0)
