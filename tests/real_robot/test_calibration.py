"""Latencies from motions whose lag is known."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.core.errors import ConfigError
from robopolicy.real_robot.calibration import arm_lag, hand_lag


def sine(t):
    return 0.05 * np.sin(2 * np.pi * 0.2 * t) * np.clip(t / 5, 0, 1)


@pytest.mark.parametrize("lag", [0.02, 0.1, 0.25, 0.362, 0.6])
def test_a_known_lag_is_found_within_two_milliseconds(lag):
    rng = np.random.default_rng(1)
    command = np.arange(0, 20, 0.01)
    state = np.sort(np.arange(0, 20, 0.01) + rng.uniform(-0.003, 0.003, 2000))
    measured = 0.93 * sine(state - lag) + 0.4 + rng.normal(0, 2e-4, len(state))
    found = arm_lag(command, sine(command) + 0.4, state, measured)
    assert found.seconds == pytest.approx(lag, abs=0.002)
    assert found.ratio == pytest.approx(0.93, abs=0.01)
    assert found.correlation > 0.999


def test_thirty_states_a_second_and_repeated_readings_are_enough():
    command = np.arange(0, 15, 0.01)
    state = np.repeat(np.arange(0, 15, 1 / 30), 3)  # polled faster than it is published
    found = arm_lag(command, sine(command), state, sine(state - 0.3))
    assert found.seconds == pytest.approx(0.3, abs=0.005)
    assert found.samples == 450


def test_an_arm_that_stands_or_goes_elsewhere_has_no_latency():
    t = np.arange(0, 15, 0.01)
    with pytest.raises(ConfigError, match=r"measured motion is only 0\.0 mm.*controller running"):
        arm_lag(t, sine(t), t, np.full_like(t, 0.4))
    noise = np.random.default_rng(0).normal(0, 0.02, len(t))
    with pytest.raises(ConfigError, match="did not follow"):
        arm_lag(t, sine(t), t, noise)
    with pytest.raises(ConfigError, match="too few samples"):
        arm_lag(t[:10], sine(t[:10]), t, sine(t))
    with pytest.raises(ConfigError, match="did not follow"):  # ahead of its command
        arm_lag(t, sine(t), t, sine(t + 0.2))


@pytest.mark.parametrize("speed", [0.05, 0.1, 0.2])
def test_the_hands_latency_does_not_depend_on_its_speed(speed):
    asked, t = np.array([1.0, 3.0, 5.0, 7.0]), np.arange(0, 9, 0.1)
    widths = np.full(len(t), 0.08)
    for k, when in enumerate(asked):
        way = np.clip((t - when - 0.13) * speed, 0, 0.05)
        widths += (-1 if k % 2 == 0 else 1) * way
    assert hand_lag(asked, t, widths).seconds == pytest.approx(0.13, abs=0.02)


def test_a_hand_that_does_not_move_is_said_to():
    t = np.arange(0, 5, 0.1)
    with pytest.raises(ConfigError, match="homed and free"):
        hand_lag(np.array([1.0]), t, np.full(len(t), 0.04))
