"""Bursts of time requests against a stand-in for the link."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from robopolicy.core.errors import LinkDown
from robopolicy.real_robot.clock import VirtualClock
from robopolicy.real_robot.control.clocks import BURST
from robopolicy.real_robot.driver.clock_sync import ClockSync


def test_F19_a_burst_that_was_broken_off_leaves_nothing_to_the_next_link():
    clock = VirtualClock()
    answers = [(100.0, 0.001)] * 7 + [None] + [(250.0, 0.004)] * BURST

    def server_time():
        answer = answers.pop(0)
        if answer is None:
            raise LinkDown("the robot's computer was started anew, with another time")
        ahead, trip = answer
        sent = clock.now()
        clock.advance(trip)
        return sent, sent + trip / 2 + ahead, clock.now()

    sync = ClockSync(SimpleNamespace(server_time=server_time), clock)
    assert sync.probe() is None
    assert "started anew" in sync.failure
    assert sync.probe().theta == pytest.approx(250.0)
    assert sync.theta(clock.now()) == pytest.approx(250.0)
