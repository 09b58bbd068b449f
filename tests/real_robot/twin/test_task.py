"""Embedded scenes in the twin: they load, are judged, and their experts solve them through the impedance controller."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.core.errors import ConfigError
from robopolicy.real_robot.frames import Pose, downward
from robopolicy.real_robot.twin.config import TwinConfig
from robopolicy.real_robot.twin.twin import Twin
from robopolicy.sim.experts import make_expert
from robopolicy.sim.registry import make_env

SEED = 100_000


@pytest.fixture(scope="module")
def lift():
    twin = Twin(TwinConfig(task="panda_lift", lock_step=True, cameras=()))
    yield twin
    twin.close()


def solve(twin, seed, seconds=40.0):
    """The expert's targets at 20 Hz go to the controller, its gripper channel to the hand; the time it took, s."""
    twin.reset(seed)
    expert, closed, start = make_expert(twin.scene, seed), False, twin.time
    while not twin.succeeded and twin.time - start < seconds:
        action = expert.act()
        twin.aim(Pose(action[:3], downward(action[3])))
        if (wanted := bool(action[4] < 0.5)) != closed:
            closed = wanted
            if closed:
                twin.hand.grasp(0.04, 0.1, 20.0, 0.01, 0.01)
            else:
                twin.hand.move(0.079, 0.1)
        twin.step(50)
    return twin.time - start


def test_expert_lifts_the_cube_through_the_impedance_controller(lift):
    assert solve(lift, SEED) < 12
    assert lift.succeeded
    assert not lift.arm.last_errors
    assert lift.scene.data.body("cube").xpos[2] > 0.08


@pytest.mark.slow
def test_expert_lifts_the_cube_on_ten_seeds(lift):
    solved = [(solve(lift, seed), lift.succeeded)[1] for seed in range(SEED, SEED + 10)]
    assert sum(solved) == 10


def test_the_scene_of_a_seed_is_that_of_the_simulation(lift):
    env = make_env("panda_lift", cameras=())
    env.reset(7)
    lift.reset(7)
    np.testing.assert_allclose(lift.scene.data.body("cube").xpos, env.data.body("cube").xpos, atol=1e-12)
    np.testing.assert_allclose(lift.pose.position, env.arm.tcp, atol=1e-9)
    lift.step(50)
    state = lift.scene.observe(["observation.state"])["observation.state"]
    np.testing.assert_allclose(state[:3], lift.pose.position, atol=1e-6)
    env.close()


def test_nothing_happens_by_itself_and_a_reset_forgets_success(lift):
    lift.reset(1)
    lift.succeeded = True
    lift.reset(1)
    lift.step(500)
    assert not lift.succeeded
    assert lift.result is not None
    assert lift.result.info["max_reward"] < 0.05


@pytest.mark.parametrize("task", ["panda_push", "panda_stack", "panda_recall"])
def test_the_other_scenes_load_and_stand_still(task):
    twin = Twin(TwinConfig(task=task, lock_step=True, cameras=()))
    start = twin.pose
    twin.step(300)
    np.testing.assert_allclose(twin.pose.position, start.position, atol=2e-3)
    assert not twin.arm.errors
    twin.close()


def test_what_is_no_scene_for_one_arm_is_refused():
    with pytest.raises(ConfigError, match="'point_reach' is none of them"):
        Twin(TwinConfig(task="point_reach"))
    with pytest.raises(ConfigError, match="name a task"):
        Twin(TwinConfig(options={"choices": 3}))
    with pytest.raises(ConfigError, match="camera"):
        Twin(TwinConfig(cameras=("side",)))
