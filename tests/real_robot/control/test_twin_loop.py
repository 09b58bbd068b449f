"""The whole loop, with every stage, on the twin: a real controller's lag, joints, contacts."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("mujoco")

from robopolicy.real_robot.control.loop import ControlLoop, Inputs
from robopolicy.real_robot.control.plan import Plan, Waypoints
from robopolicy.real_robot.control.states import State, StateMachine
from robopolicy.real_robot.control.watchdogs import Health
from robopolicy.real_robot.frames import Pose, turned
from robopolicy.real_robot.limits import SafetyLimits, Timeouts, robot_limits
from robopolicy.real_robot.safety.filter import SafetyFilter
from robopolicy.real_robot.safety.types import Measured, SafetyFlag, Setpoint
from robopolicy.real_robot.twin.config import TwinConfig
from robopolicy.real_robot.twin.twin import Twin

LIMITS = SafetyLimits()


class Rig:
    """Loop and twin in lock-step, armed and running from the twin's start pose."""

    def __init__(self, **twin):
        self.twin = Twin(TwinConfig(lock_step=True, **twin))
        self.loop = ControlLoop(SafetyFilter(LIMITS), Plan(LIMITS), StateMachine(Timeouts()))
        self.now, self.records, self.speeds = 0.0, [], []
        self.tick(3)
        # The start pose of the arm is nearer to its base than the workspace; it is taken in first.
        here = self.twin.pose
        self.twin.aim(Pose(np.array((0.45, 0.0, 0.35)), here.quaternion))
        self.twin.step(2500)
        self.loop.machine.ask_to_arm("Ada", self.now)
        self.loop.machine.confirm_arming("Ada", self.now)
        self.tick(3)
        self.loop.machine.start(self.now)
        self.tick()
        self.speeds.clear()

    def tick(self, n=1, teleop=None):
        arm = self.twin.arm
        for _ in range(n):
            self.now += 0.01
            pose = arm.pose
            m = Measured(self.now - 0.004, pose.position, pose.quaternion, np.array(arm.twist), np.array(arm.q))
            r = self.loop.tick(self.now, Inputs(m, Health(mode=int(arm.mode)), teleop=teleop and (teleop, self.now)))
            if r.publish is not None:
                self.twin.aim(r.publish)
            self.twin.step(10)
            self.speeds.append(float(np.linalg.norm(np.array(arm.twist)[:3])))
            self.records.append(r)
        return r

    def line(self, way, seconds, dt=0.1, first=0.3):
        n = round(seconds / dt)
        start = self.loop.filter.pose
        shares = np.arange(1, n + 1)[:, None] / n
        track = Pose(start.position + shares * np.asarray(way, float), np.tile(start.quaternion, (n, 1)))
        return Waypoints(track, self.now + first + dt * np.arange(n), dt, self.loop.machine.epoch)


def test_a_line_at_80_mm_a_second_is_driven_to_its_end_without_holds():
    rig = Rig()
    start = rig.loop.filter.pose.position
    assert rig.loop.submit(rig.line((0.12, 0.0, 0.0), 1.5))
    last = rig.tick(230)
    flags = SafetyFlag.NONE
    for r in rig.records[-230:]:
        flags |= r.flags
    assert rig.loop.machine.state is State.RUNNING, rig.loop.machine.why
    assert SafetyFlag.DRAGGED not in flags
    assert last.publish.position == pytest.approx(start + np.array((0.12, 0, 0)), abs=1e-3)
    assert rig.twin.pose.position == pytest.approx(start + np.array((0.12, 0, 0)), abs=6e-3)


@pytest.mark.slow
def test_F12_whatever_is_asked_for_the_tool_stays_below_a_quarter_metre_a_second():
    rng = np.random.default_rng(2)
    rig = Rig()
    here = rig.loop.filter.pose
    rig.loop.machine.intervene(rig.now)
    for k in range(25):
        way = rng.normal(size=3) * 10 ** rng.uniform(-2, 1)
        turn = rng.normal(size=3)
        for j in range(6):
            sign = (-1) ** j if k % 2 else 1
            wish = Setpoint(here.position + sign * way, turned(here.quaternion, sign * turn), rate=rng.normal(size=6))
            rig.tick(teleop=wish)
            if rig.loop.machine.state is State.HOLD:
                rig.tick(35)
                rig.loop.machine.resume(rig.now)
                rig.tick()
                rig.loop.machine.intervene(rig.now)
        if rig.loop.machine.state not in (State.HUMAN, State.RUNNING):
            break
    assert len(rig.speeds) > 100
    assert max(rig.speeds) <= 0.25


@pytest.mark.slow
def test_a_stop_from_100_mm_a_second_travels_less_than_without_a_stop_target():
    travels = {}
    for stop in (True, False):
        rig = Rig()
        rig.loop.submit(rig.line((0.18, 0.0, 0.0), 1.8))
        rig.tick(160)
        assert 0.08 < rig.speeds[-1] < 0.11
        at = rig.twin.pose.position
        if stop:
            rig.loop.machine.pause(rig.now)
            rig.tick(100)
        else:
            rig.twin.step(1000)  # the link is gone: the controller keeps its last target
        travels[stop] = float(np.linalg.norm(rig.twin.pose.position - at))
    assert travels[True] < 0.025  # 18 mm by the specification of the design
    assert travels[False] < LIMITS.lead
    assert travels[True] < 0.7 * travels[False]


def test_F27_a_reflex_is_a_fault_and_the_arm_is_left_alone():
    rig = Rig()
    rig.loop.submit(rig.line((0.1, 0, 0), 1.5))
    rig.tick(60)
    rig.twin.arm.reflex()
    r = rig.tick(2)
    assert r.state is State.FAULT
    rig.tick(30)
    assert int(rig.twin.arm.mode) == 4  # nobody asked it to recover


@pytest.mark.slow
def test_F42_an_arm_that_is_turned_on_and_on_comes_to_rest_before_its_joint_ends():
    rig = Rig(controller="serl")  # the soft one turns the tool at a third of what is allowed
    rig.loop.machine.intervene(rig.now)
    hardware, flags, rooms = robot_limits(), SafetyFlag.NONE, []
    rate = np.array((0.0, 0.0, 0.0, 0.0, 0.0, -LIMITS.turn_speed))
    for _ in range(110):
        pose = rig.loop.filter.pose
        turn = turned(pose.quaternion, np.array((0.0, 0.0, -0.2)))
        record = rig.tick(10, Setpoint(pose.position, turn, rate=rate, turn_left=math.inf))
        flags |= record.flags
        q = float(rig.twin.arm.q[6])
        rooms.append(min(q - hardware.q_min[6], hardware.q_max[6] - q))
        if record.state is State.HOLD:
            break
    assert SafetyFlag.JOINTS in flags
    assert rooms[0] - rooms[-1] > 1.5  # it turned
    assert LIMITS.joint_stop - 0.02 < min(rooms) < LIMITS.joint_slow
    rig.tick(50)
    assert hardware.q_max[6] - float(rig.twin.arm.q[6]) > LIMITS.joint_stop - 0.02
