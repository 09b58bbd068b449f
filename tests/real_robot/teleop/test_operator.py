"""A human on the twin: where the setpoint begins, how fast it goes, who wins, and what a lost device does."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mujoco")

from robopolicy.core.errors import ConfigError
from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.frames import Pose, difference, downward
from robopolicy.real_robot.limits import SafetyLimits
from robopolicy.real_robot.safety.types import WIDTH_MOST
from robopolicy.real_robot.teleop.device import Reading
from robopolicy.real_robot.teleop.jog import AHEAD, LONGEST, Jog, JogConfig
from robopolicy.real_robot.teleop.operator import Teleoperator
from robopolicy.real_robot.teleop.scripted import ScriptedDevice
from robopolicy.real_robot.twin.config import TwinConfig
from robopolicy.testing.twin_driver import TwinDriver

LIMITS = SafetyLimits()
FORWARD = Reading((1.0, 0.0, 0.0), held=True)
HOLDING = Reading(held=True)


class Desk:
    """A driver on the twin and an operator whose reading is set by hand; steps of 20 ms."""

    def __init__(self, alone=False, dead_man=False):
        self.driver = TwinDriver(TwinConfig(lock_step=True, cameras=()), dead_man=dead_man)
        self.reading = Reading()
        self.jog = Jog(LIMITS)
        self.human = Teleoperator(self.driver, ScriptedDevice(lambda now: self.reading), self.jog, alone)
        self.driver.heartbeat()
        self.driver.arm()
        self.emitted = []

    def step(self, n=1, reading=None):
        self.reading = reading or self.reading
        for _ in range(n):
            self.human.step()
            for _ in range(2):
                record = self.driver.tick()
                self.emitted.append(record.emitted.pose.position if record.emitted and record.emitted.pose else None)
        return self.driver.status()

    def line(self, way, seconds=1.5, dt=0.1):
        n = round(seconds / dt)
        start = self.driver.status().emitted
        shares = np.arange(1, n + 1)[:, None] / n
        track = Pose(start.position + shares * np.asarray(way, float), np.tile(start.quaternion, (n, 1)))
        stamps = self.driver.clock.now() + 0.3 + dt * np.arange(n)
        return Waypoints(track, stamps, dt, self.driver.machine.epoch)


@pytest.fixture
def desk():
    made = []

    def make(**more):
        made.append(Desk(**more))
        return made[-1]

    yield make
    for each in made:
        each.driver.disconnect()


def test_a_jog_moves_at_its_share_of_the_limit_and_no_faster_on_a_diagonal():
    jog = Jog(LIMITS, JogConfig(speed=0.5))
    start = Pose(np.array((0.5, 0, 0.3)), downward(0.0))
    jog.anchor(start, 10.0)
    wish = jog.step(Reading((1, 1, 1), held=True), None, 10.02)
    way = wish.position - start.position
    assert np.linalg.norm(way) == pytest.approx(0.02 * 0.5 * LIMITS.speed, rel=0.01)
    assert np.linalg.norm(wish.rate[:3]) == pytest.approx(0.5 * LIMITS.speed, rel=0.01)
    assert wish.left == np.inf
    assert jog.step(HOLDING, None, 10.04).left == 0.0
    turned = jog.step(Reading(turn=(1, 0, 1), held=True), None, 10.06)
    assert difference(start.quaternion, turned.quaternion)[:2] == pytest.approx((0, 0), abs=1e-12)
    assert difference(start.quaternion, turned.quaternion)[2] > 0


def test_a_hand_that_was_not_read_for_long_is_not_caught_up_and_the_wish_stays_near():
    jog = Jog(LIMITS)
    start = Pose(np.array((0.5, 0, 0.3)), downward(0.0))
    jog.anchor(start, 0.0)
    wish = jog.step(FORWARD, None, 60.0)
    assert wish.position[0] - 0.5 <= LONGEST * LIMITS.speed
    for k in range(200):
        wish = jog.step(Reading((1, 0, 0), (0, 0, 1), held=True), start, 60.0 + 0.02 * k)
    assert np.linalg.norm(wish.position - start.position) == pytest.approx(AHEAD * 0.8 * LIMITS.speed, rel=0.01)
    assert np.linalg.norm(difference(start.quaternion, wish.quaternion)) == pytest.approx(
        AHEAD * 0.8 * LIMITS.turn_speed, rel=0.01
    )
    back = jog.step(Reading((-1, 0, 0), held=True), start, 64.02)
    assert back.position[0] < wish.position[0]


def test_what_a_broken_device_says_moves_nothing():
    jog = Jog(LIMITS)
    jog.anchor(Pose(np.array((0.5, 0, 0.3)), downward(0.0)), 0.0)
    wish = jog.step(Reading((np.nan, 0, 0), held=True, gripper=7.0), None, 0.02)
    assert wish.position.tolist() == [0.5, 0, 0.3]
    assert wish.gripper == WIDTH_MOST
    with pytest.raises(ConfigError, match="anchor"):
        Jog(LIMITS).step(FORWARD, None, 0.0)
    for wrong in ({"speed": 0.0}, {"speed": 1.5}, {"axes": (0, 0, 2)}):
        with pytest.raises(ConfigError):
            JogConfig(**wrong)


def test_faster_and_slower_stay_within_the_limits():
    jog = Jog(LIMITS)
    for _ in range(50):
        jog.change_speed(True)
    assert jog.speed == 1.0
    for _ in range(50):
        jog.change_speed(False)
    assert jog.speed == 0.05


def test_a_held_button_drives_the_arm_at_the_wished_speed_and_letting_go_holds(desk):
    d = desk(alone=True)
    assert d.step(1, FORWARD).state is State.HUMAN
    start = d.driver.twin.pose.position
    d.step(100)
    steps = np.diff(np.array([e for e in d.emitted if e is not None]), axis=0)
    speeds = np.linalg.norm(steps, axis=-1) / 0.01
    assert speeds[120:150] == pytest.approx(0.8 * LIMITS.speed, rel=0.04)
    assert speeds.max() < 1.1 * 0.8 * LIMITS.speed
    assert d.driver.twin.pose.position[0] - start[0] > 0.08
    assert d.step(1, Reading()).state is State.HOLD
    d.step(100)
    before = d.driver.twin.pose.position
    d.step(25)
    assert np.linalg.norm(d.driver.twin.pose.position - before) < 2e-3


def test_taking_over_begins_at_the_last_emitted_setpoint_without_a_step(desk):
    d = desk()
    d.driver.start()
    d.driver.tick()
    assert d.driver.submit(d.line((0.12, 0, 0)))
    d.step(50)
    assert d.driver.status().state is State.RUNNING
    # The arm lags behind the setpoint by a good deal: that is what must not be jumped back.
    lag = np.linalg.norm(d.driver.status().emitted.position - d.driver.twin.pose.position)
    assert lag > 0.01
    count = len(d.emitted)
    assert d.step(1, HOLDING).state is State.HUMAN
    d.step(20)
    steps = np.linalg.norm(np.diff(np.array(d.emitted[count - 5 :]), axis=0), axis=-1)
    assert steps.max() <= LIMITS.speed * 0.01 + 1e-9
    ways = np.diff(np.array(d.emitted[count - 5 :]), axis=0)[:, 0]
    assert ways.min() >= -2e-5  # never back towards the lagging arm


def test_F41_the_human_wins_and_no_setpoint_of_the_policy_comes_between(desk):
    d = desk()
    d.driver.start()
    d.driver.tick()
    chunk = d.line((0.1, 0, 0))
    assert d.driver.submit(chunk)
    d.step(30)
    up = Reading((0.0, 0.0, 1.0), held=True)
    late = d.line((0.1, 0, 0))  # asked for before, answered after
    count = len(d.emitted)
    d.step(1, up)
    refused = 0
    for _ in range(60):
        refused += not d.driver.submit(late)
        refused += not d.driver.submit(d.line((0, 0.1, 0)))  # even one of the present epoch
        d.step(1)
    assert refused == 120
    ways = np.diff(np.array(d.emitted[count + 30 :]), axis=0)
    assert np.abs(ways[:, :2]).max() < 1e-6  # the policy would have gone forward, or left
    assert ways[:, 2].min() > 0
    d.step(1, Reading())
    assert d.driver.status().state is State.HOLD
    assert not d.driver.submit(late)
    d.step(20)
    d.step(1, Reading(commands=("resume",)))
    d.reading = Reading()
    assert d.step(1).state is State.RUNNING
    assert not d.driver.submit(late)  # an epoch of long ago
    assert d.driver.submit(d.line((0.05, 0, 0)))


def test_going_on_is_an_order_and_waits_for_the_hold_after_a_release(desk):
    d = desk()
    d.driver.start()
    d.driver.tick()
    d.driver.submit(d.line((0.05, 0, 0)))
    d.step(5)
    d.step(5, FORWARD)
    assert d.step(1, Reading()).state is State.HOLD
    assert d.step(1, Reading(commands=("resume",))).state is State.HOLD  # 0.3 s have not passed
    assert "0.3 s" in d.human.trouble
    assert d.step(100, Reading()).state is State.HOLD  # it never goes on by itself
    assert d.step(1, FORWARD).state is State.HOLD  # nor by the button, where there is a policy
    assert d.step(1, Reading(commands=("resume",))).state is State.RUNNING


def test_F25_a_lost_device_holds_within_its_time(desk):
    d = desk(alone=True)
    d.step(20, FORWARD)
    assert d.driver.status().state is State.HUMAN
    begun = d.driver.clock.now()
    d.human.device = ScriptedDevice(lambda now: None)
    while d.step(1).state is State.HUMAN:
        pass
    assert d.driver.clock.now() - begun <= 0.35
    assert d.driver.status().state is State.HOLD
    assert "script has ended" in d.driver.status().why


def test_F25_a_program_that_no_longer_reads_its_device_stops_the_arm(desk):
    d = desk(alone=True)
    d.step(50, FORWARD)
    ticks = []
    for _ in range(35):  # nobody calls step any more: 0.35 s
        ticks.append(d.driver.tick().publish.position)
    assert np.linalg.norm(ticks[-1] - ticks[-2]) < 1e-6
    assert np.linalg.norm(ticks[-1] - ticks[0]) < LIMITS.speed * 0.35


def test_F25_with_a_dead_man_the_silence_is_a_hold(desk):
    d = desk(alone=True, dead_man=True)
    d.step(20, FORWARD)
    begun = d.driver.clock.now()
    while d.driver.tick().state is State.HUMAN:
        pass
    assert d.driver.record.state is State.HOLD
    assert d.driver.clock.now() - begun <= 0.35
    assert "dead-man" in d.driver.status().why


def test_the_hand_opens_and_closes(desk):
    d = desk(alone=True)
    d.step(5, Reading(held=True, gripper=0.0))
    d.step(60)
    assert d.driver.twin.hand.width < 0.01
    d.step(60, Reading(held=True, gripper=1.0))
    assert d.driver.twin.hand.width > 0.07


def test_a_stop_on_the_device_is_a_stop(desk):
    d = desk(alone=True)
    d.step(5, FORWARD)
    assert d.step(1, Reading(held=True, commands=("estop",))).state is State.ESTOP
    assert d.step(1, FORWARD).state is State.ESTOP
