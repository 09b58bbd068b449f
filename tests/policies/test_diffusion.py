"""Diffusion Policy: slices, oracles on exact denoisers, overfitting, masks, units, optimiser groups."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robopolicy.core.errors import ConfigError, InvalidAction
from robopolicy.core.policy import Cap
from robopolicy.core.specs import ACTION, ACTION_IS_PAD, STATE, ActionSpace, ChannelKind
from robopolicy.encoders.config import EncoderConfig, ImageEncoderConfig
from robopolicy.paths.base import fit
from robopolicy.policies.backbone_config import TransformerConfig, UnetConfig
from robopolicy.policies.registry import make_policy
from robopolicy.testing.tiny import (
    TINY_ENCODER,
    random_batch,
    random_observation,
    tiny_config,
    tiny_policy,
    tiny_spec,
    unit_stats,
)

CAMERAS = {"front": (32, 32), "wrist": (24, 40)}


class ExactGaussian(nn.Module):
    """The optimal epsilon network for independent data ``N(mean, std^2)`` (spec 10.3)."""

    cond_kind: ClassVar[str] = "vector"

    def __init__(self, path, mean: Tensor, std: float) -> None:
        super().__init__()
        self.path, self.std = path, std
        self.mean = nn.Parameter(mean)

    def forward(self, z: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        a, s = fit(self.path.alpha(t), t, z), fit(self.path.sigma(t), t, z)
        return s * (z - a * self.mean) / (a * a * self.std**2 + s * s)


def with_teacher(mean: Tensor, std: float, **changes):
    policy = tiny_policy(clip=None, **changes)
    policy.net = ExactGaussian(policy.path, mean, std)
    return policy


# ----------------------------------------------------------------------------------------------- chunk slice


def test_the_executed_slice_starts_at_the_newest_observation():
    target = (torch.arange(16.0) / 16).reshape(16, 1).expand(16, 2)
    policy = with_teacher(target.clone(), 1e-6)
    chunk = policy.act(random_observation(policy, 1), observed_at=3.0)
    np.testing.assert_allclose(chunk.executable[0, :, 0] * 16, np.arange(1, 9), atol=1e-3)
    np.testing.assert_allclose(chunk.stamps[0, 1:9], 3.0 + np.arange(8) / 10)


def test_chunks_longer_than_the_horizon_leaves_are_refused():
    with pytest.raises(ConfigError, match="does not fit"):
        tiny_config(horizon=16, n_obs_steps=2, n_action_steps=16)


# ------------------------------------------------------------------------------------------ exact denoisers

DECODERS = [
    ({"num_inference_steps": 10}, 0.299979, 0.140602),
    ({"num_inference_steps": 16}, 0.299976, 0.161736),
    ({"num_inference_steps": 4}, 0.299988, 0.081818),
    ({"num_inference_steps": 10, "spacing": "leading"}, 0.293647, 0.151480),
    ({"num_inference_steps": 8, "spacing": "leading"}, 0.289889, 0.145502),
    ({"num_inference_steps": 100}, 0.299971, 0.193073),
]


@pytest.mark.parametrize(("changes", "mean", "std"), DECODERS)
def test_ode_decoding_of_gaussian_data_is_affine_with_the_known_slope(changes, mean, std):
    policy = with_teacher(torch.tensor(0.3), 0.2, **changes)
    with torch.no_grad():
        ctx = policy.encode(random_observation(policy, 3))
        latent = torch.tensor([0.0, 1.0, -2.0]).reshape(3, 1, 1).expand(3, 16, 2)
        out = policy.decode(ctx, latent)[:, 0, 0]
    assert float(out[0]) == pytest.approx(mean, abs=2e-5)
    assert float(out[1] - out[0]) == pytest.approx(std, abs=2e-5)
    assert float(out[2] - out[0]) == pytest.approx(-2 * std, abs=4e-5)


def test_ancestral_sampling_of_gaussian_data_has_the_known_moments():
    policy = with_teacher(torch.tensor(0.3), 0.2, sampler="ddpm", num_inference_steps=100)
    ctx = policy.encode(random_observation(policy, 1))
    drawn = policy.sample(ctx, 1000, torch.Generator().manual_seed(0)).flatten()
    error = 0.185367 / len(drawn) ** 0.5
    assert float(drawn.mean()) == pytest.approx(0.3, abs=4 * error)
    assert float(drawn.std()) == pytest.approx(0.185367, abs=4 * error)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m", "heun", "euler", "ancestral"])
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_every_sampler_finds_a_single_point(sampler, steps):
    policy = with_teacher(torch.tensor(-0.7), 0.0, sampler=sampler, num_inference_steps=steps)
    chunk = policy.act(random_observation(policy, 2), [(0, 1), (0, 2)])
    # From pure noise in one step, float32 rounding is multiplied by kappa = 2029.
    np.testing.assert_allclose(chunk.actions, -0.7, atol=2e-3 if steps == 1 else 2e-4)


def teacher_gradient(mean: float, std: float) -> tuple[float, float, float]:
    """Gradients in (mean, std) of the loss on ``N(0.3, 0.2^2)`` data, and the loss, with paired draws."""
    policy = with_teacher(torch.tensor(mean), std).train()
    policy.net.std = nn.Parameter(torch.tensor(std))
    half = 20_000
    generator = torch.Generator().manual_seed(0)
    spread = 0.2 * torch.randn(half, *policy.latent_shape, generator=generator)
    noise = policy.draw_training_noise(half, generator)
    t = torch.arange(half) % 100  # every level equally often
    pairs = {"t": torch.cat([t, t]), "eps": torch.cat([noise["eps"], -noise["eps"]])}
    target = 0.3 + torch.cat([spread, -spread])
    loss = policy.supervised_loss({STATE: torch.zeros(2 * half, 2, 3)}, target, noise=pairs).mean()
    loss.backward()
    return float(policy.net.mean.grad), float(policy.net.std.grad), float(loss.detach())


def test_the_loss_is_stationary_at_the_exact_denoiser_of_its_data():
    in_mean, in_std, loss = teacher_gradient(0.3, 0.2)
    assert abs(in_mean) < 1e-3
    assert abs(in_std) < 1e-2
    assert loss == pytest.approx(0.155380, abs=2e-3)  # the floor of section 10.11
    assert abs(teacher_gradient(0.4, 0.2)[0]) > 0.1
    assert abs(teacher_gradient(0.3, 0.3)[1]) > 0.1


# ----------------------------------------------------------------------------------------------- overfitting


SMALL = {
    "unet": UnetConfig(down_dims=(32, 64), kernel_size=3, step_embed_dim=32),
    "transformer": TransformerConfig(n_layer=2, n_head=4, n_emb=64, p_drop_attn=0.0),
    "num_inference_steps": 10,
}


def memorise(steps: int, **changes):
    """A policy trained on one smooth window, that window, and the last loss."""
    policy = tiny_policy(**{**SMALL, **changes}).train()
    batch = random_batch(policy, 1)
    angle = np.linspace(0, 3, 16)
    batch[ACTION] = 0.8 * np.stack([np.sin(angle), np.cos(angle)], axis=-1)[None].astype(np.float32)
    rows = {k: np.repeat(v, 32, axis=0) for k, v in batch.items()}
    optimizer = torch.optim.Adam(policy.optim_groups(5e-3, 0.0))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = policy.loss(rows, policy.draw_training_noise(32, generator))[0].mean()
        loss.backward()
        optimizer.step()
        schedule.step()
    return policy.eval(), batch, float(loss.detach())


@pytest.mark.parametrize("backbone", ["unet", "transformer"])
def test_one_window_is_learned_by_heart(backbone):
    policy, batch, _ = memorise(200 if backbone == "unet" else 250, prediction="x0", backbone=backbone)
    chunk = policy.act({STATE: batch[STATE]}, [(0,)])
    assert np.square(chunk.actions - batch[ACTION]).mean() ** 0.5 < 1e-2


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_noise_and_velocity_are_learned_too(prediction):
    _, _, loss = memorise(150, prediction=prediction)
    assert loss < 0.1


# ----------------------------------------------------------------------------------------- masks and channels


def test_padded_steps_count_only_without_the_mask():
    counted, masked = tiny_policy(), tiny_policy(mask_padding=True)
    batch = random_batch(counted, 4)
    noise = counted.draw_training_noise(4, torch.Generator().manual_seed(0))
    with torch.no_grad():
        errors = counted.loss(batch, noise)[0], masked.loss(batch, noise)[0]
    assert torch.equal(errors[0][1:], errors[1][1:])
    assert not torch.equal(errors[0][0], errors[1][0])
    everything = {**batch, ACTION_IS_PAD: np.ones((4, 16), bool)}
    assert masked.loss(everything, noise)[0].tolist() == [0.0] * 4


def test_the_mask_is_required_when_it_is_used():
    policy = tiny_policy(mask_padding=True)
    batch = random_batch(policy, 2)
    del batch[ACTION_IS_PAD]
    with pytest.raises(InvalidAction, match="mask_padding needs 'action_is_pad'"):
        policy.loss(batch)


def test_padding_channels_influence_neither_loss_nor_the_other_channels():
    kinds = (ChannelKind.EUCLIDEAN, ChannelKind.PADDING)
    policy = tiny_policy(action_space=ActionSpace(2, kinds=kinds))
    obs = {STATE: torch.zeros(2, 2, 3)}
    target = torch.zeros(2, 16, 2)
    noise = policy.draw_training_noise(2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        base = policy.supervised_loss(obs, target, noise=noise)
        loud = {**noise, "eps": noise["eps"] * torch.tensor([1.0, 9.0])}
        assert torch.equal(policy.supervised_loss(obs, target, noise=loud), base)
        ctx, latent = policy.encode(obs), torch.randn(2, 16, 2)
        plain, shaken = policy.decode(ctx, latent), policy.decode(ctx, latent * torch.tensor([1.0, 9.0]))
    assert torch.equal(plain[..., 0], shaken[..., 0])
    assert float(shaken[..., 1].abs().max()) < 1e-5


def test_weights_scale_the_loss_of_their_sample():
    policy = tiny_policy()
    obs, target = {STATE: torch.zeros(2, 2, 3)}, torch.zeros(2, 16, 2)
    noise = policy.draw_training_noise(2)
    with torch.no_grad():
        plain = policy.supervised_loss(obs, target, noise=noise)
        weighted = policy.supervised_loss(obs, target, weight=torch.tensor([0.0, 3.0]), noise=noise)
    torch.testing.assert_close(weighted, plain * torch.tensor([0.0, 3.0]))


@pytest.mark.parametrize("shape", [(2, 16), (2, 15, 2), (2, 16, 3)])
def test_misshapen_actions_are_refused(shape):
    policy = tiny_policy()
    with pytest.raises(InvalidAction, match=r"expected a batch of shape \(B, 16, 2\)"):
        policy.loss({**random_observation(policy, 2), ACTION: np.zeros(shape, np.float32)})


# ------------------------------------------------------------------------------------------------ units, noise


def test_other_units_with_their_own_statistics_change_nothing():
    policy = tiny_policy()
    spec, space = policy.observation_spec, ActionSpace(2)
    tenfold = make_policy(
        policy.config, spec, space, 10.0, {STATE: unit_stats(3, 10.0), ACTION: unit_stats(2, 10.0)}
    ).eval()
    own = tenfold.normalizer.state_dict()
    tenfold.load_state_dict({**policy.state_dict(), **{f"normalizer.{k}": v for k, v in own.items()}})
    obs = random_observation(policy, 3)
    keys = [(i,) for i in range(3)]
    there = tenfold.act({STATE: obs[STATE] * 10}, keys).actions
    np.testing.assert_allclose(there, policy.act(obs, keys).actions * 10, atol=1e-4)


def test_all_randomness_of_a_loss_is_in_the_noise():
    policy = tiny_policy(cameras=CAMERAS).train()
    noise = policy.draw_training_noise(3, torch.Generator().manual_seed(0))
    assert {k: tuple(v.shape) for k, v in noise.items()} == {
        "t": (3,),
        "eps": (3, 16, 2),
        "crop.observation.images.front": (3, 2, 2),
        "crop.observation.images.wrist": (3, 2, 2),
    }
    batch = random_batch(policy, 3)
    one = policy.loss(batch, noise)[0]
    assert torch.equal(one, policy.loss(batch, noise)[0])
    moved = {**noise, "crop.observation.images.front": 1 - noise["crop.observation.images.front"]}
    assert not torch.equal(one, policy.loss(batch, moved)[0])
    policy.eval()
    assert torch.equal(policy.loss(batch, noise)[0], policy.loss(batch, moved)[0])


def test_training_times_cover_all_levels_evenly():
    policy = tiny_policy(num_train_steps=20)
    t = policy.draw_training_noise(20_000, torch.Generator().manual_seed(0))["t"]
    counts = torch.bincount(t, minlength=20)
    assert len(counts) == 20
    assert float((counts - 1000).abs().max()) < 5 * 1000**0.5


# ------------------------------------------------------------------------------------- samplers and capabilities


def test_capabilities_follow_the_sampler():
    policy = tiny_policy()
    assert Cap.DECODE in policy.caps
    policy.set_sampler(sampler="ddpm", num_inference_steps=7)
    assert Cap.DECODE not in policy.caps
    assert policy.tape_len == 6
    policy.set_sampler(sampler="ddim", sampler_options={"eta": 0.0})
    assert policy.caps == tiny_policy().caps
    assert policy.config.num_inference_steps == 7


@pytest.mark.parametrize(
    "changes",
    [{"num_inference_steps": 0}, {"sampler": "dimm"}, {"horizon": 8}, {"sampler_options": {"etta": 1.0}}],
)
def test_impossible_samplers_are_refused(changes):
    with pytest.raises(ConfigError):
        tiny_policy().set_sampler(**changes)


def test_decoding_is_differentiable_in_the_latent():
    policy = tiny_policy(clip=None)
    ctx = policy.encode(random_observation(policy, 1))
    latent = torch.randn(1, 16, 2, requires_grad=True)
    policy.decode(ctx, latent).sum().backward()
    assert float(latent.grad.abs().sum()) > 0


# -------------------------------------------------------------------------------------------- optimiser groups


def test_each_part_of_the_transformer_variant_decays_as_the_paper_says():
    trunk = dataclasses.replace(TINY_ENCODER.image, lr_scale=0.1)
    encoder = EncoderConfig(image=trunk)
    policy = tiny_policy(cameras={"front": (32, 32)}, backbone="transformer", encoder=encoder)
    groups = {g["name"]: (g["lr"], g["weight_decay"]) for g in policy.optim_groups(1e-4, 1e-3)}
    assert groups == {
        "net.0": (1e-4, 1e-3),
        "net.1": (1e-4, 0.0),
        "trunk.observation/images/front": (pytest.approx(1e-5), 1e-6),
        "encoder": (1e-4, 1e-6),
    }


def test_frozen_trunks_are_not_optimised():
    frozen = EncoderConfig(image=ImageEncoderConfig(backbone="tiny_cnn", channels=(16,), frozen=True))
    policy = tiny_policy(cameras={"front": (32, 32)}, encoder=frozen)
    assert [g["name"] for g in policy.optim_groups(1e-4, 1e-6)] == ["net.0", "encoder"]


# --------------------------------------------------------------------------------------------- what it refuses


def test_a_policy_that_does_not_fit_its_data_is_refused():
    stats = {STATE: unit_stats(3), ACTION: unit_stats(2)}
    space = ActionSpace(2)
    cases = [
        (tiny_config(observation_keys=("observation.stat",)), stats, "did you mean 'observation.state'"),
        (tiny_config(), {ACTION: unit_stats(2)}, "no statistics for 'observation.state'"),
        (tiny_config(), {**stats, STATE: unit_stats(4)}, "have 4 channels, expected 3"),
        (tiny_config(normalization={"features": {"observation.stat": "identity"}}), stats, "did you mean"),
        (tiny_config(normalization={"action": "identity"}), {**stats, ACTION: unit_stats(2, 3.0)}, "actions reach 3"),
        (tiny_config(sampler="dimm"), stats, "unknown sampler 'dimm'; did you mean 'ddim'"),
        (tiny_config(sampler_options={"etaa": 0.5}), stats, "does not take these options"),
    ]
    for config, table, words in cases:
        with pytest.raises(ConfigError, match=words):
            make_policy(config, tiny_spec(3), space, 10.0, table)
    with pytest.raises(ConfigError, match="fps must be > 0"):
        make_policy(tiny_config(), tiny_spec(3), space, 0.0, stats)
    with pytest.raises(ConfigError, match="nothing to observe"):
        make_policy(tiny_config(), tiny_spec(0), space, 10.0, stats)
