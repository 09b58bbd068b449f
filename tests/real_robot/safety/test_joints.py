"""F42: an arm with joints that is drawn to a limit, a singularity, or over its elbow slows down, then holds."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.kinematics import PANDA, smallest_singular_value
from robopolicy.real_robot.limits import SafetyLimits, robot_limits
from robopolicy.real_robot.safety.filter import SafetyFilter
from robopolicy.real_robot.safety.joints import JointStage
from robopolicy.real_robot.safety.types import Link, Measured, SafetyFlag, Setpoint
from robopolicy.sim.panda_model import HOME

LIMITS, ROBOT = SafetyLimits(), robot_limits("panda")
LOW, HIGH, FASTEST = np.array(ROBOT.q_min), np.array(ROBOT.q_max), np.array(ROBOT.qd_max)
TICK = 0.01


def drive(direction, ticks=600, stages=("workspace", "jump"), q=HOME):
    """Pull the tool of a joint-space arm along a direction; least margin, highest share of joint speed, last answer."""
    safety = SafetyFilter(LIMITS)
    for stage in stages:
        safety = safety.without(stage)
    q = np.array(q, float)
    pose = PANDA.forward(q)
    safety.stand(pose)
    safety.go(0.0, 0.0)
    direction = np.asarray(direction, float)
    margins, speeds, scales = [], [], []
    for k in range(ticks):
        now = TICK * (k + 1)
        here = PANDA.forward(q)
        target = Setpoint(here.position + 0.3 * direction, here.quaternion)
        e = safety.step(target, Measured(now, here.position, here.quaternion, q=q), TICK, now, Link(0))
        change = PANDA.step(q, e.pose) * (TICK / 0.3)
        q = q + change
        margins.append(float(np.minimum(q - LOW, HIGH - q).min()))
        speeds.append(float((np.abs(change) / TICK / FASTEST).max()))
        scales.append(e.scale)
        if e.hold is not None:
            break
    return margins, speeds, scales, e


@pytest.mark.parametrize("direction", [(1, 0, 0), (0, 0, 1)])
def test_F42_a_joint_limit_is_approached_slowly_and_then_held(direction):
    margins, speeds, scales, e = drive(direction)
    assert e.hold is not None
    assert "joint" in e.hold
    assert min(margins) >= LIMITS.joint_stop
    # the tool was slowed down to a part of its speed before
    assert min(scales) <= 0.5
    assert max(speeds) <= LIMITS.joint_speed


def test_F42_a_singularity_slows_the_tool():
    stage = JointStage(LIMITS, ROBOT, PANDA)
    straight = np.array((0.0, 0.3, 0.0, -0.4, 0.0, 1.0, 0.8))
    still = (0.0, 0.0, 0.0)

    def scale(q):
        pose = PANDA.forward(q)
        return stage.judge(q, tuple(pose.position), tuple(pose.quaternion), still, still).scale

    assert scale(HOME) == 1.0
    value = float(smallest_singular_value(PANDA.jacobian(straight)))
    assert 0.005 < value < 0.05
    assert scale(straight) == pytest.approx(value / 0.05)


def test_F42_a_turn_over_of_the_elbow_holds():
    stage = JointStage(LIMITS, ROBOT, PANDA)
    q = np.array((0.0, 0.3, 0.0, -0.3, 0.0, 1.0, 0.8))
    pose = PANDA.forward(q)
    far = pose.position * 1.08
    verdict = stage.judge(q, tuple(far), tuple(pose.quaternion), (0.0,) * 3, (0.0,) * 3)
    assert verdict.hold is not None
    assert "joint" in verdict.hold


def test_F42_motion_away_from_a_limit_is_free():
    q = HOME.copy()
    q[5] = HIGH[5] - 0.08  # within the stop margin: a rotation away from it must be allowed
    stage = JointStage(LIMITS, ROBOT, PANDA)
    back = q.copy()
    back[5] -= 0.1
    pose = PANDA.forward(back)
    away = stage.judge(q, tuple(pose.position), tuple(pose.quaternion), (0.0,) * 3, (0.0,) * 3)
    assert away.hold is None
    deeper = q.copy()
    deeper[5] += 0.05
    pose = PANDA.forward(deeper)
    assert stage.judge(q, tuple(pose.position), tuple(pose.quaternion), (0.0,) * 3, (0.0,) * 3).hold is not None


def test_a_state_without_joint_angles_holds():
    safety = SafetyFilter(LIMITS)
    pose = Pose(np.array((0.45, 0.0, 0.3)), np.array((1.0, 0, 0, 0)))
    safety.stand(pose)
    safety.go(0.0)
    e = safety.step(Setpoint(pose.position, pose.quaternion), Measured(0.01, *_parts(pose)), TICK, 0.01, Link(0))
    assert "no joint angles" in e.hold
    assert SafetyFlag.HELD in e.flags


def _parts(pose):
    return pose.position, pose.quaternion
