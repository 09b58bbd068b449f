"""Gymnasium's own checker accepts our environments."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from robopolicy.core.specs import ENVIRONMENT_STATE, STATE
from robopolicy.sim.gym_adapter import GymAdapter
from robopolicy.sim.registry import make_env


@pytest.mark.parametrize("name", ["pusht", pytest.param("panda_lift", marks=pytest.mark.render)])
def test_gymnasium_checker_passes(name):
    env = GymAdapter(make_env(name, image_size=(32, 32)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its recommendations: bounds in -1..1, a registered id
        check_env(env)
    env.close()


def test_reset_without_seed_continues_and_with_seed_repeats():
    env = GymAdapter(make_env("panda_lift", cameras=()))
    first, _ = env.reset(seed=5)
    second, _ = env.reset()
    again, _ = env.reset(seed=5)
    assert not np.array_equal(first[ENVIRONMENT_STATE], second[ENVIRONMENT_STATE])
    np.testing.assert_array_equal(first[ENVIRONMENT_STATE], again[ENVIRONMENT_STATE])


def test_only_chosen_keys_and_success_in_info():
    env = GymAdapter(make_env("panda_lift"), keys=(STATE,), render_mode=None)
    obs, _ = env.reset(seed=0)
    assert set(obs) == {STATE}
    _, reward, _, _, info = env.step(env.action_space.sample())
    assert info["is_success"] is False
    assert info["max_reward"] == reward
    assert env.render() is None
