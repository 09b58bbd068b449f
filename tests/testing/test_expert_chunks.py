"""The policy without a network: chunks of an expert solve the task they are made for."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.sim.registry import make_env
from robopolicy.testing.expert_chunks import ExpertChunks

SLOW = {"speed": 0.1, "gripper_speed": 0.1}


@pytest.fixture(scope="module")
def policy():
    made = ExpertChunks(**SLOW)
    yield made
    made.close()


def observed(env):
    return {key: np.stack((value, value))[None] for key, value in env.observe().items()}


def test_chunks_of_the_expert_lift_the_cube(policy):
    env = make_env("panda_lift", cameras=(), **SLOW)
    env.reset(100_000)
    outcome, steps = None, 0
    while outcome is None or not outcome.done:
        for action in policy.act(observed(env)).executable[0]:
            outcome, steps = env.step(action), steps + 1
            if outcome.done:
                break
    assert outcome.success
    assert steps < 200


def test_equal_observations_give_equal_chunks_dated_from_the_newest(policy):
    env = make_env("panda_lift", cameras=(), **SLOW)
    env.reset(3)
    seen = observed(env)
    a, b = policy.act(seen, observed_at=7.0), policy.act(seen, observed_at=7.0)
    np.testing.assert_array_equal(a.actions, b.actions)
    assert a.actions.shape == (1, 32, 5)
    assert a.stamps[0, 1] == pytest.approx(7.0)
    assert np.linalg.norm(np.diff(a.actions[0, 1:, :3], axis=0), axis=-1).max() < 0.011  # at the speed of a slow arm
