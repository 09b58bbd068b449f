"""The tabulated inference path gives what the plain network gives, also after the weights have changed."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from robopolicy.core.errors import ConfigError
from robopolicy.testing.tiny import random_batch, random_observation, tiny_policy

BACKBONES = ["unet", "transformer"]
KEYS = [(3, 0), (3, 1)]


def plain_chunk(policy, obs, latent):
    """Chunks through ``net.forward`` only: asking for gradients switches the tabulated path off."""
    with torch.enable_grad():
        return policy.decode(policy.encode(obs), latent).detach()


@torch.no_grad()
def fast_chunk(policy, obs, latent):
    return policy.decode(policy.encode(obs), latent)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("sampler", ["ddim", "heun", "dpmpp_2m"])
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_tabulated_and_plain_decoding_agree(backbone, sampler, prediction):
    policy = tiny_policy(backbone=backbone, sampler=sampler, prediction=prediction)
    obs, latent = random_observation(policy, 3), torch.randn(3, 16, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fast_chunk(policy, obs, latent), plain_chunk(policy, obs, latent), atol=1e-5, rtol=0)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_weights_may_change_between_chunks(backbone):
    policy = tiny_policy(backbone=backbone)
    obs, latent = random_observation(policy, 2), torch.zeros(2, 16, 2)
    before = fast_chunk(policy, obs, latent)
    other = tiny_policy(backbone=backbone, seed=9)
    with torch.no_grad():  # as an average of the weights is swapped in: in place, without changing the mode
        for mine, its in zip(policy.parameters(), other.parameters(), strict=True):
            mine.copy_(its)
    after = fast_chunk(policy, obs, latent)
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, fast_chunk(other, obs, latent), atol=1e-6, rtol=0)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_acting_between_training_steps_changes_nothing(backbone):
    quiet, busy = tiny_policy(backbone=backbone).train(), tiny_policy(backbone=backbone).train()
    losses = []
    for policy in (quiet, busy):
        optimizer = torch.optim.AdamW(policy.optim_groups(1e-3, 1e-3))
        torch.manual_seed(0)
        for step in range(4):
            if policy is busy and step == 2:
                policy.act(random_observation(policy, 2), KEYS)
            noise = policy.draw_training_noise(4, torch.Generator().manual_seed(step))
            loss = policy.loss(random_batch(policy, 4, step), noise)[0].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert losses[:4] == losses[4:]


def test_copies_are_independent():
    policy = tiny_policy()
    obs = random_observation(policy, 2)
    first = policy.act(obs, KEYS).actions
    twin = copy.deepcopy(policy)
    with torch.no_grad():
        for p in twin.parameters():
            p.mul_(0.5)
    assert not np.array_equal(twin.act(obs, KEYS).actions, first)
    assert np.array_equal(policy.act(obs, KEYS).actions, first)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_bfloat16_products_stay_within_a_hundredth_of_the_range(backbone):
    # x0, because an untrained epsilon network at pure noise multiplies any rounding by kappa = 2029.
    policy = tiny_policy(prediction="x0", backbone=backbone)
    obs = random_observation(policy, 8)
    keys = [(0, i) for i in range(8)]
    exact = policy.act(obs, keys).actions
    assert policy.inference("bf16") is policy
    rough = policy.act(obs, keys).actions
    assert not np.array_equal(exact, rough)
    assert np.abs(exact - rough).max() <= 2e-2  # the range is 2
    assert np.array_equal(policy.inference("fp32").act(obs, keys).actions, exact)
    with pytest.raises(ConfigError, match="fp32, bf16"):
        policy.inference("fp8")


def test_switching_the_decoder_leaves_the_network_alone():
    policy = tiny_policy()
    obs = random_observation(policy, 2)
    first = policy.act(obs, KEYS).actions
    policy.set_sampler(num_inference_steps=9, spacing="leading")
    assert not np.array_equal(policy.act(obs, KEYS).actions, first)
    policy.set_sampler(num_inference_steps=4, spacing="trailing")
    assert np.array_equal(policy.act(obs, KEYS).actions, first)
