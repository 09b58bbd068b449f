"""The law by itself: what it pulls with, how its target and its torque are limited, and how it dies."""

from __future__ import annotations

import math

import numpy as np
import pytest

from robopolicy.core.errors import ConfigError
from robopolicy.real_robot.frames import downward, slerp, turned
from robopolicy.real_robot.kinematics import forward, jacobian
from robopolicy.real_robot.twin.impedance import CartesianImpedance, ControllerCrash, ImpedanceGains
from robopolicy.sim.panda_model import HOME

POSE, J, STILL = forward(HOME), jacobian(HOME), np.zeros(7)
FREE = {"torque_step": 1e9, "null_space": 0.0}  # the pure law, without the limit of its rate


def started(gains):
    law = CartesianImpedance(gains)
    law.restart(HOME, POSE.position, POSE.quaternion)
    return law


def tick(law, position=POSE.position, quaternion=POSE.quaternion, q=HOME, dq=STILL, coriolis=STILL):
    return law.tick(q, dq, position, quaternion.tolist(), J, coriolis)


def test_a_displaced_tool_is_pulled_back_by_stiffness_times_distance():
    torque = tick(started(ImpedanceGains(200, 10, **FREE)), POSE.position - np.array((0.01, 0, 0.02)))
    np.testing.assert_allclose(torque, J.T @ (2.0, 0, 4.0, 0, 0, 0), atol=1e-9)


def test_rotation_error_is_the_sine_of_half_the_angle_in_the_base_frame():
    law = started(ImpedanceGains(200, 10, **FREE))
    turn = np.array((0.1, -0.2, 0.3))
    torque = tick(law, quaternion=turned(POSE.quaternion, -turn))
    angle = np.linalg.norm(turn)
    np.testing.assert_allclose(torque, J.T @ (0, 0, 0, *(10 * math.sin(angle / 2) * turn / angle)), atol=1e-9)


def test_damping_is_twice_the_root_of_the_stiffness_and_coriolis_is_added():
    dq = np.array((0.1, -0.1, 0.2, 0.1, 0, 0.1, -0.2))
    torque = tick(started(ImpedanceGains(400, 25, **FREE)), dq=dq, coriolis=np.arange(7.0))
    damping = np.repeat((2 * math.sqrt(400), 2 * math.sqrt(25)), 3)
    np.testing.assert_allclose(torque, np.arange(7.0) - J.T @ (damping * (J @ dq)), atol=1e-9)


def test_null_space_pulls_to_the_posture_mostly_without_moving_the_tool():
    law = started(ImpedanceGains(0, 0, null_space=10.0, torque_step=1e9))
    q = HOME + np.array((0.3, 0.1, -0.2, 0.1, 0.2, 0.1, -0.1))
    torque = tick(law, q=q)
    pull = 10.0 * (HOME - q)
    inverse = np.linalg.solve(J @ J.T + 0.2**2 * np.eye(6), J)
    np.testing.assert_allclose(torque, pull - J.T @ (inverse @ pull), atol=1e-9)


def test_the_reference_covers_63_percent_in_0_2_seconds():
    law = started(ImpedanceGains())
    law.aim(POSE.position + np.array((0.1, 0, 0)), turned(POSE.quaternion, (0, 0, 0.5)))
    for _ in range(200):
        tick(law)
    position, quaternion = law.reference
    share = 1 - (1 - 0.005) ** 200
    assert share == pytest.approx(0.633, abs=0.001)
    assert position[0] - POSE.position[0] == pytest.approx(0.1 * share, rel=1e-9)
    wanted = slerp(POSE.quaternion, turned(POSE.quaternion, (0, 0, 0.5)), share)
    np.testing.assert_allclose(quaternion, wanted, atol=1e-6)


def test_torque_changes_by_at_most_1_nm_a_tick():
    law = started(ImpedanceGains())
    last, largest = np.zeros(7), 0.0
    for _ in range(30):
        torque = tick(law, POSE.position - np.array((0.3, 0.3, 0.0))).copy()
        largest = max(largest, np.abs(torque - last).max())
        last = torque
    assert largest == pytest.approx(1.0, abs=1e-12)


def test_serl_clips_the_error_and_its_gains_are_the_published_ones():
    serl = ImpedanceGains.preset("serl")
    assert (serl.translation, serl.rotation, serl.damping, serl.clip) == (2000.0, 150.0, (89.0, 7.0), (0.01, 0.05))
    law = started(ImpedanceGains(2000, 150, damping=(89.0, 7.0), clip=(0.01, 0.05), **FREE))
    far = tick(law, POSE.position - np.array((0.3, 0, 0)))
    np.testing.assert_allclose(far, J.T @ (2000 * 0.01, 0, 0, 0, 0, 0), atol=1e-9)


def test_the_other_sign_of_a_quaternion_is_the_same_target():
    law, other = started(ImpedanceGains()), started(ImpedanceGains())
    target = downward(0.4)
    law.aim(POSE.position, target)
    other.aim(POSE.position, -target)
    np.testing.assert_array_equal(law.target[1], other.target[1])


@pytest.mark.parametrize("where", ["position", "quaternion"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_end_the_controller_within_two_ticks(where, value):
    law = started(ImpedanceGains())
    position, quaternion = POSE.position.copy(), POSE.quaternion.copy()
    (position if where == "position" else quaternion)[1] = value
    law.aim(position, quaternion)
    with np.errstate(all="ignore"):
        tick(law)  # the filter takes the target in
        with pytest.raises(ControllerCrash, match="not finite"):
            tick(law)


def test_a_zero_quaternion_is_taken_as_it_comes_and_hardly_moves_the_reference():
    """What rosbridge makes of a message without orientation: slerp towards nothing shrinks by 3e-5 a tick."""
    law = started(ImpedanceGains())
    law.aim(POSE.position, np.zeros(4))
    for _ in range(400):
        assert np.isfinite(tick(law)).all()
    assert np.linalg.norm(law.reference[1]) == pytest.approx(math.sin(0.995 * math.pi / 2) ** 400, rel=1e-6)


def test_gains_that_make_no_sense_are_refused():
    for bad in ({"translation": -1.0}, {"rotation": math.nan}, {"filter": 0.0}, {"torque_step": 0.0}):
        with pytest.raises(ConfigError, match="expected"):
            ImpedanceGains(**bad)
