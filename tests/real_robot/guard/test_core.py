"""The guard's core: what passes, what each check refuses, the lease, and ten thousand messages meant to get past it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from robopolicy.core.errors import ConfigError
from robopolicy.real_robot.guard import core
from robopolicy.real_robot.guard.checks import CHECKS, Target, angle
from robopolicy.real_robot.guard.config import CAP_HIGH, CAP_LOW, RANGES, GuardConfig
from robopolicy.real_robot.guard.core import Guard
from robopolicy.real_robot.guard.lease import LONGEST, Lease, LeaseWriter, read_lease
from robopolicy.real_robot.limits import CAP_BOX, HARD_CAPS, SafetyLimits, Timeouts
from robopolicy.testing.guard import WALL, stamp_of, trial

HERE = (0.45, 0.0, 0.30)
DOWN = (1.0, 0.0, 0.0, 0.0)


class Driver:
    """A driver of the core: every method takes one step of 10 ms."""

    def __init__(self, guard, name="arm-1", clock=None):
        self.guard, self.writer = guard, LeaseWriter(name)
        self.clock = clock or [0.0]
        self.here = HERE

    @property
    def now(self):
        return self.clock[0]

    def measure(self):
        self.guard.measured(WALL + self.now, self.here, DOWN, self.now)

    def wait(self, seconds):
        """Ticks without a driver; the stop targets that came."""
        stops = []
        for _ in range(round(seconds / 0.01)):
            self.clock[0] += 0.01
            self.measure()
            stops.append(self.guard.tick(self.now))
        return [s for s in stops if s is not None]

    def send(self, position=None, quaternion=DOWN, frame="panda_link0", stamp=None, lease=True):
        self.clock[0] += 0.01
        self.measure()
        stamp = stamp or stamp_of(WALL + self.now)
        out = []
        if lease:
            out.append(self.guard.lease(self.writer.text(stamp), self.now, WALL + self.now))
        out.append(
            self.guard.target(Target(stamp, frame, position or self.here, quaternion), self.now, WALL + self.now)
        )
        return next((pose for pose in out if pose is not None), None)


@pytest.fixture
def driver():
    d = Driver(Guard())
    d.writer.arm()
    assert d.send() is not None
    return d


def off(x=0.0, y=0.0, z=0.0):
    return (HERE[0] + x, HERE[1] + y, HERE[2] + z)


def turn(angle_):
    return (math.cos(angle_ / 2), math.sin(angle_ / 2), 0.0, 0.0)


# -- what passes, what does not ----------------------------------------------------------------------------------------


def test_a_stream_at_the_drivers_speed_passes_unchanged(driver):
    for k in range(30):
        place = off(x=0.001 * k)  # 0.1 m/s
        pose = driver.send(place, turn(0.004 * k))
        assert pose.position == place
        assert pose.quaternion == pytest.approx(turn(0.004 * k), abs=1e-12)
    assert driver.guard.counts == {"passed": 31}


BAD = {
    "not finite": {"position": (math.nan, 0.0, 0.3)},
    "quaternion": {"quaternion": (0.94, 0.0, 0.0, 0.0)},
    "frame": {"frame": "world"},
    "stamp": {"stamp": stamp_of(WALL + 0.08)},
    "order": {"stamp": stamp_of(WALL + 0.01)},
    "box": {"position": (0.45, 0.0, 0.0199)},
    "step": {"position": off(x=0.035)},
    "lead": {"position": off(x=0.0625)},
}


@pytest.mark.parametrize("name", [name for name, _ in CHECKS])
def test_each_check_refuses_what_nothing_else_refuses(driver, name, monkeypatch):
    if name == "box":
        # At the border the arm is inside, the target a tenth of a millimetre outside.
        driver.here = (0.45, 0.0, 0.021)
        driver.send()
    if name == "lead":
        for k in range(1, 19):
            driver.send(off(x=0.0033 * k))  # within the limit of steps, away from an arm that does not follow
    assert driver.send(**BAD[name]) is None
    assert driver.guard.counts[name] == 1
    # The mutant without this check lets the very same message pass.
    monkeypatch.setattr(core, "CHECKS", tuple(c for c in CHECKS if c[0] != name))
    if name == "not finite":
        # Every comparison with NaN is false, so the box is a second line that catches it.
        assert driver.send(**BAD[name]) is None
        assert driver.guard.counts["box"] == 1
    else:
        assert driver.send(**BAD[name]) is not None


def test_setpoints_older_than_their_age_are_refused(driver):
    # Stamps that advance at half the rate of the clock: age 0.009 s, 0.014 s, ...
    passed = [driver.send(stamp=stamp_of(WALL + 0.011 + 0.005 * k)) is not None for k in range(40)]
    assert passed == [True] * 29 + [False] * 11
    assert driver.guard.counts["stamp"] == 11


def test_orientation_has_the_same_limits_as_position(driver):
    assert driver.send(quaternion=turn(0.09)) is None  # step
    for k in range(1, 29):
        assert driver.send(quaternion=turn(0.0105 * k)) is not None
    assert driver.send(quaternion=turn(0.0105 * 29)) is None
    assert driver.guard.counts["lead"] == 1
    assert driver.guard.counts["step"] == 1


def test_a_long_step_passes_only_towards_the_arm(driver):
    for k in range(1, 16):
        assert driver.send(off(x=0.0033 * k)) is not None
    assert driver.send(off(x=0.01)) is not None  # a stop target, 1 cm ahead of the arm
    assert driver.send(off(x=0.045)) is None


def test_a_session_begins_where_the_arm_is():
    d = Driver(Guard())
    d.writer.arm()
    assert d.send(off(x=0.031)) is None
    assert d.send(off(x=0.029)) is not None


def test_nothing_passes_while_the_arms_place_is_unknown(driver):
    driver.measure = lambda: None
    passed = [driver.send() is not None for _ in range(40)]
    assert sum(passed) == 24  # 0.25 s after the last measurement, one of which was the fixture's
    assert driver.guard.tick(driver.now) is None  # and a stop target there is none either
    assert driver.guard.holder is None


def test_F20_a_clock_that_is_set_back_stops_the_arm_and_is_believed_from_then_on(driver):
    wall, back = WALL, 5.0
    driver.measure = lambda: driver.guard.measured(wall - back + driver.now, driver.here, DOWN, driver.now)
    stops = driver.wait(0.1)
    assert [s.position for s in stops] == [HERE]  # where the arm is now, told by the new stamps
    assert "silent: the robot's clock was set back by 5.000 s" in driver.guard.status()
    assert driver.guard.counts["clock set back"] == 1
    driver.writer.arm()
    for _ in range(20):  # 0.2 s, not five, after the jump
        driver.clock[0] += 0.01
        driver.measure()
        stamp = stamp_of(wall - back + driver.now)
        ros_now = wall - back + driver.now
        driver.guard.lease(driver.writer.text(stamp), driver.now, ros_now)
        assert driver.guard.target(Target(stamp, "panda_link0", HERE, DOWN), driver.now, ros_now) is not None


@pytest.mark.parametrize("how", ["burst", "repeated", "between"])
def test_F38_old_measurements_are_no_clock_that_was_set_back(driver, how):
    for k in range(60):
        driver.clock[0] += 0.01
        if how != "burst" or k == 30:  # a heap at once
            count = 40 if how == "burst" else 1
            for i in range(count):
                stamp = WALL - 3 if how == "repeated" else WALL - 3 + 0.01 * (k + i)
                driver.guard.measured(stamp, off(x=0.1), DOWN, driver.now)
        if how != "repeated":
            driver.measure()
    assert "clock set back" not in driver.guard.counts
    assert driver.guard._track[-1].pose.position == HERE


@pytest.mark.parametrize("sample", [(math.nan, 0, 0), (math.inf, 0, 0), (1e9, 0, 0), (0.4, 0.0)])
def test_measurements_with_numbers_missing_do_not_count(driver, sample):
    driver.guard.measured(WALL + 1, sample, DOWN, driver.now)
    driver.guard.measured(WALL + 1, HERE, (0, 0, 0, 0), driver.now)
    driver.guard.measured(math.nan, HERE, DOWN, driver.now)
    driver.guard.measured(WALL - 1, HERE, DOWN, driver.now)  # older than what is known
    assert driver.guard.counts["measured refused"] == 4


# -- the lease ---------------------------------------------------------------------------------------------------------


def test_a_lost_driver_is_stopped_once_ahead_of_the_arm_and_stays_stopped(driver):
    for k in range(1, 20):
        driver.here = off(x=0.001 * k)  # the arm moves at 0.1 m/s
        driver.send()
    begun = driver.now
    stops = []
    for k in range(20, 60):
        driver.here = off(x=0.001 * k)
        driver.clock[0] += 0.01
        driver.measure()
        pose = driver.guard.tick(driver.now)
        if pose is not None:
            stops.append((driver.now - begun, pose.position[0] - driver.here[0]))
    ((after, ahead),) = stops
    assert 0.15 < after <= 0.17
    assert ahead == pytest.approx(0.01, rel=1e-6)  # 0.1 s at 0.1 m/s
    assert "no lease for 0.15 s" in driver.guard.status()
    # Silence: the same session does not come back, a new one does.
    assert driver.send() is None
    assert driver.guard.counts["session over"] == 1
    driver.writer.arm()
    assert driver.send() is not None


def test_leases_without_setpoints_that_pass_are_no_life_sign(driver):
    stops = [driver.send(off(x=0.2)) for _ in range(20)]
    assert not any(stops)
    (stop,) = [driver.guard.tick(driver.now)]
    assert stop.position == HERE
    assert "no setpoint passed" in driver.guard.why


def test_the_stop_target_is_capped_and_stays_in_the_box(driver):
    for k in range(1, 10):
        driver.here = (0.45 + 0.02 * k, 0.0, 0.30)  # 2 m/s, towards the wall at 0.75
        driver.measure()
        driver.clock[0] += 0.01
    pose = driver.guard.stop("test", driver.now)
    assert pose.position[0] - driver.here[0] == pytest.approx(0.025)
    driver.here = (0.745, 0.0, 0.3)
    driver.measure()
    assert driver.guard.stop("test", driver.now).position[0] == 0.75


def test_an_arm_far_outside_is_not_pulled_back(driver):
    driver.here = (0.85, 0.0, 0.30)
    driver.clock[0] += 0.1
    driver.measure()
    assert driver.guard.stop("test", driver.now) is None


def test_F45_a_second_driver_is_refused_and_does_not_slip_in_afterwards(driver):
    thief = Driver(driver.guard, "arm-2", driver.clock)
    thief.writer.arm()
    for k in range(20):
        assert driver.send(off(x=0.0005 * k)) is not None
        assert thief.send(off(x=0.0005 * k)) is None
    assert driver.guard.counts["second driver"] == 20
    assert driver.guard.holder == ("arm-1", 1)
    # The first one leaves; the second has been refused and must be armed by a person.
    (stop,) = thief.wait(0.2)
    assert stop is not None
    assert thief.send() is None
    thief.writer.arm()
    assert thief.send() is not None


def test_F45_a_stolen_lease_does_not_renew(driver):
    copied = Lease("arm-1", 1, 1, stamp_of(WALL + 0.02)).text()
    assert driver.guard.lease(copied, driver.now, WALL + driver.now) is None
    assert driver.guard.counts["lease repeated"] == 1
    assert len(driver.wait(0.3)) == 1


def test_a_stranger_without_a_lease_moves_nothing(driver):
    for k in range(10):
        assert driver.send(off(x=0.0005 * k)) is not None
        stamp = stamp_of(WALL + driver.now + 0.001)
        assert driver.send(stamp=stamp, lease=False) is None
    assert driver.guard.counts["passed"] == 11


def test_lease_and_setpoint_may_come_in_either_order(driver):
    driver.clock[0] += 0.01
    driver.measure()
    now, stamp = driver.now, stamp_of(WALL + driver.now)
    assert driver.guard.target(Target(stamp, "panda_link0", HERE, DOWN), now, WALL + now) is None
    pose = driver.guard.lease(driver.writer.text(stamp), now, WALL + now)
    assert pose.position == HERE


def test_a_burst_of_stale_setpoints_after_a_lost_link_moves_nothing(driver):
    burst = [(stamp_of(WALL + driver.now + 0.05 * k), driver.writer) for k in range(225)]
    texts = [(stamp, writer.text(stamp)) for stamp, writer in burst]
    driver.wait(11.4)
    before = dict(driver.guard.counts)
    for k, (stamp, text) in enumerate(texts):
        assert driver.guard.lease(text, driver.now, WALL + driver.now) is None
        far = off(x=0.0001 * k)
        assert driver.guard.target(Target(stamp, "panda_link0", far, DOWN), driver.now, WALL + driver.now) is None
    assert driver.guard.counts["passed"] == before["passed"]
    assert driver.guard.holder is None


def test_the_same_driver_armed_again_begins_anew(driver):
    driver.writer.arm()
    assert driver.send() is not None
    assert driver.guard.holder == ("arm-1", 2)
    driver.writer.session = 1
    assert driver.send() is None


def test_others_on_the_controllers_topic_stop_the_arm_and_keep_it_stopped(driver):
    driver.guard.strangers = ("/intruder",)
    assert driver.guard.tick(driver.now) is not None
    driver.writer.arm()
    assert driver.send() is None
    driver.guard.strangers = ()
    assert driver.send() is None  # the session began while they were there
    driver.writer.arm()
    assert driver.send() is not None


NO_LEASES = (
    *("", "a", "a 1 2", "a 1 2 3", "a 1 2 3.4", "a -1 2 3.000000004", "a 1 2 3.000000004 ", "a x 2 3.000000004"),
    *("a 1 2 " + "9" * 60 + ".000000000", "a" * LONGEST + " 1 2 3.000000004", None, 7, "a 1 2 ٣.000000004", "é" * 9),
)


@pytest.mark.parametrize("text", NO_LEASES)
def test_what_is_no_lease_is_not_read(text):
    assert read_lease(text) is None


def test_leases_are_read_as_they_were_written():
    writer = LeaseWriter("arm-1")
    writer.arm()
    assert read_lease(writer.text((17, 5))) == Lease("arm-1", 1, 1, (17, 5))
    assert writer.text((17, 6)) == "arm-1 1 2 17.000000006"
    with pytest.raises(ValueError, match="one word"):
        LeaseWriter("two words")
    with pytest.raises(ValueError, match="not above"):
        writer.arm(1)


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_limits_agree_with_those_of_the_driver():
    """Two statements of the same numbers, on purpose; only the lead leaves room for another age of measurement."""
    for guard, limits in ((GuardConfig(), SafetyLimits()), (GuardConfig.first_run(), SafetyLimits.first_run())):
        assert (guard.box_low, guard.box_high) == (limits.workspace.low, limits.workspace.high)
        assert guard.lead == pytest.approx(limits.lead + 0.01)
        assert guard.turn_lead == pytest.approx(limits.turn_lead + 0.05)
        assert guard.lease == Timeouts().lease
    assert (CAP_BOX.low, CAP_BOX.high) == (CAP_LOW, CAP_HIGH)
    assert RANGES["speed"][1] == HARD_CAPS["speed"]
    assert RANGES["turn_speed"][1] == HARD_CAPS["turn_speed"]
    assert RANGES["lead"][1] == pytest.approx(HARD_CAPS["lead"] + 0.01)
    assert RANGES["turn_lead"][1] == pytest.approx(HARD_CAPS["turn_lead"] + 0.05)


@pytest.mark.parametrize(
    "wrong", [{"lease": 0.3}, {"speed": 0.3}, {"lead": math.nan}, {"box_low": (0.1, -0.4, 0.02)}, {"frame_id": ""}]
)
def test_limits_beyond_the_caps_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong)).split("_")[0]):
        GuardConfig(**wrong)


@pytest.mark.parametrize("small", [0.0, 1e-9, 1e-6, 1e-3, 1.0, math.pi])
def test_angles_are_exact_for_small_ones_too(small):
    assert angle(DOWN, turn(small)) == pytest.approx(small, rel=1e-9, abs=1e-15)
    assert angle(DOWN, tuple(-v for v in turn(small))) == pytest.approx(small, rel=1e-9, abs=1e-15)


# -- adversaries -------------------------------------------------------------------------------------------------------


def test_ten_thousand_adversarial_messages_never_bring_a_bad_pose_out():
    runs = [trial(seed, 2500) for seed in range(4)]
    assert [v for run in runs for v in run.violations] == []
    assert sum(run.passed for run in runs) > 1500  # it does let something through
    assert sum(run.stops for run in runs) > 20
    seen = {name for run in runs for name in run.counts}
    assert seen >= {name for name, _ in CHECKS} | {"not vouched for", "second driver"}


@pytest.mark.parametrize("name", [name for name, _ in CHECKS])
def test_without_any_one_check_the_adversaries_get_through(name, monkeypatch):
    without = tuple(c for c in CHECKS if c[0] != name)
    if name == "not finite":
        without = tuple(c for c in without if c[0] != "box")  # see above: the box stops NaN as well
    monkeypatch.setattr(core, "CHECKS", without)
    assert trial(0, 2000).violations


def test_no_number_makes_it_raise():
    guard, rng = Guard(), np.random.default_rng(0)
    values = (0.0, -0.0, 1e-320, 1e308, -1e308, math.inf, -math.inf, math.nan, 10**400, True, None, "1", 0.4)
    writer = LeaseWriter("arm-1")
    for k in range(2000):
        writer.arm()
        now, stamp = 0.01 * k, (int(WALL), k)
        pick = [values[i] for i in rng.integers(len(values), size=14)]
        guard.measured(pick[0] if isinstance(pick[0], float) else WALL + now, tuple(pick[1:4]), tuple(pick[4:8]), now)
        guard.lease(writer.text(stamp), now, WALL + now)
        guard.target(Target(stamp, "panda_link0", tuple(pick[7:10]), tuple(pick[10:14])), now, float(WALL))
        guard.tick(now)
    assert guard.counts.get("passed", 0) == 0
