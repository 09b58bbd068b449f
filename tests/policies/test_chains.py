"""Oracle O14 of SeedPolicy: the state a window sees is the one its own chain left, from the data to the recurrence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robopolicy.core.specs import ACTION, STATE, ActionSpace
from robopolicy.datasets.chains import ChainedWindows
from robopolicy.datasets.reader import Reader
from robopolicy.datasets.windows import Windows
from robopolicy.encoders.config import EncoderConfig, TemporalConfig
from robopolicy.encoders.sega import Step
from robopolicy.policies.registry import make_policy, policy_config
from robopolicy.testing.datasets import make_tiny_dataset
from robopolicy.testing.tiny import TINY_UNET, tiny_spec, unit_stats

STRIDE, LENGTHS = 4, (20, 5, 12)
NOTHING = -1.0


class Remember(torch.nn.Module):
    """A conditioner whose state is the number of the window it saw last; ``log`` rows are (number, state it found)."""

    def __init__(self):
        super().__init__()
        self.register_buffer("initial", torch.full((1, 1), NOTHING))
        self.log = []

    def forward(self, tokens, memory=None):
        number = tokens[:, -1, :1]
        found = torch.full_like(number, NOTHING)
        if memory is not None:
            found = torch.where(memory.fresh[:, None], found, memory.state[:, 0])
        self.log.append(torch.cat([number, found], 1))
        return Step(tokens, number[:, None], torch.ones(len(tokens), 1))


@pytest.fixture
def policy():
    temporal = TemporalConfig(num_state=1, dim=4, depth=1, heads=1, max_chain=4)
    config = policy_config(
        {
            "type": "seed_policy",
            "encoder": EncoderConfig(temporal=temporal),
            "n_obs_steps": 2,
            "horizon": 8,
            "n_action_steps": STRIDE,
            "observation_keys": (STATE,),
            "backbone": "unet",
            "unet": TINY_UNET,
            "num_inference_steps": 2,
        }
    )
    stats = {STATE: unit_stats(4), ACTION: unit_stats(2)}
    policy = make_policy(config, tiny_spec(4), ActionSpace(2), 10.0, stats).eval()
    policy.encoder.project = torch.nn.Identity()
    policy.encoder.temporal.sega = Remember()
    return policy


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return Reader(make_tiny_dataset(tmp_path_factory.mktemp("d"), "v3.0", 3, LENGTHS, cameras=0))


def numbered(batch):
    """The batch with the frame number of each window in its newest observation."""
    state = np.zeros_like(batch[STATE])
    state[..., -1, 0] = batch["index"]
    return {**batch, STATE: state}


@torch.no_grad()
def test_training_windows_find_the_state_of_the_window_before_them(policy, reader):
    needs = policy.needs
    plain = Windows(reader, policy.observation_spec, 2, 8, STRIDE, progress=False, short_episodes="pad")
    chained = ChainedWindows(plain, needs)
    order = np.random.default_rng(0).permutation(len(chained))
    numbers = []
    for rows in np.array_split(order, 4):
        batch = numbered(chained.gather(rows))
        memory = policy.encoder.temporal.sega
        memory.log.clear()
        policy.loss(batch, policy.draw_training_noise(len(rows), torch.Generator().manual_seed(0)))
        seen = torch.stack(memory.log, 1).numpy()  # (B, C, 2)
        index, real = batch["index"], ~batch["chain_is_pad"]
        assert (seen[..., 0] == index).all()
        assert (seen[:, 0, 1] == NOTHING).all()
        assert (seen[:, 1:, 1] == index[:, :-1]).all()
        assert (index[:, 1:] - index[:, :-1])[real[:, 1:]].tolist() == [STRIDE] * int(real[:, 1:].sum())
        assert (np.diff(batch["episode_index"]) == 0).all()
        numbers += index[real].tolist()
    everything = plain.gather(np.arange(len(plain)))["index"].tolist()
    assert sorted(numbers) == everything  # every window once an epoch
    assert len(everything) > 20


def test_acting_finds_the_state_of_the_same_episode(policy):
    """Episodes that end, begin and change places in the batch keep their own state."""
    memory, rng = policy.encoder.temporal.sega, np.random.default_rng(0)
    newest: dict[str, float] = {}
    for step in range(6):
        if step == 3:
            policy.reset(["b"])
            newest.pop("b")
        names = list(rng.permutation(["a", "b", "c"] if step % 2 else ["b", "a"]))
        obs = np.zeros((len(names), 2, 4), np.float32)
        obs[:, -1, 0] = [10 * step + ord(name) for name in names]
        memory.log.clear()
        policy.act({STATE: obs}, [(0, i) for i in range(len(names))], episodes=names)
        found = memory.log[0][:, 1].tolist()
        assert found == [newest.get(name, NOTHING) for name in names]
        newest |= dict(zip(names, obs[:, -1, 0].tolist(), strict=True))
