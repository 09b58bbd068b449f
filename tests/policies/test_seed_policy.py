"""SeedPolicy: sizes, chains in training, memories in use, and what a memory is for (section 10 of the spec)."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from robopolicy.core.errors import ConfigError, InvalidAction
from robopolicy.core.needs import WindowNeeds
from robopolicy.core.specs import ACTION, ACTION_IS_PAD, CHAIN_IS_PAD, STATE, ActionSpace
from robopolicy.encoders.config import EncoderConfig, TemporalConfig
from robopolicy.encoders.memory import Memory
from robopolicy.encoders.sega import Step
from robopolicy.evaluation.checks import check_stride
from robopolicy.policies.base import Policy
from robopolicy.policies.registry import make_policy, policy_config
from robopolicy.resources import resource
from robopolicy.testing.check_policy import RULES, check_policy
from robopolicy.testing.tiny import TINY_TRANSFORMER, TINY_UNET, random_observation, tiny_spec, unit_stats
from robopolicy.training.validation import OpenLoop

PAPER = yaml.safe_load(resource("policies/seed_policy/paper.yaml").read_text())
TINY_CAMERA = {"backbone": "tiny_cnn", "channels": [8], "num_keypoints": 4, "feature_dim": 8}
MEMORY = TemporalConfig(num_state=4, dim=16, depth=1, heads=2, max_chain=5)
CHAIN = 5


def build(head: str = "seed_policy", cameras=None, memory: TemporalConfig | None = MEMORY, seed=0, **changes) -> Policy:
    """A seeded tiny policy of any head, with a memory, in evaluation mode."""
    small = {"n_obs_steps": 3, "horizon": 8, "n_action_steps": 4}
    if head != "ebt":
        small |= {"backbone": "unet", "unet": TINY_UNET, "transformer": TINY_TRANSFORMER, "num_inference_steps": 3}
    encoder = EncoderConfig(image=TINY_CAMERA, temporal=memory)
    config = policy_config({"type": head, "encoder": encoder, **small, **changes})
    stats = {STATE: unit_stats(3), ACTION: unit_stats(2)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        space = ActionSpace(2, low=(-1.0, -1.0), high=(1.0, 1.0))
        return make_policy(config, tiny_spec(3, cameras), space, 10.0, stats).eval()


def chains(policy: Policy, rows: int, length: int = CHAIN, seed: int = 0) -> dict[str, np.ndarray]:
    """A random chained batch ``(rows, length, ...)`` without padding."""
    rng = np.random.default_rng(seed)
    flat = random_observation(policy, rows * length, seed)
    batch = {k: v.reshape(rows, length, *v.shape[1:]) for k, v in flat.items()}
    layout = (rows, length, policy.action_spec.horizon)
    batch[ACTION] = rng.uniform(-1, 1, (*layout, policy.action_spec.dim)).astype(np.float32)
    return batch | {ACTION_IS_PAD: np.zeros(layout, bool), CHAIN_IS_PAD: np.zeros((rows, length), bool)}


def noise_of(policy: Policy, rows: int, seed: int = 0) -> dict[str, torch.Tensor]:
    return policy.draw_training_noise(rows, torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("name", PAPER["variants"])
def test_every_part_has_the_published_number_of_parameters(name):  # O15
    variant = PAPER["variants"][name]
    cameras = {"head": tuple(variant["observation"]["cameras"][0])}
    stats = {STATE: unit_stats(14), ACTION: unit_stats(14)}
    with torch.device("meta"):
        policy = make_policy(policy_config(variant["policy"]), tiny_spec(14, cameras), ActionSpace(14), 10.0, stats)
    sizes = {n: p.numel() for n, p in policy.named_parameters()}
    state = sizes["encoder.temporal.sega.initial"] + sizes["encoder.temporal.sega.positions"]
    recurrence = sum(v for n, v in sizes.items() if n.startswith("encoder.temporal")) - state
    encoder = sum(v for n, v in sizes.items() if n.startswith("encoder."))
    assert variant["parts"] == {
        "observation": encoder - recurrence - state,
        "recurrence": recurrence,
        "state": state,
        "total": sum(sizes.values()),
    }
    assert policy.needs == WindowNeeds(chain_stride=6, max_chain=40)


def test_the_executed_actions_begin_at_the_newest_observation():  # O16
    policy = build(backbone="transformer", horizon=9, n_action_steps=6)
    assert (policy.action_spec.exec_start, policy.action_spec.exec_slice) == (2, slice(2, 8))


def test_a_seed_policy_without_a_memory_is_refused():
    with pytest.raises(ConfigError, match="plain Diffusion Policy"):
        build(memory=None)


# -------------------------------------------------------------------------------------------------- the contract

VARIANTS = {
    "unet": {},
    "transformer": {"backbone": "transformer", "horizon": 9, "n_action_steps": 6},
    "image": {"cameras": {"front": (16, 16)}, "prediction": "x0"},
    "papers": {"memory": TemporalConfig(2, 16, 1, 2, max_chain=3, state_pos=True, frame_pos=False, proj_hidden=8)},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_contract_holds(variant):  # O1, O4, O5, O11, O17
    assert check_policy(build(**VARIANTS[variant])) == list(RULES)


def test_a_memory_that_leaks_is_found():
    policy = build()
    policy.memories.forget = lambda episodes=None: None
    with pytest.raises(AssertionError, match="memory: after reset"):
        check_policy(policy, ["memory"])


# ------------------------------------------------------------------------------------------------------ training


def stepwise(policy: Policy, batch: dict, noise: dict) -> torch.Tensor:
    """The losses ``(B, C)`` of a chained batch, window by window with a carried state."""
    memory, losses = None, []
    for c in range(batch[ACTION].shape[1]):
        features = policy.encode({STATE: torch.from_numpy(batch[STATE][:, c])}, memory)
        target = policy.norm.to_model(torch.from_numpy(batch[ACTION][:, c]))
        losses.append(policy.head_loss(features, target, None, {k: v[:, c] for k, v in noise.items()}))
        memory = Memory(features.extras["memory"], torch.zeros(len(target), dtype=torch.bool))
    return torch.stack(losses, 1)


@torch.no_grad()
def test_a_chain_in_training_is_the_recurrence_step_by_step():  # O5, O14
    policy, noise = build(), noise_of(build(), 3)
    batch = chains(policy, 3)
    losses = stepwise(policy, batch, noise)
    whole, scalars = policy.loss(batch, noise)
    torch.testing.assert_close(whole, losses.mean(1), atol=1e-6, rtol=1e-6)
    assert abs(float(scalars["gate_mean"]) - 0.12) < 0.1
    assert {"gate_std", "gate_open", "gate_shut"} <= set(scalars)
    batch[CHAIN_IS_PAD][0, 2:] = True  # the first chain has two windows
    expected = torch.stack([losses[0, :2].mean(), *losses[1:].mean(1)])
    torch.testing.assert_close(policy.loss(batch, noise)[0], expected, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_padding_windows_count_nowhere():
    policy = build(mask_padding=True)
    batch, noise = chains(policy, 2), noise_of(policy, 2)
    batch[CHAIN_IS_PAD][:, 3:] = True
    batch[ACTION_IS_PAD][0, 2, 5:] = True  # a window that ends beyond its episode stays real
    before, scalars = policy.loss(batch, noise)
    batch[STATE][:, 3:] = 0.5
    batch[ACTION][:, 3:] = -0.5
    after, again = policy.loss(batch, noise)
    assert torch.equal(before, after)
    assert all(torch.equal(scalars[k], again[k]) for k in scalars)


@torch.no_grad()
def test_a_plain_batch_is_chains_of_one_window():
    policy = build()
    batch, noise = chains(policy, 3), noise_of(policy, 3)
    plain = {k: v[:, 0] for k, v in batch.items() if k != CHAIN_IS_PAD}
    single = {k: v[:, :1] for k, v in batch.items()}
    torch.testing.assert_close(policy.loss(plain, noise)[0], policy.loss(single, noise)[0])


def test_noise_covers_the_longest_chain_and_longer_ones_are_refused():
    policy = build(cameras={"front": (16, 16)})
    noise = noise_of(policy, 2)
    assert {k: tuple(v.shape[:2]) for k, v in noise.items()} == dict.fromkeys(noise, (2, CHAIN))
    with pytest.raises(InvalidAction, match=r"raise encoder\.temporal\.max_chain"):
        policy.loss(chains(policy, 2, CHAIN + 1), noise)
    with pytest.raises(InvalidAction, match="expected a batch of shape"):
        build("diffusion", memory=None).loss(chains(policy, 2))


def test_the_same_seed_trains_to_the_same_losses():  # O21
    def curve() -> list[float]:
        policy = build().train()
        optimizer = torch.optim.Adam(policy.optim_groups(1e-3, 0.0))
        losses = []
        for step in range(3):
            loss = policy.loss(chains(policy, 4, seed=step), noise_of(policy, 4, step))[0].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    assert curve() == curve()


def test_truncation_keeps_the_first_state_from_later_windows():
    grads = []
    for tbptt in (1, None):
        policy = build(memory=TemporalConfig(4, 16, 1, 2, max_chain=2, tbptt=tbptt))
        batch = chains(policy, 2, 2)
        batch[CHAIN_IS_PAD][:, 0] = True  # only the second window has a loss
        policy.loss(batch, noise_of(policy, 2))[0].sum().backward()
        grads.append(float(policy.encoder.temporal.sega.initial.grad.abs().sum()))
    assert grads[0] == 0.0 < grads[1]


# --------------------------------------------------------------------------------------------------- in use


def test_without_the_recurrence_it_is_diffusion_policy():  # O20
    seed, plain = build(), build("diffusion", memory=None)
    seed.encoder.project = torch.nn.Identity()
    seed.encoder.temporal.forward = lambda tokens, memory, chain: Step(
        tokens, torch.zeros(len(tokens), 4, 16), torch.ones(len(tokens), 4)
    )
    net = build("diffusion", memory=None, seed=3).net
    seed.net = plain.net = net
    obs = random_observation(plain, 3)
    keys = [(1, row) for row in range(3)]
    assert np.array_equal(seed.act(obs, keys).actions, plain.act(obs, keys).actions)
    batch, noise = chains(plain, 2, 1), {"t": torch.tensor([[3], [7]]), "eps": torch.randn(2, 1, 8, 2)}
    flat = {k: v[:, 0] for k, v in batch.items()}
    with torch.no_grad():
        expected = plain.loss(flat, {k: v[:, 0] for k, v in noise.items()})[0]
        torch.testing.assert_close(seed.loss(batch, noise)[0], expected)


def test_the_memory_follows_the_model_to_another_precision():
    policy = build()
    obs = random_observation(policy, 2)
    policy.act(obs)
    twin = copy.deepcopy(policy).double()
    assert twin.blank_memory().dtype == torch.float64
    with torch.no_grad():
        wide = {k: torch.from_numpy(v) for k, v in obs.items()}
        recalled = twin._recall(2, None)
        assert recalled.state.dtype == torch.float64
        assert not bool(recalled.fresh.any())
        tokens = twin.encoder.project(twin.normalizer.to_model(STATE, wide[STATE].double()))
        assert twin.encoder.temporal(tokens, recalled).state.dtype == torch.float64


def test_what_is_carried_does_not_grow_with_the_episode():  # O1
    policy = build()
    policy.set_sampler(num_inference_steps=1)
    obs, sizes = random_observation(policy, 2), []
    for plan in range(200):
        policy.act(obs, [(plan, 0), (plan, 1)])
        if plan + 1 in (10, 200):
            states = policy.memories.gather([0, 1], policy.blank_memory()).state
            sizes.append((len(policy.memories), states.shape, states.untyped_storage().nbytes()))
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("steps", [16, 64])
def test_long_observation_windows(steps):
    policy = build(n_obs_steps=steps, horizon=steps + 8, n_action_steps=4, backbone="transformer")
    assert policy.act(random_observation(policy, 2)).executable.shape == (2, 4, 2)
    assert policy.loss(chains(policy, 2, 2), noise_of(policy, 2))[0].shape == (2,)


def test_another_number_of_executed_actions_is_refused():
    policy = build()
    check_stride(policy)
    check_stride(build("diffusion", memory=None))
    odd = SimpleNamespace(recurrent=True, needs=policy.needs, action_spec=SimpleNamespace(n_action_steps=2))
    with pytest.raises(ConfigError, match="steps once every 4 actions"):
        check_stride(odd)


def test_validation_acts_through_whole_chains():
    policy = build()
    data = chains(policy, 4)
    data[CHAIN_IS_PAD][1, 3:] = True
    source = type(
        "Source", (), {"__len__": lambda _: 4, "gather": lambda _, rows: {k: v[rows] for k, v in data.items()}}
    )()
    scalars = OpenLoop(source, count=4, seed=3)(policy)
    assert not len(policy.memories)
    errors = []
    for row in range(4):
        policy.reset()
        for c in range(3 if row == 1 else CHAIN):
            chunk = policy.act({STATE: data[STATE][row : row + 1, c]}, [(3, row, c)])
            errors.append(np.abs(chunk.actions[0] - data[ACTION][row, c])[policy.action_spec.exec_slice].mean())
    assert scalars["action_error"] == pytest.approx(np.mean(errors), rel=1e-4)
    assert 0 < scalars["gate_mean"] < 1


# ------------------------------------------------------------------------------------------------ what it is for


def cued(rows: int, length: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Chains whose action is, in the last window, the sign shown in the first; other windows ask for 0."""
    sign = rng.choice([-1.0, 1.0], (rows, 1, 1)).astype(np.float32)
    state = (rng.uniform(-1, 1, (rows, length, 3, 3)) * [1.0, 1.0, 0.0]).astype(np.float32)
    state[:, 0, :, 0], state[:, 0, :, 2] = sign[..., 0], 1.0  # the third channel says: this is the sign
    state[:, -1, :, 2] = -1.0
    action = np.zeros((rows, length, 8, 2), np.float32)
    action[:, -1] = 0.8 * sign
    return {STATE: state, ACTION: action, CHAIN_IS_PAD: np.zeros((rows, length), bool)}


def recall_accuracy(policy: Policy, batch: dict) -> float:
    policy.reset()
    for c in range(batch[STATE].shape[1]):
        keys = [(row, c) for row in range(len(batch[STATE]))]
        chunk = policy.act({STATE: batch[STATE][:, c]}, keys)
    wanted = batch[ACTION][:, -1, 0, 0]
    return float((np.abs(chunk.executable[:, 0, 0] - wanted) < 0.4).mean())


def trained(policy: Policy, steps: int, length: int = 4) -> float:
    """Train on cued chains and return the share of recalled signs."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(policy.train().optim_groups(3e-3, 0.0))
    for _ in range(steps):
        batch = cued(16, length, rng)
        if not policy.recurrent:
            batch = {k: v.reshape(-1, *v.shape[2:]) for k, v in batch.items() if k != CHAIN_IS_PAD}
        loss = policy.loss(batch, policy.draw_training_noise(len(batch[ACTION]), generator))[0].mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
    return recall_accuracy(policy.eval(), cued(128, length, rng))


@pytest.mark.slow
def test_what_lies_beyond_the_observed_steps_needs_a_memory():  # O19
    memory = TemporalConfig(4, 16, 1, 2, max_chain=4)
    assert trained(build(prediction="x0", memory=memory), 250) > 0.9
    assert trained(build("diffusion", prediction="x0", memory=None), 250) < 0.65


# ------------------------------------------------------------------------------------------------- other heads


@pytest.mark.parametrize("head", ["diffusion", "flow", "beso", "ebt"])
def test_any_head_trains_and_acts_with_the_same_memory(head):
    policy = build(head).train()
    assert policy.recurrent
    optimizer = torch.optim.Adam(policy.optim_groups(1e-3, 0.0))
    first = policy.encoder.temporal.sega.initial.detach().clone()
    for step in range(3):
        loss = policy.loss(chains(policy, 3, seed=step), noise_of(policy, 3, step))[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert np.isfinite(loss.item())
    assert not torch.equal(first, policy.encoder.temporal.sega.initial)
    obs = random_observation(policy, 2)
    keys = [(0, 0), (0, 1)]
    plans = [policy.act(obs, keys, episodes=["a", "b"]).actions for _ in range(2)]
    assert not np.array_equal(*plans)
    policy.reset()
    assert np.array_equal(policy.act(obs, keys, episodes=["a", "b"]).actions, plans[0])
