"""The options that make the simulated arm as slow as safety limits let a real one be."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.core.errors import ConfigError
from robopolicy.sim.demonstration import demonstrate
from robopolicy.sim.registry import make_env

SLOW = {"cameras": (), "speed": 0.1, "gripper_speed": 0.1}


def test_experts_of_a_slow_arm_keep_to_its_speed_and_still_succeed():
    env = make_env("panda_lift", **SLOW)
    for seed in range(3):
        demo = demonstrate(env, 7000 + seed, 0.7)
        assert demo.success
        state = np.array([o["observation.state"] for o in demo.observations])
        speed = 20 * np.linalg.norm(np.diff(state[:, :3], axis=0), axis=1)
        assert 0.03 < np.median(speed) < 0.1
        assert speed.max() < 0.12  # the set point keeps to 0.1 exactly; the servo overshoots where it turns
        assert 20 * np.abs(np.diff(state[:, 3])).max() < 0.4
        assert 20 * np.abs(np.diff(state[:, 4])).max() < 0.11


def test_a_slow_arm_is_given_as_much_more_time():
    assert make_env("panda_lift", **SLOW).max_steps == 420  # 120 at the usual pace, of which this is 2 / 7
    assert make_env("panda_lift", **SLOW, max_steps=99).max_steps == 99


@pytest.mark.parametrize("name", ["panda_lift", "panda_push", "panda_stack"])
def test_the_usual_speed_is_the_task_as_it_always_was(name):
    plain, said = make_env(name, cameras=()), make_env(name, cameras=(), speed=0.7, gripper_speed=None)
    assert plain.max_steps == said.max_steps == plain.MAX_STEPS
    a, b = demonstrate(plain, 3, 0.5), demonstrate(said, 3, 0.5)
    np.testing.assert_array_equal(a.actions, b.actions)


def test_fingers_with_a_speed_walk_and_those_without_jump():
    widths = {}
    for speed in (None, 0.1):
        env = make_env("panda_lift", cameras=(), gripper_speed=speed)
        env.reset(0)
        hold = np.array((*env.arm.tcp, env.arm.yaw, 0.0))
        for _ in range(4):
            env.step(hold)
        widths[speed] = env.arm.width
    assert widths[None] < 0.01
    assert 0.058 < widths[0.1] < 0.070  # 0.1 m/s for 0.2 s, behind by the servo


@pytest.mark.parametrize("wrong", [{"speed": 0.0}, {"speed": 0.8}, {"gripper_speed": 0.001}])
def test_speeds_that_no_arm_has_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        make_env("panda_lift", cameras=(), **wrong)
