"""How it is followed: limiter, lead, force, holds; and without a stage the filter lets through what it is to stop."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.core.errors import ConfigError
from robopolicy.real_robot.frames import Pose, difference, downward
from robopolicy.real_robot.safety.filter import SafetyFilter
from robopolicy.real_robot.safety.types import STAGES, Link, Measured, SafetyFlag, Setpoint
from robopolicy.sim.panda_model import HOME, forward_kinematics
from robopolicy.testing.filter_rig import DOWN, LIMITS, START, TICK, action
from robopolicy.testing.filter_rig import FilterRig as Rig
from robopolicy.testing.safety import FirstOrderArm

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


# -- 8: force ----------------------------------------------------------------------------------------------------------


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


# -- mutation: every stage is needed -----------------------------------------------------------------------------------


def takes_anything_for_a_setpoint(rig):
    # The limiter alone would still not move: it takes no step whose stop it cannot show to be safe.
    broken = Setpoint(np.array((np.nan, 0, 0.3)), DOWN)
    return all(SafetyFlag.NOT_FINITE not in rig.tick(broken).flags and rig.filter.going for _ in range(3))


def moves_on_an_old_state(rig):
    m = rig.arm.measured(0.0)
    return all(rig.tick(Setpoint(np.array((0.46, 0, 0.3)), DOWN), m).hold is None for _ in range(40))


def follows_a_jump(rig):
    return SafetyFlag.JUMP not in rig.to((0.6, 0, 0.3), ticks=3, **action(0.6, 1)).flags


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
