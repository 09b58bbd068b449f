"""The hand's rules: ranges, epsilon, speeds, forces, one command at a time, readings ten times a second."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.twin.config import TwinConfig
from robopolicy.real_robot.twin.twin import Twin


@pytest.fixture(scope="module")
def _lift():
    twin = Twin(TwinConfig(task="panda_lift", lock_step=True, cameras=()))
    yield twin
    twin.close()


@pytest.fixture
def at_cube(_lift):
    """The open fingers around the cube of panda_lift, arm at rest."""
    _lift.faults.clear()
    _lift.reset(3)
    cube, yaw = _lift.scene.data.body("cube").xpos.copy(), _lift.scene._environment_state()[3]
    _lift.scene.arm.reset(np.array((*cube, yaw)))
    _lift.arm.restart()
    _lift.hand.restart()
    return _lift


def finish(twin, job, seconds=4.0):
    for k in range(int(seconds * 100)):
        twin.step(10)
        if job.done:
            return k * 0.01
    raise AssertionError("the hand never finished")


def test_move_takes_the_time_of_its_speed(twin):
    job = twin.hand.move(0.02, 0.1)
    seconds = finish(twin, job)
    assert job.success
    assert twin.hand.width == pytest.approx(0.02, abs=0.001)
    assert 0.55 < seconds < 1.0  # 60 mm at 100 mm/s, and settling


def test_readings_are_up_to_a_tenth_of_a_second_old(twin):
    twin.step(100)
    twin.hand.move(0.0, 0.1)
    readings, widths = [], []
    for _ in range(400):
        twin.step(1)
        readings.append(twin.hand.reading)
        widths.append(twin.hand.width)
    changes = np.flatnonzero(np.diff(readings))
    assert len(changes) == 4  # at 10 Hz
    np.testing.assert_array_equal(np.diff(changes), 100)
    assert max(np.array(readings) - widths) > 0.008  # 10 mm at 0.1 m/s


@pytest.mark.parametrize("width", [-0.01, 0.09])
def test_widths_outside_the_opening_are_refused(twin, width):
    job = twin.hand.move(width)
    assert job.done
    assert not job.success
    assert "0 to 0.08" in job.error


def test_a_new_command_ends_the_one_before(twin):
    first = twin.hand.move(0.0)
    twin.step(50)
    second = twin.hand.move(0.06)
    assert first.done
    assert "newer" in first.error
    finish(twin, second)
    assert second.success


def test_stop_leaves_the_fingers_where_they_are(twin):
    job = twin.hand.move(0.0)
    twin.step(300)
    twin.hand.stop()
    here = twin.hand.width
    twin.step(300)
    assert job.done
    assert not job.success
    assert 0.02 < here < 0.07
    assert twin.hand.width == pytest.approx(here, abs=0.003)


def test_a_grasp_of_nothing_fails_and_says_where_the_fingers_stopped(twin):
    job = twin.hand.grasp(0.04)
    finish(twin, job)
    assert not job.success
    assert "stopped at 0.000" in job.error


def test_homing_closes_and_opens(twin):
    job = twin.hand.homing()
    narrowest = 1.0
    while not job.done:
        twin.step(10)
        narrowest = min(narrowest, twin.hand.width)
    assert job.success
    assert narrowest < 0.001
    assert twin.hand.width == pytest.approx(0.08, abs=0.001)


def test_grasp_holds_the_cube_with_its_force_and_succeeds_within_epsilon(at_cube):
    job = at_cube.hand.grasp(0.042, force=20.0)
    finish(at_cube, job)
    assert job.success, job.error
    assert at_cube.hand.grasped
    assert at_cube.hand.width == pytest.approx(0.04, abs=0.002)
    twice = at_cube.scene.data.ctrl[at_cube.scene.model.actuator("gripper").id]
    assert twice == pytest.approx(-40, abs=1)  # the tendon pulls on both fingers


def test_grasp_of_the_wrong_width_fails_but_keeps_holding(at_cube):
    job = at_cube.hand.grasp(0.02, inner=0.005, outer=0.005)
    finish(at_cube, job)
    assert not job.success
    assert at_cube.hand.width == pytest.approx(0.04, abs=0.002)


def test_F30_a_lost_object_slips_out_and_the_fingers_close(at_cube):
    finish(at_cube, at_cube.hand.grasp(0.04, inner=0.01, outer=0.01))
    here = at_cube.pose
    at_cube.aim(Pose(here.position + np.array((0, 0, 0.1)), here.quaternion))
    at_cube.step(1500)
    assert at_cube.scene.data.body("cube").xpos[2] > 0.06
    at_cube.faults.inject("gripper_lost")
    at_cube.step(1000)
    assert at_cube.scene.data.body("cube").xpos[2] < 0.03
    assert at_cube.hand.width < 0.002


def test_F30_failing_and_slow_hands(twin):
    twin.faults.inject("gripper_fail", 2)
    for _ in range(2):
        job = twin.hand.move(0.03)
        assert job.done
        assert "failed" in job.error
    twin.faults.inject("gripper_slow", 5)
    slow = finish(twin, twin.hand.move(0.04), 6.0)
    assert slow > 1.5  # 40 mm at 20 mm/s
    twin.faults.clear("gripper_slow")
    assert finish(twin, twin.hand.move(0.08)) < 1.0
