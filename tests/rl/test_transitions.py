"""Episodes of chunks: what does not fit together is refused, and success cuts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import STATE
from robopolicy.testing.replays import make_episode, tiny_layout


def test_success_cuts_inside_a_chunk():
    layout = tiny_layout(k=4, latent_shape=(2,))
    successes = np.arange(11) >= 5
    whole = make_episode(layout, 11, step_successes=successes)
    cut = whole.until_success()
    assert (len(whole), len(cut), len(cut.step_rewards)) == (3, 2, 6)
    assert (cut.terminated, cut.truncated, cut.success) == (True, False, True)
    np.testing.assert_array_equal(cut.observations[STATE], whole.observations[STATE][:3])
    np.testing.assert_array_equal(cut.action[0], whole.action[0])
    np.testing.assert_array_equal(cut.action[1], whole.action[1][[0, 1, 1, 1]])  # two were executed before it
    np.testing.assert_array_equal(cut.latent, whole.latent[:2])
    assert cut.env_steps == 11  # what it cost
    assert cut.until_success().step_rewards.tolist() == cut.step_rewards.tolist()


def test_a_failure_is_not_cut():
    failed = make_episode(tiny_layout(), 7)
    assert failed.until_success() is failed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"step_rewards": np.zeros(10)}, "3 decisions of 3 actions do not make 10 rewards"),
        ({"step_successes": np.zeros(6, bool)}, "6 success flags"),
        ({"observations": {STATE: np.zeros((3, 2, 3))}}, "one for each of 3 decisions and one for the end"),
        ({"latent": np.zeros((2, 2))}, "2 latents for 3 decisions"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, said):
    with pytest.raises(ConfigError, match=said):
        dataclasses.replace(make_episode(tiny_layout(), 7), **change)
