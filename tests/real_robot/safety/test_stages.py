"""What may be asked for: numbers, time and state, jumps, places, widths; each stage by its own."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.real_robot.frames import Pose, difference, turned
from robopolicy.real_robot.limits import SafetyLimits, Timeouts
from robopolicy.real_robot.safety.types import Link, Measured, SafetyFlag, Setpoint
from robopolicy.real_robot.safety.workspace import Workspace
from robopolicy.testing.filter_rig import DOWN, LIMITS, START, TICK, action
from robopolicy.testing.filter_rig import FilterRig as Rig

# -- 1: finite ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        {"position": (np.nan, 0, 0.3)},
        {"position": (0.45, np.inf, 0.3)},
        {"position": (0.45, 0.3)},
        {"position": (0.45, 0.0, 1e300)},
        {"quaternion": (0, 0, 0, 0)},
        {"quaternion": (1, 0, 0, np.nan)},
        {"quaternion": (0.9, 0, 0, 0)},
        {"gripper": np.nan},
        {"rate": np.full(6, np.inf)},
        {"left": np.nan},
    ],
    ids=str,
)
def test_F09_a_broken_setpoint_is_refused_and_the_second_is_a_fault(bad):
    rig = Rig()
    rig.to((0.50, 0, 0.3), ticks=20)
    before = rig.seen[-1].position
    wish = {"position": np.array((0.5, 0, 0.3)), "quaternion": DOWN, **bad}
    wish = Setpoint(**{k: np.asarray(v, float) if np.ndim(v) else v for k, v in wish.items()})
    first = rig.tick(wish)
    assert SafetyFlag.NOT_FINITE in first.flags
    assert first.hold is None
    assert first.pose.finite()
    assert np.linalg.norm(first.pose.position - before) < LIMITS.speed * TICK
    again = rig.tick(wish)
    assert again.fault
    assert "not finite" in again.hold
    assert again.pose.finite()


def test_F09_a_second_broken_setpoint_after_ten_seconds_is_no_fault():
    rig = Rig()
    broken = Setpoint(np.full(3, np.nan), DOWN)
    assert rig.tick(broken).hold is None
    rig.now += 10.0
    assert rig.tick(broken).hold is None
    assert rig.tick(broken).fault


def test_F13_signs_and_lengths_of_quaternions():
    rig = Rig()
    for k in range(200):
        q = turned(DOWN, np.array((0, 0, 0.002 * k))) * (-1) ** k * (1 + 0.04 * np.sin(k))
        e = rig.to(START.position, q)
        assert abs(np.linalg.norm(e.pose.quaternion) - 1) < 1e-6
        assert e.pose.quaternion @ rig.seen[-2].quaternion > 0.99
        step = np.linalg.norm(difference(rig.seen[-2].quaternion, e.pose.quaternion))
        assert step <= LIMITS.turn_speed * TICK * (1 + 1e-6)


def test_F10_a_broken_state_is_not_believed_and_holds_within_a_quarter_second():
    rig = Rig()
    rig.to((0.47, 0, 0.3), ticks=30)
    wish, began = Setpoint(np.array((0.47, 0, 0.3)), DOWN), rig.now
    broken = Measured(rig.now, np.full(3, np.nan), DOWN)
    while (e := rig.tick(wish, broken)).hold is None:
        assert e.pose.finite()
        assert rig.now - began < 1
    assert rig.now - began <= 0.25 + TICK + 1e-9
    assert "old" in e.hold


# -- 2: gate -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("timeouts", "hard"), [(Timeouts(), 0.25), (Timeouts.for_state_rate(30), 0.30)])
def test_F17_a_state_that_stops_slows_and_then_holds(timeouts, hard):
    rig = Rig()
    rig.filter.timeouts = timeouts
    rig.to((0.55, 0, 0.3), ticks=60)
    frozen, began = rig.arm.measured(rig.now), rig.now
    wish, speeds = Setpoint(np.array((0.55, 0, 0.3)), DOWN), []
    while (e := rig.tick(wish, frozen)).hold is None:
        speeds.append(np.linalg.norm(e.rate[:3]))
    assert rig.now - began <= hard + TICK + 1e-9
    assert speeds[0] > 0.05
    assert speeds[-1] < 0.03  # it was slowing down long before it held
    # No state is fresh enough for a stop target: it comes to rest where it is, and is not thrown back.
    path = rig.positions()
    assert np.abs(np.diff(path, axis=0)).max() <= LIMITS.speed * TICK * (1 + 1e-9)


def test_F25_the_dead_man_holds_within_035_seconds():
    rig, began = Rig(), 0.0
    wish = Setpoint(np.array((0.47, 0, 0.3)), DOWN)
    while rig.tick(wish, link=Link(0, operator_at=began)).hold is None:
        pass
    assert 0.30 < rig.now <= 0.35


@pytest.mark.parametrize("heard", [{"operator_at": np.nan}, {"loopback_at": np.nan}], ids=str)
def test_a_dead_man_or_a_loopback_heard_at_no_time_holds(heard):
    assert Rig().tick(Setpoint(START.position, DOWN), link=Link(0, **heard)).hold is not None


def test_the_loopback_warns_and_then_holds():
    rig = Rig()
    wish, flags = Setpoint(START.position, DOWN), []
    while (e := rig.tick(wish, link=Link(0, loopback_at=0.0))).hold is None:
        flags.append(SafetyFlag.LOOPBACK in e.flags)
    assert 0.30 < rig.now <= 0.30 + 2 * TICK
    assert flags.index(True) == pytest.approx(15, abs=1)


def test_F24_F43_a_late_tick_is_not_caught_up_and_a_very_late_one_holds():
    rig = Rig()
    rig.to((0.6, 0, 0.3), ticks=60, left=np.inf)
    late = rig.tick(Setpoint(np.array((0.6, 0, 0.3)), DOWN), dt=0.05)
    assert SafetyFlag.LATE_TICK in late.flags
    assert late.hold is None
    step = np.linalg.norm(late.pose.position - rig.seen[-2].position)
    assert step <= LIMITS.speed * TICK * (1 + 1e-9)
    held = rig.tick(Setpoint(np.array((0.6, 0, 0.3)), DOWN), dt=0.2)
    assert "200 ms late" in held.hold


def test_F24_an_early_tick_repeats_the_last_pose():
    rig = Rig()
    rig.to((0.6, 0, 0.3), ticks=60)
    early = rig.tick(Setpoint(np.array((0.6, 0, 0.3)), DOWN), dt=0.002)
    assert SafetyFlag.EARLY_TICK in early.flags
    assert np.array_equal(early.pose.position, rig.seen[-2].position)


@pytest.mark.parametrize("dt", [0.0051, 0.006, 0.008, 0.0095])
def test_F12_F24_a_loop_that_runs_too_fast_does_not_make_the_tool_faster(dt):
    rig = Rig(lag=0.1)
    for _ in range(round(1.5 / dt)):
        e = rig.tick(Setpoint(np.array((0.72, 0, 0.3)), DOWN, left=np.inf), dt=dt)
        assert e.hold is None
    x = rig.positions()[:, 0]
    n = round(0.5 / dt)
    assert np.max(x[n:] - x[:-n]) <= LIMITS.speed * (n * dt + 2 * TICK)


def test_F24_jitter_about_the_grid_repeats_nothing():
    rng, rig = np.random.default_rng(0), Rig()
    times = np.cumsum(np.full(500, TICK)) + rng.uniform(0, 0.004, 500)
    for dt in np.diff(times):
        e = rig.tick(Setpoint(np.array((0.6, 0, 0.3)), DOWN), dt=float(dt))
        assert SafetyFlag.EARLY_TICK not in e.flags


def test_F41_a_setpoint_of_an_old_epoch_moves_nothing():
    rig = Rig()
    for _ in range(50):
        e = rig.tick(Setpoint(np.array((0.5, 0, 0.3)), DOWN, epoch=3), link=Link(4))
    assert SafetyFlag.EPOCH in e.flags
    assert np.array_equal(rig.seen[-1].position, START.position)


# -- 3: jump -----------------------------------------------------------------------------------------------------------


def test_F12_a_jumping_action_is_not_followed_and_the_third_is_a_fault():
    rig = Rig()
    assert rig.to((0.47, 0, 0.3), **action(0.47, 1)).hold is None
    at = []
    for _ in range(20):
        e = rig.to((0.52, 0, 0.3), **action(0.52, 2))
        assert SafetyFlag.JUMP in e.flags
        at.append(e.pose.position[0])
    assert e.hold is None
    assert max(at) < 0.452
    # an action near the last good one goes on, a 30 mm step is allowed, 31 mm is not
    assert SafetyFlag.JUMP not in rig.to((0.4999, 0, 0.3), **action(0.4999, 3)).flags
    assert SafetyFlag.JUMP in rig.to((0.531, 0, 0.3), **action(0.531, 4)).flags
    third = rig.to((0.6, 0, 0.3), **action(0.6, 5))
    assert third.fault
    assert "jump" in third.hold


def test_dropped_actions_leave_room_for_as_many_steps_but_not_more_than_three():
    assert SafetyFlag.JUMP not in Rig().to((0.53, 0, 0.3), **action(0.53, 1, 3)).flags
    assert SafetyFlag.JUMP in Rig().to((0.55, 0, 0.3), **action(0.55, 1, 9)).flags


# -- 4: workspace ------------------------------------------------------------------------------------------------------


def test_F11_a_target_outside_is_projected_and_slid_along():
    rig = Rig(start=Pose(np.array((0.70, 0.0, 0.3)), DOWN))
    for k in range(300):
        e = rig.to((0.78, 0.0005 * k, 0.3))
        assert e.pose.position[0] <= 0.75 + 1e-6
    assert SafetyFlag.WORKSPACE in e.flags
    assert e.hold is None
    assert e.pose.position[0] == pytest.approx(0.75, abs=1e-3)
    assert e.pose.position[1] == pytest.approx(0.15, abs=0.03)


def test_F11_three_ticks_more_than_5_cm_outside_hold():
    rig = Rig()
    holds = [rig.to((0.9, 0, 0.3)).hold for _ in range(3)]
    assert holds[:2] == [None, None]
    assert "workspace" in holds[2]
    rig = Rig()
    assert [rig.to((0.9 if k % 3 else 0.5, 0, 0.3)).hold for k in range(9)] == [None] * 9


def test_the_finger_tips_stay_above_the_table_however_the_hand_is_turned():
    # 30 degrees about the hand's x: the outer end of an open finger is 27 mm lower than the tool centre point.
    tilted = turned(DOWN, np.array((np.pi / 6, 0, 0)))
    rig = Rig(start=Pose(np.array((0.45, 0, 0.1)), DOWN))
    rig.width = 0.08
    e = rig.to((0.45, 0, 0.025), tilted, ticks=250)
    tip = 0.5 * (0.5 * 0.08 + 0.015) + np.cos(np.pi / 6) * 0.010
    assert e.pose.position[2] == pytest.approx(tip, abs=2e-3)
    assert all(p.position[2] - 1e-6 >= 0.02 for p in rig.seen)


def test_a_hand_over_the_table_does_not_open_into_it():
    tilted = turned(DOWN, np.array((np.pi / 4, 0, 0)))
    rig = Rig(start=Pose(np.array((0.45, 0, 0.035)), tilted))
    e = rig.to((0.45, 0, 0.035), tilted, gripper=0.08, ticks=3)
    assert SafetyFlag.GRIPPER in e.flags
    assert e.gripper < 0.05


def test_keep_out_boxes_are_not_entered():
    box = {"low": (0.5, -0.1, 0.0), "high": (0.6, 0.1, 0.4)}
    rig = Rig(limits=SafetyLimits(keep_out=(box,)))
    e = rig.to((0.52, 0.0, 0.3), ticks=150)
    assert e.pose.position[0] == pytest.approx(0.5, abs=1e-3)
    assert (rig.positions()[:, 0] <= 0.5 + 1e-6).all()


def test_radial_bounds():
    space = Workspace(LIMITS)
    for p in ((0.75, 0.39, 0.3), (0.30, 0.0, 0.6), (0.0, 0.0, 0.5), (5.0, -7.0, -3.0)):
        inside = space.project(p, tuple(DOWN.tolist()), 0.08)
        assert space.excess(inside, tuple(DOWN.tolist()), 0.08) <= 0
        assert 0.25 <= np.hypot(*inside[:2]) <= 0.80


# -- the gripper -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "given"), [(0.09, 0.079), (-0.01, 0.0), (0.04, 0.04), (0.079, 0.079)])
def test_F31_the_gripper_is_clamped_and_flagged(asked, given):
    e = Rig().to(START.position, gripper=asked)
    assert e.gripper == given
    assert (SafetyFlag.GRIPPER in e.flags) == (asked != given)


def test_the_gripper_of_an_earlier_run_is_forgotten_when_it_stands_anew_and_kept_over_a_hold():
    rig = Rig()
    assert rig.to(START.position, gripper=0.0).gripper == 0.0
    rig.filter.hold("test", rig.now)
    rig.filter.go(rig.now)
    assert rig.to(START.position).gripper == 0.0
    rig.filter.stand(START)
    rig.filter.go(rig.now)
    assert rig.to(START.position).gripper is None
    assert rig.to(START.position, gripper=0.04).gripper == 0.04
