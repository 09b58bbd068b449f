"""Each stage by its numbers, and that the filter without it lets through what it is there to stop."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.core.errors import ConfigError
from robopolicy.real_robot.frames import Pose, difference, downward, turned
from robopolicy.real_robot.limits import SafetyLimits, Timeouts
from robopolicy.real_robot.safety.filter import SafetyFilter
from robopolicy.real_robot.safety.types import STAGES, Link, Measured, SafetyFlag, Setpoint
from robopolicy.real_robot.safety.workspace import Workspace
from robopolicy.sim.panda_model import HOME, forward_kinematics
from robopolicy.testing.safety import FirstOrderArm

DOWN = downward(0.0)
START = Pose(np.array((0.45, 0.0, 0.3)), DOWN)
LIMITS = SafetyLimits()
TICK = 0.01


class Rig:
    """A filter, an arm, and time."""

    def __init__(self, without=("joints",), start=START, limits=LIMITS, ramp=0.0, lag=0.2):
        self.filter = SafetyFilter(limits)
        for stage in without:
            self.filter = self.filter.without(stage)
        self.arm, self.now, self.width = FirstOrderArm(start, lag), 0.0, 0.0
        self.filter.stand(start)
        self.filter.go(0.0, ramp)
        self.seen = [start]

    def tick(self, wish, measured=None, dt=TICK, link=None):
        self.now += dt
        m = measured if measured is not None else self.arm.measured(self.now, self.width)
        e = self.filter.step(wish, m, dt, self.now, link or Link(0))
        if e.pose is not None:
            self.arm.follow(e.pose, dt)
            self.seen.append(e.pose)
        return e

    def to(self, position, quaternion=DOWN, ticks=1, **kw):
        for _ in range(ticks):
            e = self.tick(Setpoint(np.asarray(position, float), np.asarray(quaternion, float), **kw))
        return e

    def positions(self):
        return np.array([p.position for p in self.seen])


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


def act(x, number, steps=1):
    pose = Pose(np.array((x, 0, 0.3)), DOWN)
    return {"action": pose, "action_number": number, "action_steps": steps}


def test_F12_a_jumping_action_is_not_followed_and_the_third_is_a_fault():
    rig = Rig()
    assert rig.to((0.47, 0, 0.3), **act(0.47, 1)).hold is None
    at = []
    for _ in range(20):
        e = rig.to((0.52, 0, 0.3), **act(0.52, 2))
        assert SafetyFlag.JUMP in e.flags
        at.append(e.pose.position[0])
    assert e.hold is None
    assert max(at) < 0.452
    # an action near the last good one goes on, a 30 mm step is allowed, 31 mm is not
    assert SafetyFlag.JUMP not in rig.to((0.4999, 0, 0.3), **act(0.4999, 3)).flags
    assert SafetyFlag.JUMP in rig.to((0.531, 0, 0.3), **act(0.531, 4)).flags
    third = rig.to((0.6, 0, 0.3), **act(0.6, 5))
    assert third.fault
    assert "jump" in third.hold


def test_dropped_actions_leave_room_for_as_many_steps_but_not_more_than_three():
    assert SafetyFlag.JUMP not in Rig().to((0.53, 0, 0.3), **act(0.53, 1, 3)).flags
    assert SafetyFlag.JUMP in Rig().to((0.55, 0, 0.3), **act(0.55, 1, 9)).flags


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


# -- 5: limiter, at the seams ------------------------------------------------------------------------------------------


def test_a_step_is_followed_without_overshoot():
    rig = Rig(ramp=0.0)
    rig.to((0.48, 0.02, 0.3), ticks=300)
    path = rig.positions()
    assert path[:, 0].max() <= 0.48 + 1e-6
    assert path[-1] == pytest.approx((0.48, 0.02, 0.3), abs=1e-4)


def test_a_moving_target_is_followed_without_lag():
    rig = Rig(lag=0.1)
    rate = np.array((0.06, 0, 0, 0, 0, 0))
    for k in range(150):
        e = rig.to((0.45 + 0.0006 * (k + 1), 0, 0.3), rate=rate, left=np.inf)
    assert abs(e.pose.position[0] - (0.45 + 0.0006 * 150)) < 1e-4


def test_the_first_second_begins_at_a_fifth_of_the_speed():
    rig = Rig(ramp=1.0, lag=0.1)
    speeds = [np.linalg.norm(rig.to((0.7, 0, 0.3)).rate[:3]) for _ in range(130)]
    assert max(speeds[:20]) <= 0.1 * (0.2 + 0.8 * 0.21)
    assert max(speeds[:50]) <= 0.1 * (0.2 + 0.8 * 0.51)
    assert max(speeds) == pytest.approx(0.0995, abs=2e-3)


# -- 6: lead -----------------------------------------------------------------------------------------------------------


def test_F12_the_lead_is_capped_on_the_measured_pose():
    rig = Rig()
    stuck = Measured(0.0, START.position, DOWN)
    for _ in range(200):
        now = rig.now + TICK
        e = rig.tick(Setpoint(np.array((0.6, 0, 0.3)), downward(1.0)), Measured(now, stuck.position, DOWN))
        assert np.linalg.norm(e.pose.position - stuck.position) <= 0.05
        assert np.linalg.norm(difference(DOWN, e.pose.quaternion)) <= 0.25
    assert SafetyFlag.LEAD in e.flags
    assert e.hold is None


def test_an_arm_that_is_pushed_away_drags_its_setpoint_and_then_holds():
    rig = Rig()
    holds = []
    for k in range(40):
        now, x = rig.now + TICK, 0.45 - 0.003 * k
        e = rig.tick(Setpoint(START.position, DOWN), Measured(now, np.array((x, 0, 0.3)), DOWN))
        assert np.linalg.norm(e.pose.position - (x, 0, 0.3)) <= 0.05 + 1e-6
        holds.append(e.hold)
    assert "something else moves the arm" in holds[-1]
    # In the hold the stop target goes on being within the cap of the arm.
    assert SafetyFlag.DRAGGED in e.flags


def test_an_arm_far_outside_the_workspace_gets_no_pose_at_all():
    rig = Rig()
    e = rig.tick(Setpoint(START.position, DOWN), Measured(0.01, np.array((0.9, 0, 0.3)), DOWN))
    assert e.pose is None
    assert "outside" in e.hold
    # and back inside it stands again, held
    e = rig.tick(Setpoint(START.position, DOWN), Measured(0.02, np.array((0.7, 0, 0.3)), DOWN))
    assert e.pose is not None
    assert "outside" in e.hold


def test_an_early_tick_after_standing_anew_repeats_nothing_old():
    rig = Rig()
    rig.to((0.6, 0, 0.3), ticks=60)
    new = Pose(np.array((0.46, 0.1, 0.3)), DOWN)
    rig.arm = FirstOrderArm(new)
    rig.filter.stand(new)
    assert np.array_equal(rig.tick(None, dt=0.002).pose.position, new.position)


def test_a_state_from_the_future_does_not_shut_out_the_true_ones():
    rig = Rig()
    rig.to((0.46, 0, 0.3), ticks=5)
    m = rig.arm.measured(rig.now)
    rig.tick(Setpoint(START.position, DOWN), Measured(1e6, m.position + np.array((0.2, 0, 0)), DOWN))
    assert rig.to((0.46, 0, 0.3), ticks=50).hold is None


# -- hold --------------------------------------------------------------------------------------------------------------


def test_the_stop_target_is_the_measured_pose_plus_a_tenth_of_a_second():
    rig = Rig(lag=0.36)
    for k in range(100):
        rig.to((0.45 + 0.001 * (k + 1), 0, 0.3), rate=np.array((0.1, 0, 0, 0, 0, 0)), left=np.inf)
    m = rig.arm.measured(rig.now + TICK)
    rig.filter.hold("test", rig.now)  # with the state of the last tick
    seen = rig.filter.pose.position
    assert seen[0] < rig.seen[-1].position[0] - 0.01  # behind the setpoint that was
    assert seen[0] - m.position[0] == pytest.approx(0.1 * m.twist[0], abs=1.5e-3)
    poses = [rig.tick(None).pose.position for _ in range(50)]
    assert np.ptp(poses, axis=0).max() == 0  # frozen


def test_a_noisy_twist_does_not_carry_the_stop_target_away():
    rig = Rig()
    twist = np.array((7.0, 0, 0, 0, 0, 9.0))
    rig.tick(Setpoint(START.position, DOWN), Measured(0.01, START.position, DOWN, twist))
    rig.filter.hold("test", rig.now)
    assert np.linalg.norm(rig.filter.pose.position - START.position) <= 0.1 * LIMITS.speed + 1e-9
    assert np.linalg.norm(difference(rig.filter.pose.quaternion, DOWN)) <= 0.1 * LIMITS.turn_speed + 1e-9


def test_nothing_goes_before_it_was_told_where_it_stands():
    safety = SafetyFilter(LIMITS)
    with pytest.raises(ConfigError, match="stand"):
        safety.go(0.0)
    e = safety.step(None, Measured(0.0, START.position, DOWN), TICK, 0.0, Link(0))
    assert e.pose is None
    assert e.hold == "not started"


# -- 8: force, gripper -------------------------------------------------------------------------------------------------


def test_force_slows_and_then_holds():
    rig = Rig(lag=0.1)

    def pushed(newton):
        m = rig.arm.measured(rig.now + TICK)
        return rig.tick(
            Setpoint(np.array((0.7, 0, 0.3)), DOWN),
            Measured(m.at, m.position, m.quaternion, m.twist, force=np.array((0, 0, -newton))),
        )

    for _ in range(60):
        e = pushed(11.9)
    assert np.linalg.norm(e.rate[:3]) == pytest.approx(0.0995, abs=1e-3)
    for _ in range(60):
        e = pushed(12.1)
    assert SafetyFlag.FORCE in e.flags
    assert np.linalg.norm(e.rate[:3]) == pytest.approx(0.04975, abs=1e-3)
    assert "20.1 N" in pushed(20.1).hold


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


# -- mutation: every stage is needed -----------------------------------------------------------------------------------


def takes_anything_for_a_setpoint(rig):
    # The limiter alone would still not move: it takes no step whose stop it cannot show to be safe.
    broken = Setpoint(np.array((np.nan, 0, 0.3)), DOWN)
    return all(SafetyFlag.NOT_FINITE not in rig.tick(broken).flags and rig.filter.going for _ in range(3))


def moves_on_an_old_state(rig):
    m = rig.arm.measured(0.0)
    return all(rig.tick(Setpoint(np.array((0.46, 0, 0.3)), DOWN), m).hold is None for _ in range(40))


def follows_a_jump(rig):
    return SafetyFlag.JUMP not in rig.to((0.6, 0, 0.3), ticks=3, **act(0.6, 1)).flags


def leaves_the_workspace(rig):
    high = Pose(np.array((0.45, 0, 0.68)), DOWN)
    rig.arm = FirstOrderArm(high, 0.2)
    rig.filter.stand(high)
    rig.filter.go(0.0, 0.0)
    e = rig.to((0.45, 0, 0.73), ticks=100)
    return e.pose.position[2] > 0.70 + 1e-6


def moves_at_once(rig):
    e = rig.to((0.46, 0, 0.3))
    return np.linalg.norm(e.pose.position - START.position) > LIMITS.speed * TICK


def runs_ahead(rig):
    for _ in range(120):
        e = rig.tick(Setpoint(np.array((0.6, 0, 0.3)), DOWN), Measured(rig.now + TICK, START.position, DOWN))
    return np.linalg.norm(e.pose.position - START.position) > LIMITS.lead + 1e-6


def ignores_joints(rig):
    q = HOME.copy()
    q[3] = -0.0698 - 0.12  # the elbow almost straight: within both margins
    pose = Pose.of_matrix(forward_kinematics(q))
    rig.filter.stand(pose)
    rig.filter.go(0.0, 0.0)
    out = pose.position / np.linalg.norm(pose.position)
    for _ in range(100):
        wish = Setpoint(pose.position + 0.1 * out, pose.quaternion)
        e = rig.tick(wish, Measured(rig.now + TICK, pose.position, pose.quaternion, q=q))
    return e.hold is None


def ignores_force(rig):
    m = Measured(TICK, START.position, DOWN, force=np.array((30.0, 0, 0)))
    return rig.tick(Setpoint(START.position, DOWN), m).hold is None


BREAKS = {
    "finite": takes_anything_for_a_setpoint,
    "gate": moves_on_an_old_state,
    "jump": follows_a_jump,
    "workspace": leaves_the_workspace,
    "limiter": moves_at_once,
    "lead": runs_ahead,
    "joints": ignores_joints,
    "force": ignores_force,
}


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_needed(stage):
    keep = () if stage == "joints" else ("joints",)
    # For the joints the workspace is out of the way: a straight elbow is far outside it.
    extra = ("workspace", "jump") if stage == "joints" else ()
    extra = ("lead",) if stage == "limiter" else extra
    assert not BREAKS[stage](Rig(without=(*keep, *extra)))
    assert BREAKS[stage](Rig(without=(*keep, *extra, stage)))


def test_an_unknown_stage_is_told():
    with pytest.raises(ConfigError, match="did you mean 'lead'"):
        SafetyFilter(LIMITS).without("laed")
