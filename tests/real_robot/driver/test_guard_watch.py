"""What the guard says, line by line, and when that is a reason to hold."""

from __future__ import annotations

import pytest

from robopolicy.real_robot.driver.guard_watch import SILENT, TAKES, GuardWatch
from robopolicy.real_robot.wire.slot import Sample

OURS = ("driver-1", 3)


class Line:
    """The guard's last line."""

    def __init__(self):
        self.sample = None

    def newest(self):
        return self.sample

    def says(self, text, at, epoch=1):
        self.sample = Sample({"data": text}, None, at, epoch, 1)


@pytest.fixture
def line():
    return Line()


@pytest.fixture
def watch(line):
    made = GuardWatch(needed=True)
    made.slot = line
    return made


def test_a_guard_that_holds_our_session_is_no_problem_and_one_that_ends_it_is(line, watch):
    watch.began(OURS, 10.0)
    line.says("silent: nobody has taken the lease", 9.9)
    assert watch.problem(10.5, 1) is None  # of before the arming
    line.says("held by driver-1 (session 3); passed 12", 10.1)
    assert watch.problem(10.1, 1) is None
    line.says("silent: others publish on the controller's topic: /intruder; passed 12; stops 1", 10.3)
    assert watch.problem(10.3, 1) == (
        "the guard has stopped the arm: others publish on the controller's topic: /intruder"
    )
    assert watch.ended
    watch.began(("driver-1", 4), 11.0)  # armed again
    assert watch.problem(11.1, 1) is None
    assert not watch.ended


def test_a_session_that_is_not_taken_within_a_second_is_a_problem(line, watch):
    watch.began(OURS, 10.0)
    for text, why in (
        ("silent: no lease for 0.15 s; strangers 1", "the guard lets nothing through: no lease for 0.15 s"),
        ("held by driver-1 (session 2)", "the guard is held by driver-1 (session 2): another driver commands"),
        ("held by arm-9 (session 3)", "the guard is held by arm-9 (session 3): another driver commands"),
    ):
        line.says(text, 10.0 + TAKES)
        assert watch.problem(10.0 + TAKES, 1) is None
        assert watch.problem(10.01 + TAKES, 1) == why
        assert watch.ended


def test_a_guard_that_falls_silent_or_was_never_heard_is_one_too_and_no_arming_mends_that(line, watch):
    assert "not heard on /robopolicy/guard" in watch.problem(0.0, 1)
    line.says("silent: nobody has taken the lease", 5.0)
    assert watch.problem(5.0 + SILENT, 1) is None
    assert watch.problem(5.3 + SILENT, 1) == "the guard was last heard 1.3 s ago, limit 1 s; is its node up?"
    assert not watch.ended
    assert "not heard" in watch.problem(5.1, 2)  # said on another connection


def test_without_one_in_the_set_up_nothing_that_it_says_holds(line):
    watch = GuardWatch(needed=False)
    watch.slot = line
    watch.began(OURS, 0.0)
    assert watch.problem(9.0, 1) is None
    line.says("silent: no lease for 0.15 s", 9.0)
    assert watch.problem(20.0, 1) is None
    assert watch.heard(1).message["data"].startswith("silent")  # but it is shown
