"""3D Diffuser Actor: the contract in all its forms, published schedules and losses, invariants, and two toys."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from robopolicy.core.errors import ConfigError
from robopolicy.core.policy import Cap
from robopolicy.core.specs import ACTION, DEPTH, IMAGES, STATE, TASK, ActionSpace, FeatureStats
from robopolicy.encoders.config import EncoderConfig, LanguageConfig, SceneConfig
from robopolicy.nets.diffuser_actor import ActorSizes, PoseDenoiser, SceneReader, part_counts
from robopolicy.policies.base import Policy
from robopolicy.policies.diffuser_actor_3d_config import DiffuserActor3dConfig
from robopolicy.policies.pose_layout import PoseLayout
from robopolicy.policies.poses import matrix_of_quaternion
from robopolicy.policies.registry import make_policy, policy_config
from robopolicy.resources import resource
from robopolicy.testing.check_policy import check_policy
from robopolicy.testing.tiny import random_batch, random_observation, tiny_spec, unit_stats

KEYS = (STATE, IMAGES + "front", DEPTH + "front")
SENTENCES = ("lift the cube", "push the puck away")
QUATERNION = PoseLayout(rotation="quat_wxyz", rotation_channels=(3, 4, 5, 6), gripper=7)


def tiny_config(**changes: Any) -> DiffuserActor3dConfig:
    small: dict[str, Any] = {
        "n_obs_steps": 2,
        "horizon": 4,
        "n_action_steps": 2,
        "observation_keys": KEYS,
        "scene": SceneConfig(backbone="tiny", stride=4, channels=(8, 8)),
        "encoder": EncoderConfig(language=LanguageConfig(vocabulary=SENTENCES, dim=8)),
        "embed_dim": 48,
        "history_layers": 1,
        "cross_layers": 1,
        "self_layers": 1,
        "branch_layers": 1,
        "scene_layers": 1,
        "num_inference_steps": 4,
    }
    return DiffuserActor3dConfig(**{**small, **changes})


def tiny_actor(language: bool = False, moving: bool = False, seed: int = 0, **changes: Any) -> Policy:
    """A seeded actor in evaluation mode, every weight off its zero start."""
    size = {"front": (16, 16)}
    spec = tiny_spec(3, size, size, moving=("front",) if moving else ())
    config = tiny_config(**({"observation_keys": (*KEYS, TASK)} if language else {}) | changes)
    dim = len(config.pose.channels)
    stats = {STATE: unit_stats(3), ACTION: unit_stats(dim)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        space = ActionSpace(dim, low=(-9.0,) * dim, high=(9.0,) * dim)
        policy = make_policy(config, spec, space, 10.0, stats).eval()
        for p in policy.parameters():
            p.data += 0.05 * torch.randn_like(p)
    return policy


def tensors(obs: dict[str, np.ndarray]) -> dict[str, Any]:
    return {k: v if v.dtype == object else torch.from_numpy(v) for k, v in obs.items()}


# ---------------------------------------------------------------------------------------------------- the contract

FORMS = {
    "trajectory": {},
    "keypose": {"mode": "keypose"},
    "language": {"language": True, "lang_cross": True},
    "keypose_language_unmasked": {"mode": "keypose", "language": True, "mask_text": False},
    "relative_ddpm": {"relative": True, "sampler": "ddpm", "use_state": True, "place_tokens": True},
    "quaternion_moving_camera": {"pose": QUATERNION, "moving": True, "gripper_round": False},
    "rescaled": {"rescale": (0.75, 1.25)},
    "no_gripper_no_rotation": {"pose": PoseLayout(rotation="none", rotation_channels=(), gripper=None)},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_contract_holds(form):
    check_policy(tiny_actor(**FORMS[form]))


def test_what_it_can_do():
    policy = tiny_actor()
    assert policy.caps == {Cap.SAMPLE, Cap.SCORE, Cap.TRAIN, Cap.DECODE}
    assert policy.latent_shape == (4, 9)
    policy.set_sampler(sampler="ddpm", num_inference_steps=100)
    assert policy.caps == {Cap.SAMPLE, Cap.SCORE, Cap.TRAIN}
    key = tiny_actor(mode="keypose")
    assert key.latent_shape == (1, 9)
    assert key.needs.keyposes
    assert not policy.needs.keyposes


def test_a_key_pose_is_commanded_at_every_step():
    policy = tiny_actor(mode="keypose")
    actions = policy.act(random_observation(policy, 3)).actions
    assert (actions == actions[:, :1]).all()
    assert len(np.unique(actions[:, 0, 0])) == 3


def test_key_poses_learn_from_the_windows_one_action():
    policy = tiny_actor(mode="keypose")
    batch = random_batch(policy, 3)
    noise = policy.draw_training_noise(3, torch.Generator().manual_seed(0))
    assert noise["eps"].shape == (3, 1, 9)
    batch[ACTION][:] = batch[ACTION][:, -1:]
    loss = policy.loss(batch, noise)[0]
    batch[ACTION][:, 0] += 0.5  # no step of the window but the last is read
    torch.testing.assert_close(policy.loss(batch, noise)[0], loss)


# ------------------------------------------------------------------------------------------- published numbers

ABAR = [
    (100, "scaled_linear", (0.999900, 0.891545, 0.484590)),
    (100, "squaredcos_cap_v2", (0.999369, 0.478265, 0.0)),
    (25, "scaled_linear", (0.999900, 0.971040, 0.832410)),
    (25, "squaredcos_cap_v2", (0.994570, 0.462707, 4e-6)),
]


@pytest.mark.parametrize(("steps", "schedule", "want"), ABAR)
def test_schedules(steps, schedule, want):
    policy = tiny_actor(denoise_steps=steps, pos_schedule=schedule)
    alpha = policy.path.alpha(torch.tensor([0, steps // 2, steps - 1])).double()
    assert (alpha[:, 0] ** 2).tolist() == pytest.approx(want, abs=1e-6)
    rotation = next(w for t, s, w in ABAR if (t, s) == (steps, "squaredcos_cap_v2"))
    assert (alpha[:, 3] ** 2).tolist() == pytest.approx(rotation, abs=1e-6)
    assert bool((alpha[:, :3] == alpha[:, :1]).all())
    assert bool((alpha[:, 3:] == alpha[:, 3:4]).all())


def test_the_loss_of_a_network_that_says_nothing():
    """40 sqrt(2 / pi) + ln 2 = 32.61; a fresh network says a little more (32 to 36)."""
    policy = tiny_actor()
    batch, noise = random_batch(policy, 8), policy.draw_training_noise(512, torch.Generator().manual_seed(0))
    batch = {k: np.concatenate([v] * 64) for k, v in batch.items()}
    for out in (policy.net.position_out, policy.net.rotation_out, policy.net.gripper_out):
        torch.nn.init.zeros_(out[-1].weight)
        torch.nn.init.zeros_(out[-1].bias)
    with torch.no_grad():
        silent = float(policy.loss(batch, noise)[0].mean())
    assert silent == pytest.approx(40 * math.sqrt(2 / math.pi) + math.log(2), abs=0.5)
    torch.manual_seed(0)
    fresh = make_policy(tiny_config(), tiny_spec(3, {"front": (16, 16)}, {"front": (16, 16)}), ActionSpace(5), 10.0,
                        {STATE: unit_stats(3), ACTION: unit_stats(5)}).eval()  # fmt: skip
    with torch.no_grad():
        assert 32 < float(fresh.loss(batch, noise)[0].mean()) < 36


def test_the_loss_is_weighted_by_part_and_masked_by_step():
    batch = random_batch(tiny_actor(), 4)
    whole = tiny_actor(mask_padding=True)
    noise = whole.draw_training_noise(4, torch.Generator().manual_seed(0))
    parts = [tiny_actor(mask_padding=True, loss_weights=w) for w in ((1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0))]
    with torch.no_grad():
        position, rotation, gripper = (p.loss(batch, noise)[0] for p in parts)
        torch.testing.assert_close(whole.loss(batch, noise)[0], 30 * position + 10 * rotation + gripper)
        before = parts[2].loss(batch, noise)[0]
        batch[ACTION][0, -1, 4] = -batch[ACTION][0, -1, 4]  # the padded step: its gripper is not counted
        torch.testing.assert_close(parts[2].loss(batch, noise)[0], before)


# ------------------------------------------------------------------------------------------------------ invariants


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_sampled_poses_stay_in_the_workspace(sampler):
    low, high = (-0.3, 0.1, 0.2), (0.5, 0.4, 0.9)
    policy = tiny_actor(pose=QUATERNION, bounds=(low, high), sampler=sampler, gripper_round=False)
    ctx = policy.encode(tensors(random_observation(policy, 2))).repeat_interleave(20)
    latent, tape = policy.draw_latents(40, torch.Generator().manual_seed(0))
    with torch.no_grad():
        action = policy.norm.to_phys(policy.decode(ctx, 10 * latent, tape=tape))
    xyz = action[..., :3]
    assert bool((xyz >= torch.tensor(low) - 1e-5).all())
    assert bool((xyz <= torch.tensor(high) + 1e-5).all())
    assert float((xyz.amax((0, 1)) - xyz.amin((0, 1))).min()) > 0.05  # and they are not all one
    torch.testing.assert_close(action[..., 3:7].norm(dim=-1), torch.ones(40, 4))
    openings = (action[..., 7] + 1) / 2
    assert 0 < float(openings.min()) < float(openings.max()) < 1


def test_samples_of_one_encoding_equal_separate_calls():
    policy = tiny_actor()
    obs = tensors(random_observation(policy, 1))
    latent, _ = policy.draw_latents(4, torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = policy.decode(policy.encode(obs).repeat_interleave(4), latent)
        alone = torch.cat([policy.decode(policy.encode(obs), latent[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_relative_actors_ignore_where_the_world_lies():
    """Moving camera, gripper and actions together changes no relative loss, and moves the actions along."""
    policy = tiny_actor(relative=True)
    batch = random_batch(policy, 3)
    noise = policy.draw_training_noise(3, torch.Generator().manual_seed(0))
    keys = [(0, i) for i in range(3)]
    with torch.no_grad():
        before, chunk = policy.loss(batch, noise)[0], policy.act(batch, keys).actions
        shift = np.array([0.2, -0.1, 0.3], np.float32)
        batch[STATE] = batch[STATE] + shift
        batch[ACTION] = batch[ACTION] + np.array([*shift, 0, 0], np.float32)
        policy.calibrate(shifted_camera(policy, shift))
        torch.testing.assert_close(policy.loss(batch, noise)[0], before, atol=1e-3, rtol=1e-4)
        moved = policy.act(batch, keys).actions
    np.testing.assert_allclose(moved, chunk + np.array([*shift, 0, 0], np.float32), atol=1e-3)


def test_rescaling_is_drawn_with_the_noise_and_only_trains():
    """Oracle O19: a loss of two halves is that of the whole, evaluation sees pictures as they are."""
    plain, policy = tiny_actor(), tiny_actor(rescale=(0.75, 1.25))
    batch = random_batch(policy, 4)
    draws = policy.draw_training_noise(4, torch.Generator().manual_seed(0))
    assert draws["rescale"].shape == (4, 3)
    common = plain.draw_training_noise(4, torch.Generator().manual_seed(0))
    assert "rescale" not in common
    assert all(torch.equal(common[k], draws[k]) for k in common)
    with torch.no_grad():
        torch.testing.assert_close(policy.loss(batch, draws)[0], plain.loss(batch, common)[0])
        for p in (plain, policy):
            p.train()
            p.reader.eval()  # no dropout
            p.net.eval()
        whole = policy.loss(batch, draws)[0]
        assert float((whole - plain.loss(batch, common)[0]).abs().min()) > 1e-4
        halves = [
            policy.loss({k: v[i : i + 2] for k, v in batch.items()}, {k: v[i : i + 2] for k, v in draws.items()})[0]
            for i in (0, 2)
        ]
        torch.testing.assert_close(torch.cat(halves), whole, atol=1e-4, rtol=1e-5)
        other = {**draws, "rescale": torch.full((4, 3), 0.5)}  # the factor 1
        torch.testing.assert_close(policy.loss(batch, other)[0], plain.loss(batch, common)[0])
    keys = [(0, i) for i in range(4)]
    obs = random_observation(policy, 4)
    assert np.array_equal(policy.act(obs, keys).actions, plain.act(obs, keys).actions)


def shifted_camera(policy: Policy, shift: np.ndarray) -> Any:
    """The policy's observation spec with every depth camera moved by ``shift`` metres."""
    features = []
    for f in policy.observation_spec.features:
        if f.key.startswith(DEPTH):
            pose = np.array(f.camera.extrinsics).reshape(4, 4)
            pose[:3, 3] += shift
            f = dataclasses.replace(f, camera=dataclasses.replace(f.camera, extrinsics=tuple(pose.ravel().tolist())))
        features.append(f)
    return dataclasses.replace(policy.observation_spec, features=tuple(features))


def test_gradients_reach_the_pictures_not_the_places():
    policy = tiny_actor(moving=True).train()
    batch = tensors(random_batch(policy, 2))
    pictures = batch[IMAGES + "front"].float() / 255
    obs = {**batch, IMAGES + "front": pictures}
    checked = policy.checker.check({k: obs[k] for k in policy.observation_spec.keys})
    checked = {k: v.clone().requires_grad_(v.is_floating_point()) for k, v in checked.items()}
    features = policy._encode(checked)
    loss = policy.head_loss(features, policy.norm.to_model(batch[ACTION]), None, policy.draw_training_noise(2)).sum()
    loss.backward()
    assert checked[DEPTH + "front"].grad is None or not checked[DEPTH + "front"].grad.any()
    assert bool(checked[IMAGES + "front"].grad.any())
    assert any(bool(p.grad.any()) for p in policy.encoder.scene.parameters() if p.grad is not None)


def test_constant_channels_come_back_exactly():
    spec = tiny_spec(3, {"front": (16, 16)}, {"front": (16, 16)})
    low, high = (-1.0, -1.0, 0.3, 0.1, 0.0), (1.0, 1.0, 0.3, 0.1, 0.0)
    stats = {STATE: unit_stats(3), ACTION: FeatureStats(low, high, low, high, 100)}
    policy = make_policy(tiny_config(), spec, ActionSpace(5), 10.0, stats).eval()
    actions = policy.act(random_observation(policy, 2)).actions
    np.testing.assert_allclose(actions[..., 2:], np.broadcast_to((0.3, 0.1, 0.0), (2, 4, 3)), atol=1e-6)


def test_biases_do_not_decay_and_norms_do():
    groups = {g["name"]: g for g in tiny_actor().optim_groups(1e-3, 5e-4)}
    assert {n: g["weight_decay"] for n, g in groups.items()} == {
        **dict.fromkeys(("encoder", "reader", "net"), 5e-4),
        **dict.fromkeys(("encoder.biases", "reader.biases", "net.biases"), 0.0),
    }
    policy = tiny_actor()
    decayed = {id(p) for p in policy.optim_groups(1e-3, 1e-4)[-2]["params"]}
    assert id(policy.net.cross[0].attend.norm.weight) in decayed
    assert id(policy.net.cross[0].attend.norm.bias) not in decayed


# --------------------------------------------------------------------------------------------------- bad settings

BAD = [
    ({"position_key": "observation.tcp"}, "not observed"),
    ({"position_channels": (0, 1, 7)}, "has no channels"),
    ({"pose": QUATERNION, "dim": 5}, "5 channels"),
    ({"observation_keys": (STATE, IMAGES + "front")}, "no depth camera"),
    ({"observation_keys": (STATE, DEPTH + "front")}, "no colour picture"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_settings_that_do_not_fit_the_data_are_refused(changes, message):
    changes = dict(changes)
    dim = changes.pop("dim", 5)
    size = {"front": (16, 16)}
    stats = {STATE: unit_stats(3), ACTION: unit_stats(dim)}
    with pytest.raises(ConfigError, match=message):
        make_policy(tiny_config(**changes), tiny_spec(3, size, size), ActionSpace(dim), 10.0, stats)


def test_pictures_without_depth_are_refused():
    spec = tiny_spec(3, {"front": (16, 16), "wrist": (16, 16)}, {"front": (16, 16)})
    stats = {STATE: unit_stats(3), ACTION: unit_stats(5)}
    with pytest.raises(ConfigError, match=r"images\.wrist has no depth"):
        make_policy(tiny_config(observation_keys=None), spec, ActionSpace(5), 10.0, stats)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dim": 60, "heads": 8}, "embed_dim"),
        ({"embed_dim": 120, "heads": 8}, "straddle"),
        ({"lang_cross": True}, "add task"),
        ({"num_inference_steps": 200}, "denoise_steps"),
        ({"loss_weights": (-1.0, 0, 0)}, "loss_weights"),
        ({"bounds": ((0, 0, 0), (1, 1, 0))}, "lowest corner"),
        ({"fps_factor": 0}, "fps_factor"),
        ({"rescale": (1.25, 0.75)}, "rescale"),
        ({"rotary_base": 1.0}, "rotary_base"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        tiny_actor(**changes)


# ------------------------------------------------------------------------------------------------------------ toys


def learn(policy: Policy, batch: dict[str, np.ndarray], steps: int, lr: float = 2e-3) -> list[float]:
    """Losses of ``steps`` Adam steps, learning rate falling to zero."""
    policy.train()
    optimizer = torch.optim.Adam(policy.parameters(), lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1 - i / steps)
    generator, losses = torch.Generator().manual_seed(0), []
    for _ in range(steps):
        loss = policy.loss(batch, policy.draw_training_noise(len(batch[ACTION]), generator))[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    policy.eval()
    return losses


def repeated(rows: dict[str, np.ndarray], times: int) -> dict[str, np.ndarray]:
    return {k: np.concatenate([v] * times) for k, v in rows.items()}


@pytest.mark.slow
def test_overfits_one_pose():
    """The loss falls below a tenth, and the paper's sampler returns the pose within 1 cm and 2 degrees."""
    torch.manual_seed(0)
    policy = tiny_actor(mode="keypose", pose=QUATERNION, bounds=((0.0, -0.5, 0.1), (0.6, 0.1, 0.7)))
    batch = random_batch(policy, 1)
    target = np.array([0.3, -0.2, 0.4, 0.6, 0.0, 0.8, 0.0, 1.0], np.float32)
    batch[ACTION][:] = target
    losses = learn(policy, repeated(batch, 64), 600, 3e-3)
    assert np.mean(losses[-20:]) < 0.1 * losses[0]
    policy.set_sampler(sampler="ddpm", num_inference_steps=100)
    actions = torch.from_numpy(policy.act(repeated(batch, 8)).actions[:, 0])
    assert float((actions[:, :3] - torch.from_numpy(target[:3])).norm(dim=-1).max()) < 0.01
    found, want = matrix_of_quaternion(actions[:, 3:7]), matrix_of_quaternion(torch.from_numpy(target[3:7]))
    trace = (found * want).sum((-1, -2))
    assert float(torch.rad2deg(torch.arccos(((trace - 1) / 2).clamp(-1, 1))).max()) < 2
    assert bool((actions[:, 7] == 1).all())


@pytest.mark.slow
def test_two_ways_to_do_it_are_both_kept():
    """Half of the demonstrations go left, half right: samples do both, regression goes between, where nobody went."""
    torch.manual_seed(0)
    layout = PoseLayout(rotation="none", rotation_channels=(), gripper=None)
    policy = tiny_actor(mode="keypose", pose=layout, pos_schedule="squaredcos_cap_v2", num_inference_steps=20)
    batch = repeated(random_batch(policy, 1), 64)
    side = np.where(np.arange(64) % 2, 0.5, -0.5).astype(np.float32)
    batch[ACTION][:] = 0.0
    batch[ACTION][..., 0] = side[:, None]
    learn(policy, batch, 600, 3e-3)
    assert both_sides(policy.act(repeated(random_batch(policy, 1), 100)).actions[:, 0, 0])
    assert not both_sides(regression(policy, batch, torch.from_numpy(side)))


def both_sides(x: np.ndarray) -> bool:
    """At least a quarter of the answers at each target and (almost) none between them."""
    left, right, between = np.abs(x + 0.5) < 0.15, np.abs(x - 0.5) < 0.15, np.abs(x) < 0.15
    return bool(left.mean() >= 0.25 and right.mean() >= 0.25 and between.mean() < 0.05)


def regression(policy: Policy, batch: dict[str, np.ndarray], side: Tensor) -> np.ndarray:
    """Answers of a head on the same features that learned by squared error."""
    torch.manual_seed(0)
    obs = {k: batch[k] for k in policy.observation_spec.keys}
    with torch.no_grad():
        seen = policy.encode(tensors(obs)).extras["history"]
    head = torch.nn.Sequential(torch.nn.Linear(48, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        (head(seen).squeeze(-1) - side).square().mean().backward()
        optimizer.step()
    return head(seen).detach().squeeze(-1).numpy()


# ------------------------------------------------------------------------------------------------ the paper's sizes

PAPER = yaml.safe_load(resource("policies/diffuser_actor_3d/paper.yaml").read_text())
PYRAMID = {120: 1_117_680, 192: 2_410_368}  # held by the scene encoder's tests


@pytest.mark.parametrize("name", PAPER["variants"])
def test_paper_variants_are_valid_and_have_the_published_sizes(name):
    variant = PAPER["variants"][name]
    config = policy_config(variant["policy"])
    sizes = ActorSizes(
        dim=config.embed_dim,
        num_history=config.n_obs_steps,
        text_dim=512,
        text_in_blocks=config.lang_cross,
        parity=config.parity,
    )
    counts = part_counts(SceneReader(sizes), PoseDenoiser(sizes))
    counts = {**counts, "total": sum(counts.values()) + PYRAMID[config.embed_dim]}
    assert {k: counts[k] for k in variant["parameters"]} == variant["parameters"]
