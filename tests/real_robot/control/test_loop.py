"""One tick at a time: plan, filter and state machine together, on a clock turned by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from robopolicy.real_robot.control.loop import ControlLoop, Inputs
from robopolicy.real_robot.control.plan import Plan, Waypoints
from robopolicy.real_robot.control.states import State, StateMachine
from robopolicy.real_robot.control.watchdogs import Health
from robopolicy.real_robot.frames import Pose, downward
from robopolicy.real_robot.limits import SafetyLimits, Timeouts
from robopolicy.real_robot.safety.filter import SafetyFilter
from robopolicy.real_robot.safety.types import SafetyFlag, Setpoint
from robopolicy.testing.safety import FirstOrderArm, Trace

DOWN = downward(0.0)
START = Pose(np.array((0.45, 0.0, 0.3)), DOWN)
LIMITS = SafetyLimits()
TICK = 0.01


class Rig:
    """The loop with a simple arm, armed and running."""

    def __init__(self, start=True, lag=0.3):
        safety = SafetyFilter(LIMITS).without("joints")
        self.loop = ControlLoop(safety, Plan(LIMITS, latency=0.0, gripper_latency=0.0), StateMachine(Timeouts()))
        self.arm, self.now, self.records = FirstOrderArm(START, lag), 50.0, []
        self.trace = Trace(LIMITS, TICK)
        self.trace.begin(START)
        self.tick(3)
        self.machine.ask_to_arm("Ada", self.now)
        self.machine.confirm_arming("Ada", self.now)
        self.tick(3)
        if start:
            self.machine.start(self.now)
            self.tick()

    @property
    def machine(self):
        return self.loop.machine

    def tick(self, n=1, dt=TICK, measured=None, teleop=None, **health):
        for _ in range(n):
            self.now += dt
            m = measured or self.arm.measured(self.now)
            r = self.loop.tick(self.now, Inputs(m, replace(Health(), **health), teleop=teleop))
            self.records.append(r)
            if r.publish is not None:
                self.arm.follow(r.publish, TICK)
        return r

    def chunk(self, step=0.005, n=8, first=0.1, dt=0.1, at=None):
        x = (self.loop.filter.pose.position[0] if at is None else at) + step * np.arange(1, n + 1)
        positions = np.stack((x, np.zeros(n), np.full(n, 0.3)), -1)
        stamps = self.now + first + dt * np.arange(n)
        return Waypoints(Pose(positions, np.tile(DOWN, (n, 1))), stamps, dt, self.machine.epoch)

    def published(self):
        return [r.publish for r in self.records]


def test_nothing_is_published_before_arming_and_the_measured_pose_then():
    rig = Rig(start=False)
    assert rig.published()[:3] == [None] * 3
    assert all(np.array_equal(p.position, START.position) for p in rig.published()[3:])
    assert rig.machine.state is State.ARMED


def test_arming_without_a_believable_pose_is_a_fault():
    rig = Rig(start=False)
    rig.machine.pause(rig.now)
    rig.tick(mode=4)
    rig.machine.recover("Ada", rig.now)
    rig.tick()
    rig.machine.ask_to_arm("Ada", rig.now)
    rig.machine.confirm_arming("Ada", rig.now)
    m = rig.arm.measured(rig.now)
    rig.tick(measured=replace(m, position=np.full(3, math.nan)))
    assert rig.machine.state is State.FAULT


def led_away(rig):
    """Back in READY after a run, the arm then led 24 cm away by hand."""
    rig.tick(60)
    rig.tick(mode=4)
    rig.machine.recover("Ada", rig.now)
    rig.tick(2)
    rig.tick(3, mode=3)
    rig.arm = FirstOrderArm(Pose(START.position + np.array((0.0, 0.24, 0.0)), DOWN), 0.3)
    rig.tick(3, mode=3)
    rig.tick(2)
    assert rig.machine.state is State.READY
    rig.machine.ask_to_arm("Ada", rig.now)
    rig.machine.confirm_arming("Ada", rig.now)


@pytest.mark.parametrize("broken", [{"position": np.full(3, math.nan)}, {"at": math.nan}, {"at": 0.0}], ids=str)
def test_arming_without_a_believable_pose_does_not_publish_that_of_an_earlier_run(broken):
    rig = Rig()
    led_away(rig)
    m = replace(rig.arm.measured(rig.now + TICK), **broken)
    r = rig.tick(measured=m)
    assert r.state is State.FAULT
    assert r.publish is None
    assert rig.tick(5).publish is None


@pytest.mark.parametrize("steps", [(), ("start",), ("start", "intervene"), ("start", "pause"), ("pause",)], ids=str)
def test_armed_and_started_between_two_ticks_it_begins_where_the_arm_is(steps):
    for rig in (Rig(), Rig(start=False)):
        led_away(rig)
        for step in steps:
            getattr(rig.machine, step)(rig.now)
        here = rig.arm.measured(rig.now + TICK).position
        r = rig.tick()
        assert np.linalg.norm(r.publish.position - here) < 1e-9
        assert SafetyFlag.DRAGGED not in r.flags


def test_armed_and_started_before_the_first_tick_after_it():
    loop = ControlLoop(SafetyFilter(LIMITS).without("joints"), Plan(LIMITS), StateMachine(Timeouts()))
    arm = FirstOrderArm(START)
    for k in range(3):
        loop.tick(0.01 * k, Inputs(arm.measured(0.01 * k), Health()))
    loop.machine.ask_to_arm("Ada", 0.02)
    loop.machine.confirm_arming("Ada", 0.02)
    loop.machine.start(0.02)
    record = loop.tick(0.03, Inputs(arm.measured(0.03), Health()))
    assert record.state is State.RUNNING
    assert np.array_equal(record.publish.position, START.position)


def test_a_chunk_that_waits_while_the_arm_cannot_be_found_is_dropped():
    rig = Rig(start=False)
    led_away(rig)
    rig.machine.start(rig.now)
    assert rig.loop.submit(rig.chunk())
    assert rig.tick(measured=replace(rig.arm.measured(rig.now), q=np.full(7, math.nan))).state is State.FAULT


def test_a_run_follows_its_chunks_and_comes_to_rest_at_the_end_without_overshoot():
    rig = Rig()
    assert rig.loop.submit(rig.chunk(n=5))
    rig.tick(200, dt=TICK)
    x = [p.position[0] for p in rig.published() if p is not None]
    end = START.position[0] + 0.025
    assert max(x) <= end + 1e-6
    # still at rest at its end within the second that follows, then held
    assert rig.machine.state is State.HOLD
    assert any(abs(v - end) < 2e-4 for v in x)


def test_F21_the_old_plan_runs_to_its_end_and_a_late_chunk_is_not_executed():
    rig = Rig()
    rig.loop.submit(rig.chunk(n=4))
    rig.tick(60)
    late = rig.chunk(n=3, first=-0.5, at=0.40)
    rig.loop.submit(late)
    record = rig.tick()
    assert record.merge.over_budget
    assert rig.loop.counters.over_budget == 1
    rig.tick(30)
    assert rig.arm.position[0] > 0.45
    assert rig.loop.counters.starved >= 1
    # a new chunk in time: on it goes, smoothly
    rig.loop.submit(rig.chunk(n=4))
    rig.tick(40)
    assert rig.machine.state is State.RUNNING
    for r in rig.records:
        if r.emitted is not None:
            rig.trace.add(r.emitted, rig.arm.measured(r.at))
    assert {k for k in rig.trace.violations() if "lead" not in k} == set()


def test_F21_starving_for_a_second_holds():
    rig = Rig()
    rig.loop.submit(rig.chunk(n=2))
    began = rig.now
    while rig.tick().state is State.RUNNING:
        assert rig.now - began < 3
    assert rig.now - began == pytest.approx(0.2 + 1.0, abs=0.03)
    assert "no new plan" in rig.machine.why


def test_F22_a_policy_that_dies_is_a_fault_and_the_arm_is_held():
    rig = Rig()
    rig.loop.submit(rig.chunk())
    rig.tick(30)
    r = rig.tick(policy="its process ended with code -9")
    assert r.state is State.FAULT
    assert r.publish is not None
    rig.tick(50)
    assert np.array_equal(rig.records[-1].publish.position, r.publish.position)


def test_F09_a_second_broken_chunk_within_ten_seconds_is_a_fault():
    rig = Rig()
    for expected in (State.RUNNING, State.FAULT):
        c = rig.chunk()
        bad = c.track.position.copy()
        bad[3, 2] = math.nan
        rig.loop.submit(replace(c, track=Pose(bad, c.track.quaternion)))
        r = rig.tick()
        assert r.merge.refused
        assert r.state is expected
        rig.tick(20)
    assert all(p is None or p.finite() for p in rig.published())


def test_F12_three_jumping_chunks_are_a_fault():
    rig = Rig()
    for k in range(3):
        rig.loop.submit(rig.chunk(at=0.6))
        assert rig.tick().merge.jump == 0
        assert rig.machine.state is (State.FAULT if k == 2 else State.RUNNING)
    moved = [p.position[0] for p in rig.published() if p is not None]
    assert np.ptp(moved) < 1e-9


def test_F17_a_frozen_state_holds_within_a_quarter_second():
    rig = Rig()
    rig.loop.submit(rig.chunk())
    rig.tick(30)
    frozen, began = rig.arm.measured(rig.now), rig.now
    while rig.tick(measured=frozen, state_age=rig.now + TICK - frozen.at).state is State.RUNNING:
        pass
    assert rig.now - began <= 0.25 + TICK + 1e-9


def test_F24_F43_a_pause_of_200_ms_holds_and_is_not_caught_up():
    rig = Rig()
    rig.loop.submit(rig.chunk(step=0.008))
    rig.tick(30)
    before = rig.records[-1].publish.position
    r = rig.tick(dt=0.05)
    assert r.state is State.RUNNING
    assert rig.loop.counters.late == 1
    assert np.linalg.norm(r.publish.position - before) <= LIMITS.speed * TICK * (1 + 1e-9)
    r = rig.tick(dt=0.2)
    assert r.state is State.HOLD
    # the stop target lies behind the setpoint, near the arm
    assert np.linalg.norm(r.publish.position - rig.arm.measured(rig.now).position) <= 0.1 * LIMITS.speed + 1e-3


def test_F26_the_stop_silences_within_the_tick_and_a_reflex_keeps_the_stop_target():
    rig = Rig()
    rig.loop.submit(rig.chunk())
    rig.tick(20)
    assert rig.tick(mode=5).publish is None
    assert rig.tick().publish is None
    rig = Rig()
    rig.tick(20)
    assert rig.tick(mode=4).publish is not None


def test_F20_a_step_of_the_clock_holds_at_the_next_tick():
    rig = Rig()
    rig.tick(5)
    assert rig.tick(clock="clock: the offset to the robot changed by +0.200 s at once").state is State.HOLD


def test_F40_the_stop_target_goes_out_with_the_next_tick():
    rig = Rig()
    rig.loop.submit(rig.chunk(step=0.009))
    rig.tick(50)
    asked = rig.now
    rig.machine.shut_down(rig.now, "SIGINT")
    r = rig.tick()
    assert rig.now - asked <= 0.050
    assert r.publish is not None
    assert SafetyFlag.HELD in r.flags
    ahead = r.publish.position[0] - rig.arm.position[0]
    assert ahead <= 0.1 * LIMITS.speed + 1e-9


def test_F41_human_and_policy_never_alternate():
    rig = Rig()
    rig.loop.submit(rig.chunk(step=0.008))
    rig.tick(40)
    late = rig.chunk(step=0.008)  # of the policy's epoch, still being computed
    last = rig.records[-1].publish.position
    rig.machine.intervene(rig.now)
    turn = rig.now
    for _ in range(40):
        assert not rig.loop.submit(late)
        wish = Setpoint(np.array((last[0], 0.05, 0.3)), DOWN)
        rig.tick(teleop=(wish, rig.now))
    x = [r.publish.position[0] for r in rig.records if r.at > turn]
    # It was anchored at the last emitted setpoint: from there it slows down in x and goes the human's way in y.
    assert abs(x[0] - last[0]) <= LIMITS.speed * TICK
    assert max(x) - last[0] < 0.012
    assert rig.records[-1].publish.position[1] > 0.005
    assert {r.epoch for r in rig.records if r.at > turn} == {rig.machine.epoch}
    # a hand that says nothing any more: it comes to rest
    rig.tick(60)
    assert not rig.records[-1].emitted.rate.any()


def test_chunks_are_only_taken_while_running():
    rig = Rig(start=False)
    assert not rig.loop.submit(rig.chunk())
    rig.machine.start(rig.now)
    rig.tick()
    old = rig.chunk()
    rig.machine.pause(rig.now)
    rig.machine.resume(rig.now)
    assert not rig.loop.submit(old)
    assert rig.loop.counters.stale == 2


def test_a_pause_and_resume_between_two_ticks_still_starts_afresh():
    rig = Rig()
    rig.loop.submit(rig.chunk(step=0.009))
    rig.tick(60)
    rig.machine.pause(rig.now)
    rig.machine.resume(rig.now)
    r = rig.tick()
    assert r.state is State.RUNNING
    assert np.linalg.norm(r.emitted.rate[:3]) < 0.01  # it stopped, and begins slowly
    assert SafetyFlag.RAMP in r.flags


def test_a_run_can_be_replayed_bit_for_bit():
    def run():
        rig = Rig()
        for k in range(6):
            rig.loop.submit(rig.chunk(step=0.004 * (-1) ** k))
            rig.tick(25)
        return np.array([p.position for p in rig.published() if p is not None])

    assert np.array_equal(run(), run())
