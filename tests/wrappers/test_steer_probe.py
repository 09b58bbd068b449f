"""Start-up probes: what a latent changes (8.4, C3), and whether a policy bears mapped latents (D12)."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from robopolicy.core.errors import ConfigError, PolicyInterfaceError
from robopolicy.core.specs import STATE
from robopolicy.testing.heads import tiny_head
from robopolicy.testing.reranking import GaussianPolicy
from robopolicy.testing.tiny import random_observation
from robopolicy.wrappers.latent_maps import LatentMap
from robopolicy.wrappers.steer import PriorActor, SteeredPolicy
from robopolicy.wrappers.steer_config import LatentMapConfig
from robopolicy.wrappers.steer_probe import (
    LatentInsensitivityWarning,
    check_mapped_success,
    sensitivity,
    warn_if_insensitive,
)


class Basins(GaussianPolicy):
    """Every latent ends in one of two actions, as energy descent does: the slope is 0 but for the border."""

    def decode(self, ctx, latent, *, tape=None):
        return latent.sign() + 0.001 * latent


def ctx(policy: GaussianPolicy, rows: int = 4):
    return policy.encode({STATE: np.zeros((rows, 2, 2), np.float32)})


def test_an_affine_decoder_has_its_slope_and_spread():
    policy = GaussianPolicy(dim=3, std=0.5)
    found = sensitivity(policy, ctx(policy, 400))
    assert found.std == pytest.approx(0.5, rel=0.05)
    assert found.slope == pytest.approx(1.0, rel=0.05)  # da/dw = std, in deviations of the chunks
    assert found.spread == pytest.approx(2**0.5, rel=0.05)
    assert sensitivity(policy, ctx(policy, 400)) == found
    repeated = sensitivity(policy, ctx(policy, 400), LatentMap(LatentMapConfig(kind="repeat"), policy.latent_shape))
    assert repeated.slope == pytest.approx(1.0, rel=0.1)


def test_d12_whole_basins_of_latents_with_one_action_warn():
    policy = Basins()
    with pytest.warns(LatentInsensitivityWarning, match="between basins"):
        found = warn_if_insensitive(policy, ctx(policy))
    assert found.slope < 0.05
    assert found.spread > 1  # the latent does matter, only not a little at a time
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_insensitive(GaussianPolicy(), ctx(GaussianPolicy()))


def test_d12_an_energy_that_is_followed_to_its_end_warns_when_exploring_begins():
    base = tiny_head("ebt", "transformer", clip=1.0)
    base.set_sampler(step_size=1e6, max_steps=6)  # every start ends at a bound
    policy = SteeredPolicy(base, PriorActor(), deterministic=False)
    policy.probe_next = True
    obs = random_observation(base, 6)
    keys = [(1, row, 0) for row in range(6)]
    with pytest.warns(LatentInsensitivityWarning):
        policy.explore(obs, keys)
    with warnings.catch_warnings():  # once is enough
        warnings.simplefilter("error")
        policy.explore(obs, keys)


def test_probing_changes_nothing_that_is_drawn():
    policies = [SteeredPolicy(GaussianPolicy(dim=2), PriorActor(), deterministic=False) for _ in range(2)]
    policies[0].probe_next = True
    obs = {STATE: np.zeros((3, 2, 2), np.float32)}
    torch.manual_seed(5)
    one, two = (p.explore(obs, [(1, r, 0) for r in range(3)]) for p in policies)
    np.testing.assert_array_equal(one.latent, two.latent)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    policies[0].probe(obs)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(("mapped", "refused"), [(20, False), (16, False), (13, True), (0, True)])
def test_d12_a_map_under_which_the_base_fails_is_refused(mapped, refused):
    if not refused:
        return check_mapped_success((20, 20), (mapped, 20), "repeat")
    with pytest.raises(PolicyInterfaceError, match=f"{mapped} of 20 episodes with latents of map 'repeat'"):
        check_mapped_success((20, 20), (mapped, 20), "repeat")
    return None


def test_counts_that_are_none_are_refused_and_equal_failures_pass():
    check_mapped_success((0, 20), (0, 20), "repeat")
    check_mapped_success((5, 20), (12, 20), "repeat")  # better is no reason to refuse
    with pytest.raises(ConfigError, match="21 of 20"):
        check_mapped_success((21, 20), (3, 20), "repeat")
