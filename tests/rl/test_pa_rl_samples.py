"""Kept base samples: drawn once, the same whoever shares the batch and however often they were forgotten."""

from __future__ import annotations

import numpy as np
import torch

from robopolicy.core.specs import STATE
from robopolicy.rl.pa_rl_samples import BaseSamples
from robopolicy.testing.heads import tiny_head

POLICY = tiny_head("flow", "unet", horizon=4, n_action_steps=2)


def observations(rows: int) -> dict[str, np.ndarray]:
    return {STATE: np.random.default_rng(0).uniform(-1, 1, (rows, 2, 3)).astype(np.float32)}


def test_each_observation_is_sampled_once_even_when_it_comes_twice():
    samples, obs = BaseSamples(POLICY, 3), observations(6)
    first = samples(obs)
    assert first.shape == (6, 3, *POLICY.latent_shape)
    assert samples.drawn == 6
    again = samples({STATE: obs[STATE][[4, 4, 0]]})
    assert samples.drawn == 6
    assert torch.equal(again, first[[4, 4, 0]])
    apart = (first[:, :1] - first[:, 1:]).flatten(2).norm(dim=-1)
    assert (apart > 0).all()


def test_samples_depend_on_observation_seed_and_version_and_on_nobody_else():
    obs = observations(5)
    whole = BaseSamples(POLICY, 3)(obs)
    for row in range(5):
        torch.testing.assert_close(BaseSamples(POLICY, 3)({STATE: obs[STATE][row : row + 1]})[0], whole[row])
    assert not torch.allclose(BaseSamples(POLICY, 3, seed=1)(obs), whole)
    other = BaseSamples(POLICY, 3)
    other.renew(1)
    assert not torch.allclose(other(obs), whole)
    other.renew(0)
    assert torch.equal(other(obs), whole)


def test_when_memory_is_full_the_oldest_make_room_and_come_back_as_they_were():
    samples, obs = BaseSamples(POLICY, 3), observations(7)
    whole = samples(obs)
    samples.renew(0)
    samples.capacity = 4
    assert torch.equal(samples(obs), whole)  # more than there is room for
    assert len(samples._slots) == 4
    assert torch.equal(samples(obs), whole)
    np.testing.assert_array_equal(sorted(samples._slots.values()), range(4))
