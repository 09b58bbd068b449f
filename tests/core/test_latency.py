"""How long answers take, in seconds and action periods."""

from __future__ import annotations

import pytest

from robopolicy.core.latency import LatencyTracker, periods


@pytest.mark.parametrize(("seconds", "dt", "want"), [(0.0, 0.1, 0), (0.2, 0.1, 2), (0.21, 0.1, 3), (0.3, 0.1, 3)])
def test_seconds_are_rounded_up_to_periods(seconds, dt, want):
    assert periods(seconds, dt) == want


def test_latency_in_action_periods_is_the_95th_percentile():
    t = LatencyTracker()
    assert t.delay(0.1) == 0
    for k in range(100):
        t.add(0.15 if k < 95 else 0.9, 0.1)
    assert t.usual == 0.15
    assert t.delay(0.1) == 2
    assert t.add(0.9, 0.1) is None or t.delay(0.1) == 9
    for _ in range(5):
        t.add(0.9, 0.1)
    assert t.delay(0.1) == 9


def test_a_leap_of_the_latency_is_told_once():
    t = LatencyTracker()
    assert t.add(0.05, 0.1) is None
    assert "1 -> 5" in t.add(0.45, 0.1)
    assert t.add(0.45, 0.1) is None
