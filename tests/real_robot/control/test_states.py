"""The state machine: motion begins by an operator only, and every failure stops it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from robopolicy.core.errors import RequestRefused
from robopolicy.real_robot.control.policy_watch import PolicyWatch
from robopolicy.real_robot.control.states import ENGAGED, MOVING, Output, State, StateMachine
from robopolicy.real_robot.control.watchdogs import Health
from robopolicy.real_robot.limits import Timeouts

FINE = Health()


class Rig:
    def __init__(self, state=State.RUNNING, recovery=None):
        self.calls, self.now = [], 0.0
        self.m = StateMachine(Timeouts(), recovery or (lambda: self.calls.append(self.now)))
        self.tick()
        self.tick()
        if state is State.READY:
            return
        self.m.ask_to_arm("Ada", self.now)
        self.m.confirm_arming("Ada", self.now)
        if state is State.ARMED:
            return
        self.m.start(self.now)
        if state is State.HUMAN:
            self.m.intervene(self.now)
        elif state is State.HOLD:
            self.m.pause(self.now)

    def tick(self, dt=0.01, **what):
        self.now += dt
        self.m.tick(self.now, replace(FINE, **what))
        return self.m.state


def test_the_way_up_needs_two_steps_of_one_operator():
    m = StateMachine(Timeouts())
    assert m.output is Output.NOTHING
    m.tick(0.0, replace(FINE, preflight=False))
    m.tick(0.1, replace(FINE, preflight=False))
    assert m.state is State.LINKED
    with pytest.raises(RequestRefused, match="only in ready"):
        m.ask_to_arm("Ada", 0.1)
    m.tick(0.2, FINE)
    assert m.state is State.READY
    with pytest.raises(RequestRefused, match="ask first"):
        m.confirm_arming("Ada", 0.3)
    m.ask_to_arm("Ada", 0.3)
    with pytest.raises(RequestRefused, match="same operator"):
        m.confirm_arming("Bob", 0.4)
    with pytest.raises(RequestRefused, match="within 10 s"):
        m.confirm_arming("Ada", 10.4)
    with pytest.raises(RequestRefused, match="named"):
        m.ask_to_arm(" ", 0.5)
    m.ask_to_arm("Ada", 11.0)
    m.confirm_arming("Ada", 12.0)
    assert (m.state, m.output) == (State.ARMED, Output.STILL)
    m.start(12.1)
    assert (m.state, m.output, m.ramp) == (State.RUNNING, Output.MOTION, 1.0)


@pytest.mark.parametrize("state", list(ENGAGED))
def test_F01_a_lost_link_is_a_fault_that_publishes_nothing_until_armed_again(state):
    rig = Rig(state)
    epoch = rig.m.epoch
    assert rig.tick(link=False) is State.FAULT
    assert rig.m.output is Output.NOTHING
    assert rig.m.epoch == epoch + (state in MOVING)
    assert rig.tick(preflight=False) is State.FAULT
    assert rig.m.output is Output.NOTHING
    # back as far as READY, and no further
    assert rig.tick() is State.READY
    for _ in range(500):
        assert rig.tick() is State.READY
        assert rig.m.output is Output.NOTHING
    assert rig.calls == []


def test_a_link_lost_during_a_fault_does_not_publish_again_by_itself():
    rig = Rig()
    rig.tick(errors=("cartesian_reflex",))
    assert rig.m.output is Output.STILL
    rig.tick(link=False, errors=("cartesian_reflex",))
    assert rig.m.output is Output.NOTHING
    assert rig.tick(errors=("cartesian_reflex",)) is State.FAULT
    assert rig.m.output is Output.NOTHING


HOLDS = {
    "state": ({"state_age": 0.251}, {"state_age": 0.249}),
    "rate": ({"state_rate": 9.9}, {"state_rate": 10.1}),
    "loopback": ({"loopback_age": 0.301}, {"loopback_age": 0.299}),
    "camera": ({"camera_age": 0.501}, {"camera_age": 0.499}),
    "dead-man": ({"operator_age": 0.301}, {"operator_age": 0.299}),
    "tick": ({"late": 0.101}, {"late": 0.099}),
    "starved": ({"starved": 1.001}, {"starved": 0.999}),
    "clock": ({"clock": "clock: the offset changed"}, {}),
    "rival": ({"rivals": 1}, {}),
    "gripper": ({"gripper": "goal aborted twice"}, {}),
    "guard": ({"guard": "the guard has stopped the arm: no lease for 0.15 s"}, {}),
}


@pytest.mark.parametrize("name", HOLDS)
def test_F14_F17_F18_F20_F21_F24_F25_watchdogs_hold_at_their_limit(name):
    bad, good = HOLDS[name]
    rig = Rig()
    assert rig.tick(**good) is State.RUNNING
    epoch = rig.m.epoch
    assert rig.tick(**bad) is State.HOLD
    assert rig.m.output is Output.STILL
    assert rig.m.epoch == epoch + 1
    assert rig.m.why
    if name != "starved":  # which ends with the run
        with pytest.raises(RequestRefused, match="resume: "):
            rig.m.resume(rig.now)
    for _ in range(300):
        assert rig.tick() is State.HOLD  # never by itself
    rig.m.resume(rig.now)
    assert rig.m.state is State.RUNNING


@pytest.mark.parametrize("name", ["state_age", "state_rate", "loopback_age", "camera_age", "operator_age", "late"])
def test_a_watchdog_that_is_fed_no_number_holds(name):
    assert Rig().tick(**{name: math.nan}) is State.HOLD


@pytest.mark.parametrize("state", MOVING)
@pytest.mark.parametrize(("mode", "name"), [(0, "other"), (1, "idle")])
def test_an_arm_that_no_controller_moves_holds_and_moves_again_only_once_it_is_moved(mode, name, state):
    rig = Rig(state)
    assert rig.tick(mode=mode) is State.HOLD
    assert rig.m.why.startswith(f"robot mode {mode} ({name}): no controller moves the arm")
    assert rig.m.output is Output.STILL
    rig.tick(dt=1.0, mode=mode)
    with pytest.raises(RequestRefused, match=f"resume: robot mode {mode}"):
        rig.m.resume(rig.now)
    assert rig.tick() is State.HOLD
    rig.m.resume(rig.now)
    assert rig.tick() is State.RUNNING


def test_an_idle_arm_may_be_armed_but_not_started():
    rig = Rig(State.ARMED)
    assert rig.tick(mode=1) is State.ARMED
    with pytest.raises(RequestRefused, match=r"start: robot mode 1 \(idle\)"):
        rig.m.start(rig.now)
    rig.tick(mode=2)
    rig.m.start(rig.now)
    assert rig.m.state is State.RUNNING


FAULTS = {
    "reflex": {"mode": 4},
    "guiding": {"mode": 3},
    "recovering": {"mode": 6},
    "unknown": {"mode": 17},
    "errors": {"errors": ("joint_velocity_violation", "cartesian_reflex")},
    "policy": {"policy": "its process ended with code -9"},
    "filter": {"filter_hold": "jump", "filter_fault": True},
}


@pytest.mark.parametrize("state", [State.ARMED, *MOVING, State.HOLD])
@pytest.mark.parametrize("name", FAULTS)
def test_F22_F27_F29_faults_need_an_operator_and_no_recovery_is_sent_before(name, state):
    rig = Rig(state)
    assert rig.tick(**FAULTS[name]) is State.FAULT
    for part in FAULTS[name].get("errors", ()):
        assert part in rig.m.why
    assert rig.m.output is (Output.NOTHING if name == "guiding" else Output.STILL)
    for _ in range(2000):
        assert rig.tick() is State.FAULT  # the cause is gone; that changes nothing
    assert rig.calls == []
    rig.m.recover("Ada", rig.now)
    assert len(rig.calls) == 1
    assert rig.tick() is State.READY


@pytest.mark.parametrize("state", [State.READY, *ENGAGED])
def test_F26_the_stop_is_latched_and_nothing_is_published(state):
    rig = Rig(state)
    assert rig.tick(mode=5) is State.ESTOP  # in the very tick that the mode is seen
    assert rig.m.output is Output.NOTHING
    with pytest.raises(RequestRefused, match="release it"):
        rig.m.recover("Ada", rig.now)
    for _ in range(100):
        assert rig.tick() is State.ESTOP
        assert rig.m.output is Output.NOTHING
    assert rig.calls == []
    rig.m.recover("Ada", rig.now)
    assert rig.tick(preflight=False) is State.ESTOP
    assert rig.tick() is State.READY


@pytest.mark.parametrize("first", [{"mode": 4}, {"mode": 5}], ids=["reflex", "stop"])
def test_F26_a_stop_pressed_during_a_recovery_is_not_left_by_that_recovery(first):
    rig = Rig()
    rig.tick(**first)
    rig.tick(mode=4)
    rig.m.recover("Ada", rig.now)
    assert rig.tick(mode=5) is State.ESTOP
    for _ in range(100):
        rig.tick(mode=5)
    for _ in range(100):
        assert rig.tick() is State.ESTOP
    rig.m.recover("Ada", rig.now)
    assert rig.tick() is State.READY


def test_F28_a_recovery_without_effect_stays_a_fault_after_5_s():
    rig = Rig()
    rig.tick(mode=4)
    rig.m.recover("Ada", rig.now)
    for _ in range(499):
        assert rig.tick(mode=4) is State.FAULT
    with pytest.raises(RequestRefused, match="under way"):
        rig.m.recover("Ada", rig.now)
    rig.tick(mode=4, dt=0.1)
    assert "no effect within 5 s" in rig.m.why
    # it does not come true later
    assert rig.tick() is State.FAULT
    assert len(rig.calls) == 1


def test_F28_a_recovery_that_fails_is_a_fault_and_no_exception():
    def fails():
        raise RuntimeError("goal rejected")

    rig = Rig(recovery=fails)
    rig.tick(mode=4)
    rig.m.recover("Ada", rig.now)
    assert "goal rejected" in rig.m.why
    assert rig.tick() is State.FAULT


@pytest.mark.parametrize("first", [{}, {"mode": 4}, {"mode": 5}], ids=["link only", "reflex", "stop"])
def test_F01_F28_a_recovery_without_a_link_is_refused_and_costs_nothing(first):
    rig = Rig()
    rig.tick(**first)
    rig.tick(link=False)
    for _ in range(5):
        with pytest.raises(RequestRefused, match="recover: the link is down, so the robot cannot be asked"):
            rig.m.recover("Ada", rig.now)
    assert rig.calls == []
    for _ in range(3):  # all three are left
        if rig.m.state is State.READY:
            rig.m.ask_to_arm("Ada", rig.now)
            rig.m.confirm_arming("Ada", rig.now)
        rig.tick(mode=4)
        rig.m.recover("Ada", rig.now)
        assert rig.tick() is State.READY
    assert len(rig.calls) == 3


def test_F28_a_recovery_that_could_not_be_asked_for_costs_nothing():
    broken = []

    def ask():
        if not broken:
            raise RuntimeError("nothing was sent: the link is down")

    rig = Rig(recovery=ask)
    rig.tick(mode=4)
    for _ in range(5):
        rig.m.recover("Ada", rig.now)
        assert rig.m.why.startswith("recovery failed: nothing was sent")
    broken.append(True)
    rig.m.recover("Ada", rig.now)
    assert rig.tick() is State.READY


def test_three_recoveries_within_ten_minutes_are_enough():
    rig = Rig()
    for _ in range(3):
        rig.tick(mode=4)
        rig.m.recover("Ada", rig.now)
        assert rig.tick() is State.READY
        rig.m.ask_to_arm("Ada", rig.now)
        rig.m.confirm_arming("Ada", rig.now)
    rig.tick(mode=4)
    with pytest.raises(RequestRefused, match="restart the driver"):
        rig.m.recover("Ada", rig.now)
    rig.tick(dt=601, mode=4)
    rig.m.recover("Ada", rig.now)


def test_F40_shutting_down_holds_at_once():
    for state in MOVING:
        rig = Rig(state)
        rig.m.shut_down(rig.now, "SIGTERM")
        assert (rig.m.state, rig.m.output, rig.m.why) == (State.HOLD, Output.STILL, "SIGTERM")


def test_F41_a_human_wins_and_the_policys_epoch_ends():
    rig = Rig()
    epoch = rig.m.epoch
    rig.m.intervene(rig.now)
    assert rig.m.state is State.HUMAN
    assert rig.m.epoch == epoch + 1
    rig.m.release(rig.now)
    assert rig.m.epoch == epoch + 2
    with pytest.raises(RequestRefused, match="wait"):
        rig.m.resume(rig.now + 0.29)
    rig.m.resume(rig.now + 0.31)
    assert rig.m.ramp == 0.5


def test_starvation_is_no_business_of_a_humans():
    assert Rig(State.HUMAN).tick(starved=99.0) is State.HUMAN


def test_preflight_that_turns_red_takes_readiness_back():
    rig = Rig(State.READY)
    assert rig.tick(preflight=False) is State.LINKED
    assert rig.tick(mode=3) is State.LINKED
    assert rig.tick() is State.READY


def test_every_event_is_recorded():
    rig = Rig()
    rig.tick(state_age=1.0)
    names = [(e.before.value, e.after.value) for e in rig.m.events]
    assert names == [
        *(("off", "linked"), ("linked", "ready"), ("ready", "armed"), ("armed", "running"), ("running", "hold")),
    ]


# -- the policy's own watch --------------------------------------------------------------------------------------------


def test_F22_a_hung_call_a_failure_and_a_merely_slow_one():
    w = PolicyWatch(Timeouts())
    w.began(0.0)
    w.answered(0.3, 0.1)
    w.began(1.0)
    assert w.problem(1.9, 0.5) is None
    # the plan ended at 1.3; a call that is as slow as this is hung by the end of its second
    assert "no answer" in w.problem(2.26, 0.96)
    w.restart()
    w.began(0.0)
    assert w.problem(4.99, 0.0) is None
    assert w.problem(5.01, 0.0)
    w.answered(5.1, 0.1)
    w.failed("ValueError: shapes")
    assert w.problem(6.0, 0.0) == "ValueError: shapes"


def test_F21_a_policy_that_is_usually_slow_is_held_for_not_failed():
    w = PolicyWatch(Timeouts())
    for _ in range(20):
        w.began(0.0)
        w.answered(1.2, 0.1)
    w.began(0.0)
    assert w.problem(1.5, 1.2) is None
