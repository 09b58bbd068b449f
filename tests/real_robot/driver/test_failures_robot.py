"""Rows of the failure table that begin with the robot, its clock or its state; in lock-step, in ticks of 10 ms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from robopolicy.core.errors import RequestRefused
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.twin.arm import Mode
from robopolicy.real_robot.wire.messages import seconds_of

LONG = {"seconds": 4.0, "way": (0.12, 0.0, 0.0)}


def assert_looked_at_again(r, state):
    """Somebody changes the arm's settings, and an operator recovers it: it stays in ``state``, preflight saw that."""
    r.fault("tool", 0.02)
    r.driver.recover("Ada")
    r.step(80)
    assert r.state is state
    assert any("tool" in line for line in r.driver.status().preflight.failures())


def test_F10_a_state_with_a_number_that_is_none_is_not_taken_and_holds(rig):
    r = rig().moving(**LONG)
    real = r.face.messages.state

    def broken(wall, seconds):
        message = real(wall, seconds)
        return message | {"O_T_EE": [math.nan, *message["O_T_EE"][1:]]}

    r.bus.publish = r.bus.deliver  # lets it through, as a real robot would
    r.face.messages.state = broken
    took = r.until(State.HOLD, 40)
    assert 0.24 <= took <= 0.27
    assert r.driver.sources.state.slot.invalid >= 20
    assert "robot state 0.2" in r.why
    r.face.messages.state = real
    r.step(30)
    r.driver.resume()
    assert r.step().state is State.RUNNING


def test_F17_a_state_that_stops_holds_within_a_quarter_second(rig):
    r = rig().moving(**LONG)
    r.fault("state_stop")
    slowed = r.driver.status().emitted.position
    assert 0.24 <= r.until(State.HOLD, 40) <= 0.27
    # Without a state the setpoint comes to rest where it is; the arm is not drawn along.
    assert np.linalg.norm(r.driver.status().emitted.position - slowed) < 0.02


def test_F17_F38_a_state_that_is_repeated_counts_as_none(rig):
    r = rig().moving(**LONG)
    r.fault("state_freeze")
    assert 0.24 <= r.until(State.HOLD, 40) <= 0.27
    assert r.driver.sources.state.slot.stale >= 20
    assert r.driver.sync.trouble is None


@pytest.mark.slow
def test_F18_a_state_below_10_hz_holds_and_a_slow_one_is_warned_of(rig):
    r = rig().running()
    r.driver.submit(r.line(**LONG))
    r.fault("state_rate", 20)
    r.step(230)
    assert 19 <= r.driver.status().rates["state"] <= 25
    assert any("state at 2" in w for w in r.driver.status().extra["warnings"])
    r.driver.pause()
    r.fault("state_rate", 5)
    r.step(250)
    with pytest.raises(RequestRefused, match=r"robot state at 5\.\d Hz"):
        r.driver.resume()


def test_F19_a_constant_skew_is_measured_and_refused_but_ages_are_right(rig):
    r = rig(connect=False)
    r.fault("clock_skew", 2.0)
    r.driver.connect(monitor_only=False)
    r.step(12)
    assert r.driver.status().clock_offset == pytest.approx(2.0, abs=1e-3)
    assert r.driver.status().ages["state"] == pytest.approx(0.0, abs=2e-3)
    failures = r.driver.preflight().failures()
    assert any("clock offset: +2.000 s" in line for line in failures)
    assert r.state is State.LINKED


@pytest.mark.parametrize("step", [0.2, -0.2])
def test_F20_a_step_of_the_robots_clock_holds_at_once_and_is_measured_anew(rig, step):
    r = rig().moving(**LONG)
    r.fault("clock_skew", step)
    assert r.until(State.HOLD, 20) <= 0.10
    assert f"stamps jumped by {step:+.1f}"[:-2] in r.why
    r.step(30)
    assert r.driver.status().clock_offset == pytest.approx(step, abs=2e-3)
    assert r.driver.sync.trouble is None
    assert r.driver.status().ages["state"] == pytest.approx(0.0, abs=2e-3)
    r.driver.resume()
    assert r.step(5).state is State.RUNNING


def test_F20_after_the_robots_clock_was_set_back_no_target_is_of_its_future(rig):
    r = rig().moving(**LONG)
    r.fault("clock_skew", -2.0)
    r.until(State.HOLD, 20)
    r.step(20)  # measured anew
    r.driver.resume()
    r.step(5)
    stamps = [seconds_of(message["header"]["stamp"]) for _, message in r.targets[-5:]]
    assert stamps == sorted(set(stamps))
    assert stamps[-1] == pytest.approx(r.twin.clock.wall(), abs=0.015)  # a guard refuses those 20 ms ahead


def test_F20_a_step_that_is_measured_in_the_middle_of_a_tick_holds_at_the_next(rig, monkeypatch):
    r = rig().moving(**LONG)
    tick = r.driver.tapped.tick

    def overtaken(now, inputs):  # by a burst that another thread completes
        r.driver.sync.trouble, r.driver.sync._moved = "clock: it was set meanwhile", True
        return tick(now, inputs)

    with monkeypatch.context() as patch:
        patch.setattr(r.driver.tapped, "tick", overtaken)
        assert r.step().state is State.RUNNING
    assert r.step().state is State.HOLD
    assert r.why == "clock: it was set meanwhile"
    assert r.driver.sync.trouble is None


def test_F20_stamps_of_the_future_are_dropped_until_the_clock_was_measured_again(rig):
    r = rig()
    r.step(20)
    r.fault("clock_skew", 0.03)  # less than a step, more than may be
    r.step(10)
    assert r.driver.sources.counters["state.future"] == 10
    assert r.driver.status().ages["state"] == pytest.approx(0.10, abs=0.005)
    r.step(100)  # asked for the time again within a second
    assert r.driver.status().clock_offset == pytest.approx(0.03, abs=2e-3)
    assert r.driver.status().ages["state"] == pytest.approx(0.0, abs=2e-3)
    assert r.driver.sync.trouble is None


def test_F26_the_stop_is_latched_and_silent_and_no_recovery_is_asked_for(rig):
    r = rig().moving(**LONG)
    r.fault("user_stop")
    assert r.until(State.ESTOP, 5) <= 0.02
    sent = len(r.targets)
    r.step(60)
    assert len(r.targets) == sent
    assert r.recoveries == 0
    with pytest.raises(RequestRefused, match="still pressed"):
        r.driver.recover("Ada")
    r.twin.faults.clear()
    r.step(10)
    assert r.state is State.ESTOP
    r.driver.recover("Ada")
    r.until(State.READY, 300)
    assert r.recoveries == 1
    assert len(r.targets) == sent
    assert r.driver.status().preflight.green


def test_F27_a_reflex_is_a_fault_with_its_name_and_needs_an_operator(rig):
    r = rig().moving(**LONG)
    r.fault("reflex", "joint_velocity_violation")
    assert r.until(State.FAULT, 5) <= 0.02
    assert "joint_velocity_violation" in r.why
    assert r.driver.status().errors == ("joint_velocity_violation",)
    r.step(100)
    assert r.recoveries == 0
    assert r.state is State.FAULT
    r.driver.recover("Ada")
    r.until(State.READY, 300)
    assert r.recoveries == 1


def test_F27_what_preflight_saw_before_a_fault_does_not_count_after_it(rig):
    r = rig().moving(**LONG)
    r.fault("reflex")
    r.step(3)
    assert_looked_at_again(r, State.FAULT)


def test_a_preflight_that_is_not_green_takes_back_what_an_earlier_one_allowed(rig):
    r = rig().ready()
    r.fault("tool", 0.02)
    r.step(12)
    assert not r.driver.preflight().green
    assert r.state is State.LINKED
    with pytest.raises(RequestRefused, match="not in state linked"):
        r.driver.ask_to_arm("Ada")


@pytest.mark.slow
def test_F28_a_recovery_that_is_refused_stays_a_fault(rig):
    r = rig().moving(**LONG)
    r.fault("recovery_fails")
    r.fault("reflex")
    r.step(3)
    r.driver.recover("Ada")
    r.step(505)
    assert r.state is State.FAULT
    assert "no effect within 5 s" in r.why
    assert r.recoveries == 1


@pytest.mark.parametrize("mode", [Mode.OTHER, Mode.IDLE])
def test_an_arm_whose_controller_ends_holds_at_the_next_state(rig, mode):
    r = rig().moving(**LONG)
    with r.twin.lock:
        r.twin.arm._stop(mode)
    assert r.until(State.HOLD, 5) <= 0.02
    assert f"robot mode {int(mode)} ({mode.name.lower()})" in r.why
    with pytest.raises(RequestRefused, match="resume: robot mode"):
        r.driver.resume()


@pytest.mark.parametrize(
    ("ros", "law", "controller"),
    [
        *(("ros1", "franka_ros", "franka_ros"), ("ros1", "franka_ros_stiff", "franka_ros"), ("ros1", "serl", "serl")),
        ("ros2", "franka_ros", "crisp"),
    ],
)
def test_an_arm_says_move_while_it_runs_whatever_its_controller(rig, ros, law, controller):
    r = rig(ros=ros, controller=controller, twin={"controller": law}).running()
    assert r.driver.submit(r.line())
    for _ in range(60):
        assert r.step().state is State.RUNNING
        assert r.driver.status().mode == Mode.MOVE


def test_F26_what_preflight_saw_before_a_stop_by_the_program_does_not_count_after_it(rig):
    r = rig().moving(**LONG)
    r.driver.estop()
    assert_looked_at_again(r, State.ESTOP)


def test_F29_a_guided_arm_is_a_fault_and_gets_no_commands(rig):
    r = rig().moving(**LONG)
    r.fault("guiding")
    assert r.until(State.FAULT, 5) <= 0.02
    sent = len(r.targets)
    r.step(50)
    assert len(r.targets) == sent
    assert "guiding" in r.why


def test_F29_a_ready_arm_that_is_led_is_looked_at_again(rig):
    r = rig().ready()
    r.fault("guiding")
    r.step(2)
    assert r.state is State.LINKED
    r.twin.faults.clear()
    r.fault("tool", 0.02)
    r.step(150)
    assert r.state is State.LINKED
    assert not r.driver.status().preflight.green


def test_F38_old_repeated_and_swapped_states_change_nothing(rig):
    r = rig()
    r.step(20)
    names = r.face.names
    old = r.bus.last(names.state)
    r.step(10)
    newest = r.driver.sources.measured.at
    for late in (r.bus.last(names.state), old, old):
        r.bus.deliver(names.state, late, "/franka_control")
        assert r.driver.rendezvous()
        r.driver.tick()
    assert r.driver.sources.measured.at == newest
    assert r.driver.sources.state.slot.stale == 3
    assert r.driver.sync.trouble is None  # an old message is late, no clock was set back


def test_F16_a_camera_that_sends_rubbish_holds_after_five(rig):
    r = rig(cameras=("front",)).moving(**LONG)
    r.fault("camera_corrupt")
    took = r.until(State.HOLD, 80)
    assert 0.3 <= took <= 0.52
    assert "no whole JPEG" in r.driver.sources.pictures["front"]
    assert r.driver.status().counters["camera.front.bad"] >= 4


def test_F16_pictures_of_another_size_are_no_pictures(rig):
    r = rig(cameras=("front",))
    r.fault("camera_size")
    r.step(30)
    failures = r.driver.preflight().failures()
    assert any("24 x 32, expected 48 x 64" in line for line in failures)


def test_a_tap_that_raises_is_let_go_and_the_arm_is_not(rig):
    r = rig().moving(**LONG)

    class Full:
        def ticked(self, inputs, record):
            raise OSError("disk full")

    r.driver.tap = Full()
    assert r.step(5).state is State.RUNNING
    assert r.driver.tap is None
    assert "disk full" in r.driver.status().recording
