"""The energy-based head: contract, energies, best of N, step size, replay, decoding options."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from robopolicy.core.errors import ConfigError, PolicyInterfaceError
from robopolicy.core.policy import Cap
from robopolicy.core.specs import ACTION, ActionSpace, ChannelKind, FeatureKind
from robopolicy.policies.ebt_config import EbtConfig, EnergyTransformerConfig, RefineConfig, ReplayConfig
from robopolicy.policies.registry import make_policy, policy_config
from robopolicy.testing.check_policy import check_policy, keys
from robopolicy.testing.tiny import TINY_ENCODER, TINY_UNET, random_batch, random_observation, tiny_spec, unit_stats
from robopolicy.training.config import EMAConfig
from robopolicy.training.ema import EMA

SIZE = EnergyTransformerConfig(n_layer=1, n_obs_layer=1, n_head=2, n_emb=16)
PUBLISHED: dict[str, Any] = {
    "scaling": "exp", "tau": 9.0, "momentum": 0.9, "norm": "sample", "noise_max": 0.2, "noise_min": 0.002,
    "step_jitter": 1.5, "train_steps": 3, "extra_steps": 2, "max_steps": 5,
}  # fmt: skip


def tiny(refine: dict[str, Any] | None = None, cameras=None, space: ActionSpace | None = None, **changes):
    spec, space = tiny_spec(3, cameras), space or ActionSpace(2, low=(-1.0, -1.0), high=(1.0, 1.0))
    stats = {f.key: unit_stats(f.shape[0]) for f in spec.of_kind(FeatureKind.STATE)}
    stats[ACTION] = unit_stats(space.dim)
    options = {"transformer": SIZE, "unet": TINY_UNET, "encoder": TINY_ENCODER, "starts": 3, **changes}
    config = EbtConfig(refine=RefineConfig(**(refine or {})), **options)
    torch.manual_seed(0)
    return make_policy(config, spec, space, 10.0, stats).eval()


def context(policy, rows: int = 4):
    obs = {k: torch.from_numpy(v) for k, v in random_observation(policy, rows).items()}
    with torch.no_grad():
        return policy.encode(obs)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"backbone": "unet", "refine": {"step_size": 100.0}},
        {"objective": "paper", "refine": {**PUBLISHED, "learnable": True}},
        {"objective": "soft_wta", "refine": {"truncate": False}, "cameras": {"front": (16, 16)}},
        {"objective": "infonce"},
        {"refine": {"detach": False, "truncate": False}},
        {"n_samples": 3, "refine": {"noise_max": 0.1, "noise_at_inference": 0.5, "tolerance": 1e-3}},
    ],
)
def test_contract(changes):
    policy = tiny(**changes)
    check_policy(policy)
    policy.train()
    policy.loss(random_batch(policy, 4))[0].mean().backward()
    unused = [n for n, p in policy.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []


def test_capabilities_follow_the_decoder():
    policy = tiny(refine={"noise_max": 0.1})
    assert policy.caps == {Cap.SAMPLE, Cap.TRAIN, Cap.ENERGY, Cap.DECODE}
    assert (policy.tape_len, policy.denoiser_calls) == (0, 3)
    policy.set_sampler(max_steps=5, tolerance=1e-3)
    assert (policy.denoiser_calls, policy.config.max_steps) == (None, 5)
    policy.set_sampler(n_samples=3, noise_at_inference=1.0)
    assert policy.tape_len == 2 + 3 * 5
    assert Cap.DECODE not in policy.caps
    with pytest.raises(ConfigError, match="unknown option steps"):
        policy.set_sampler(steps=3)


def test_steps_of_training():
    """O8: K = 6 .. 10 for six and up to four more; jitter between 1/r and r."""
    drawn = tiny(refine={"train_steps": 6, "extra_steps": 4, "step_jitter": 1.5}).draw_training_noise(500)
    assert set(drawn["steps"].tolist()) == {6, 7, 8, 9, 10}
    assert 1 / 1.5 <= drawn["factors"].min() < 0.7
    assert 1.45 < drawn["factors"].max() <= 1.5


class TestEnergy:
    def test_info_is_the_energy_of_the_chunk(self):
        """O17, for the live and for the averaged weights."""
        policy = tiny(refine={"max_steps": 4, "tolerance": 1e-9})
        ema = EMA(policy.train(), EMAConfig())
        for p in policy.parameters():
            p.data.add_(0.01)
        ema.update()
        ema.update()
        for model in (policy, ema.refresh()):
            obs = random_observation(model, 3)
            chunk = model.act(obs, keys(3))
            ctx = context(model, 3)
            x = model.norm.to_model(torch.from_numpy(chunk.actions))
            assert np.allclose(chunk.info["energy"], model.energy(ctx, x).detach().numpy(), atol=1e-5)
            assert (chunk.info["refinement_steps"] >= 2).all()
            assert (chunk.info["refinement_steps"] <= 4).all()

    def test_refusals_and_modes(self):
        policy = tiny(transformer=EnergyTransformerConfig(n_layer=1, n_obs_layer=1, n_head=2, n_emb=16, dropout=0.5))
        ctx, x = context(policy), torch.randn(4, 16, 2)
        quiet = policy.energy(ctx, x)
        policy.train()
        assert torch.equal(policy.energy(ctx, x), quiet)  # no dropout, and training mode is put back
        assert policy.net.training
        with pytest.raises(PolicyInterfaceError, match="no noise levels"):
            policy.energy(ctx, x, torch.zeros(()))
        with pytest.raises(PolicyInterfaceError, match="repeat the context"):
            policy.energy(ctx, x[:2])

    def test_gradients_at_inference(self):
        """O18."""
        policy, latent = tiny(), torch.randn(4, 16, 2)
        ctx = context(policy)
        with torch.no_grad():
            policy.decode(ctx, latent)
        assert all(p.grad is None for p in policy.parameters())
        with torch.inference_mode(), pytest.raises(PolicyInterfaceError, match="inference_mode"):
            policy.decode(ctx, latent)

    def test_best_of_several_starts(self):
        """O20."""
        policy = tiny(refine={"step_size": 1.0, "max_steps": 1}, clip=None)
        ctx, latent, tape = context(policy), torch.randn(4, 16, 2), torch.randn(4, 5, 16, 2)
        every = [policy.decode(ctx, z) for z in (latent, *tape.unbind(1))]
        energies = torch.stack([policy.energy(ctx, x) for x in every])
        policy.set_sampler(n_samples=6)
        chosen = policy.decode(ctx, latent, tape=tape)
        assert torch.allclose(policy.energy(ctx, chosen), energies.min(0).values, atol=1e-6)
        assert (energies.min(0).values < energies.mean(0)).all()
        assert torch.equal(chosen, policy.decode(ctx, latent, tape=tape))

    def test_padding_channels_do_not_count(self):
        kinds = (ChannelKind.EUCLIDEAN, ChannelKind.EUCLIDEAN, ChannelKind.PADDING)
        policy = tiny(space=ActionSpace(3, kinds=kinds))
        ctx, x = context(policy), torch.randn(4, 16, 3)
        other = x.clone()
        other[..., 2] += 1
        assert torch.equal(policy.energy(ctx, x), policy.energy(ctx, other))
        assert (policy.decode(ctx, x)[..., 2] == 0).all()


class TestTraining:
    def test_learnable_step_size_has_its_own_group(self):
        """O22."""
        policy = tiny(refine={"learnable": True, "step_size": 50.0, "step_size_lr": 3.0})
        groups = {g["name"]: g for g in policy.optim_groups(1e-3, 1e-2)}
        assert groups["step_size"]["weight_decay"] == 0.0
        assert groups["step_size"]["lr"] == pytest.approx(3e-3)
        assert [p is policy.log_step_factor for p in groups["step_size"]["params"]] == [True]
        assert "step_size" not in {g["name"] for g in tiny().optim_groups(1e-3, 1e-2)}
        policy.train().loss(random_batch(policy, 4))[0].mean().backward()
        assert policy.log_step_factor.grad.abs() > 0
        policy.log_step_factor.data.fill_(1e3)
        assert float(policy.step_size.detach()) == pytest.approx(50.0 * 100, rel=1e-4)

    @pytest.mark.parametrize("objective", ["paper", "wta", "soft_wta", "infonce"])
    def test_one_batch_is_learnt(self, objective):
        policy = tiny(objective=objective, refine={"step_size": 100.0}).train()
        batch, noise = random_batch(policy, 4), policy.draw_training_noise(4, torch.Generator().manual_seed(0))
        optimizer = torch.optim.Adam(policy.parameters(), 3e-3)
        losses = []
        for _ in range(40):
            loss = policy.loss(batch, noise)[0].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.7 * losses[0]

    def test_closest_start_is_the_least_loss(self):
        """wta of M starts is the least of the paper's losses of each."""
        policy, paper = tiny(), tiny(objective="paper")
        batch, noise = random_batch(policy, 4), policy.draw_training_noise(4)
        each = [paper.loss(batch, {**noise, "start": noise["start"][:, m : m + 1]})[0] for m in range(3)]
        assert torch.allclose(policy.loss(batch, noise)[0], torch.stack(each).min(0).values, atol=1e-6)

    def test_non_finite_gradient_reaches_the_guard(self):
        """O21: training does not raise; the loss is not finite, so the optimiser's step is skipped."""
        policy = tiny(refine={"step_size": 3e38}).train()
        loss = policy.loss(random_batch(policy, 4))[0].mean()
        loss.backward()
        assert not all(torch.isfinite(p.grad).all() for p in policy.parameters() if p.grad is not None)


class TestReplay:
    def steps(self, policy, count: int, begin: int = 0) -> list[float]:
        policy.train()
        batch = random_batch(policy, 4)
        batch["index"] = np.array([3, 17, 4, 9])
        losses = []
        for step in range(begin, begin + count):
            noise = policy.draw_training_noise(4, torch.Generator().manual_seed(step))
            losses.append(policy.loss(batch, noise)[0].mean())
            losses[-1].backward()
            with torch.no_grad():
                for p in policy.parameters():
                    if p.grad is not None:
                        p -= 0.01 * p.grad
                        p.grad = None
        return [float(x.detach()) for x in losses]

    def test_starts_where_the_last_descent_ended(self):
        policy = tiny(objective="paper", replay=ReplayConfig(capacity=16, probability=1.0))
        first = self.steps(policy, 1)
        assert sorted(policy.replay.owners[policy.replay.owners >= 0].tolist()) == [3, 4, 9, 17]
        kept = policy.replay.chunks[17 % 16].clone()
        rows, wanted = torch.tensor([17, 1]), torch.tensor([True, True])
        got = policy.replay.recall(rows, torch.zeros(2, 16, 2), wanted)
        assert torch.equal(got[0], kept)
        assert (got[1] == 0).all()  # row 1 shares the slot of 17 and must not get its chunk
        plain = tiny(objective="paper")
        assert first == self.steps(plain, 1)
        assert self.steps(policy, 1, begin=1) != self.steps(plain, 1, begin=1)

    def test_resumes_exactly(self):
        whole, half = (tiny(replay=ReplayConfig(capacity=16)) for _ in range(2))
        losses = self.steps(whole, 6)
        self.steps(half, 3)
        resumed = tiny(replay=ReplayConfig(capacity=16))
        resumed.load_state_dict(half.state_dict())
        assert self.steps(resumed, 3, begin=3) == losses[3:]

    def test_evaluation_neither_reads_nor_writes(self):
        policy = tiny(replay=ReplayConfig(capacity=16))
        check_policy(policy)
        assert (policy.replay.owners == -1).all()


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"transformer": {"n_emb": 30}}, "n_emb"),
        ({"starts": 0}, "starts"),
        ({"temperature": 0.0}, "temperature"),
        ({"backbone": "unet", "horizon": 9}, "horizon"),
        ({"refine": {"norm": "batch"}, "n_samples": 2}, "norm=batch"),
        ({"objective": "infonce", "refine": {"detach": False}}, "infonce"),
        ({"replay": {"probability": 0.0}}, "replay"),
    ],
)
def test_impossible_options(changes, word):
    with pytest.raises(ConfigError, match=word):
        policy_config({"type": "ebt", **changes})
