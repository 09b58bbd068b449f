"""``check_policy`` passes for every head and observation kind, and fails for policies broken on purpose."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robopolicy.core.errors import ConfigError, InvalidObservation
from robopolicy.core.policy import Cap
from robopolicy.core.specs import ActionSpace, ChannelKind
from robopolicy.policies.diffusion import DiffusionPolicy
from robopolicy.testing.check_policy import RULES, ContractViolation, check_policy, latent_sensitivity
from robopolicy.testing.tiny import random_observation, tiny_policy

TWO_CAMERAS = {"front": (32, 32), "wrist": (24, 40)}
VARIANTS = {
    "unet-state": {},
    "transformer-state": {"backbone": "transformer"},
    "unet-hybrid": {"cameras": TWO_CAMERAS},
    "transformer-hybrid": {"cameras": TWO_CAMERAS, "backbone": "transformer"},
    "unet-image": {"state_dim": 0, "cameras": {"front": (32, 32)}, "prediction": "x0"},
    "one-step": {"n_obs_steps": 1, "prediction": "v", "backbone": "transformer", "sampler": "heun"},
    "three-steps-ddpm": {"n_obs_steps": 3, "sampler": "ddpm", "num_inference_steps": 6},
    "padding": {"action_space": ActionSpace(3, kinds=(ChannelKind.EUCLIDEAN,) * 2 + (ChannelKind.PADDING,))},
    "z-scores": {"normalization": {"action": "gaussian", "state": "gaussian"}, "clip": 4.0, "prediction": "x0"},
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_head_keeps_every_rule(variant, rule):
    assert check_policy(tiny_policy(**VARIANTS[variant]), [rule]) == [rule]


POLICY = tiny_policy(cameras={"front": (16, 16)})


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), batch=st.integers(1, 4), key=st.integers(0, 2**40))
def test_random_observations_give_bounded_reproducible_chunks(seed, batch, key):
    obs = random_observation(POLICY, batch, seed)
    keys = [(key, row) for row in range(batch)]
    actions = POLICY.act(obs, keys).actions
    assert actions.shape == (batch, 16, 2)
    assert np.abs(actions).max() <= 1.0
    assert np.array_equal(actions, POLICY.act(obs, keys).actions)


def test_calls_keep_no_memory():
    import tracemalloc

    policy, obs = tiny_policy(num_inference_steps=1), random_observation(POLICY, 1)
    for _ in range(20):
        policy.act(obs)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(300):
        policy.act(obs)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 100_000


def test_the_probe_sees_how_much_the_latent_matters():
    policy = tiny_policy(clip=None)
    plain = latent_sensitivity(policy)
    decode = policy.decode
    policy.decode = lambda ctx, latent, tape=None: decode(ctx, latent * 0, tape=tape)
    assert latent_sensitivity(policy)["slope"] == 0.0
    assert plain["slope"] > 1e-3


class Broken(DiffusionPolicy):
    """A policy with one fault, chosen by name."""

    fault = ""

    def act(self, obs, noise_keys=None, observed_at=0.0):
        if self.fault == "ignores keys":
            noise_keys = [(0,) for _ in next(iter(obs.values()))]
        if self.fault == "writes into the observation":
            obs["observation.state"] += 1
        if self.fault == "raw torch error":
            torch.zeros(1, 2) @ torch.zeros(3, 4)
        chunk = super().act(obs, noise_keys, observed_at)
        if self.fault == "leaves the bounds":
            chunk.actions[...] = 2.0
        if self.fault == "mixes rows":
            chunk.actions[...] = chunk.actions.mean(0, keepdims=True)
        if self.fault == "stays in evaluation mode":
            self.eval()
        return chunk

    def sample(self, ctx, num_samples, generator=None):
        if self.fault == "encodes every sample":
            for _ in range(num_samples):
                self.encode(random_observation(self, 1))
        return super().sample(ctx, num_samples, None if self.fault == "draws other latents" else generator)

    def supervised_loss(self, obs, target, *, weight=None, mask=None, noise=None):
        loss = super().supervised_loss(obs, target, weight=weight, mask=mask, noise=noise)
        if self.fault == "couples samples":
            return loss + loss.mean()
        return super().supervised_loss(obs, target) if self.fault == "draws its own noise" else loss

    def optim_groups(self, lr, weight_decay):
        groups = super().optim_groups(lr, weight_decay)
        return groups[:-1] if self.fault == "forgets parameters" else groups


FAULTS = {
    "ignores keys": "seeds",
    "writes into the observation": "no_mutation",
    "leaves the bounds": "chunk",
    "mixes rows": "batch_equals_singles",
    "stays in evaluation mode": "mode",
    "raw torch error": "bad_input",
    "encodes every sample": "encode_once",
    "draws other latents": "purity",
    "couples samples": "loss",
    "draws its own noise": "loss",
    "forgets parameters": "optimizer_groups",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_broken_policies_are_found(fault):
    policy = tiny_policy()
    policy.__class__ = Broken
    policy.fault = fault
    with pytest.raises(ContractViolation):
        check_policy(policy, [FAULTS[fault]])


def test_false_claims_are_found():
    policy = tiny_policy()
    policy.caps = policy.caps | {Cap.ENERGY}
    with pytest.raises(ContractViolation, match="ENERGY is claimed but missing"):
        check_policy(policy)
    policy.caps = frozenset({Cap.SAMPLE, Cap.SCORE})
    with pytest.raises(ContractViolation, match="TRAIN works but is not claimed"):
        check_policy(policy)


def test_a_checker_that_lets_anything_in_is_found():
    policy = tiny_policy()
    check = policy.checker.check
    policy.checker.check = lambda obs, values=True: check(obs, values=False)
    with pytest.raises(ContractViolation, match=r"'observation.state: NaN' raised|was accepted"):
        check_policy(policy, ["bad_input"])


def test_unknown_rules_are_named():
    with pytest.raises(ConfigError, match="no rule 'sedds'; did you mean 'seeds'"):
        check_policy(tiny_policy(), ["sedds"])
    with pytest.raises(InvalidObservation):
        tiny_policy().act({})
