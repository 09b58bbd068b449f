"""Batches of two sources: RLPD's proportions, keys and repeatability."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import STATE
from robopolicy.rl.mixture import Mixture
from robopolicy.rl.replay import Replay, batch_shapes
from robopolicy.testing.replays import make_episode, tiny_layout

LAYOUT = tiny_layout(cameras={"front": (4, 4)}, latent_shape=(2,))
MARK = 50.0  # rewards of offline transitions count up from here, those of online ones lie below 3


class Offline:
    """Offline transitions that are told by their rewards."""

    def __init__(self, size: int, layout=LAYOUT, **changes) -> None:
        self.size, self.changes = size, changes
        self.shapes = batch_shapes(layout)

    def __len__(self) -> int:
        return self.size

    def gather(self, indices: np.ndarray) -> Mapping[str, np.ndarray]:
        made = {name: np.zeros((len(indices), *shape), dtype) for name, (shape, dtype) in self.shapes.items()}
        numbers = np.float32(MARK + indices)
        flags = dict.fromkeys(("terminated", "truncated", "success"), np.zeros(len(indices), bool))
        made |= {"reward": numbers, "discount": numbers, "mc_return": numbers, "n": indices, **flags}
        return {**made, "index": indices, "episode_index": indices, **self.changes}


@pytest.fixture(scope="module")
def replay(tmp_path_factory) -> Replay:
    replay = Replay.create(tmp_path_factory.mktemp("mixture") / "replay", LAYOUT)
    for index, steps in enumerate((7, 12)):
        replay.add(make_episode(LAYOUT, steps, index, round=index))
    return replay


def offline_rows(batch) -> np.ndarray:
    return batch["reward"] >= MARK


@pytest.mark.parametrize("size", [256, 8, 2])
def test_rlpd_exactly_half_of_each_batch_from_each_source(replay, size):
    """Also when online has fewer transitions than half a batch: they repeat."""
    mixture = Mixture(replay.upto(1), Offline(1000))
    assert len(replay.upto(1)) == 3 < 256 // 2
    for update in range(20):
        batch = mixture.batch(size, 0.5, (0, update))
        assert offline_rows(batch).sum() == size // 2
        assert {len(values) for values in batch.values()} == {size}


def test_rlpd_all_offline_while_online_is_empty(replay):
    batch = Mixture(replay.upto(0), Offline(5)).batch(32, 0.5, (1,))
    assert offline_rows(batch).all()
    assert set(batch["n"]) == set(range(5))
    assert "latent" not in batch


def test_all_online_without_offline_data(replay):
    for offline in (None, Offline(0)):
        batch = Mixture(replay.upto(2), offline).batch(32, 0.5, (1,))
        assert not offline_rows(batch).any()
        assert batch["latent"].shape == (32, 2)
    with pytest.raises(ConfigError, match="nothing to learn from"):
        Mixture(replay.upto(0)).batch(4, 0.5, (1,))


@pytest.mark.parametrize(("mixing", "expected"), [(0.0, 0), (0.25, 16), (0.3, 19), (1.0, 64)])
def test_any_proportion(replay, mixing, expected):
    batch = Mixture(replay.upto(2), Offline(10)).batch(64, mixing, (3,))
    assert offline_rows(batch).sum() == expected
    assert ("latent" in batch) == (expected == 0)  # offline transitions have none
    assert not {"index", "episode_index"} & set(batch)


def test_every_transition_is_drawn_about_as_often(replay):
    view = replay.upto(2)
    mixture = Mixture(view, Offline(10))
    rewards = view.batch(np.arange(len(view)))["mc_return"]
    states = view.batch(np.arange(len(view)))[STATE][:, 0, 0]
    draws = [mixture.batch(280, 0.5, (4, update)) for update in range(50)]
    online = np.concatenate([d[STATE][~offline_rows(d)][:, 0, 0] for d in draws])
    counts = np.array([(online == s).sum() for s in states])
    assert len(rewards) == len(set(states)) == 7
    assert counts.sum() == 50 * 140
    assert (np.abs(counts - 1000) < 5 * np.sqrt(1000)).all()


def test_a_batch_is_a_function_of_its_key(replay):
    one, other = (Mixture(replay.upto(2), Offline(10)) for _ in range(2))
    first = one.batch(16, 0.5, (7, 1))
    one.batch(16, 0.5, (7, 2))
    again = other.batch(16, 0.5, (7, 1))
    assert all(np.array_equal(first[key], again[key]) for key in first)
    assert not np.array_equal(first[STATE], other.batch(16, 0.5, (7, 2))[STATE])


def test_numbers_that_mean_nothing_are_refused(replay):
    for size, mixing in ((0, 0.5), (4, -0.1), (4, 1.1)):
        with pytest.raises(ConfigError, match="size >= 1 and mixing in"):
            Mixture(replay.upto(2), Offline(3)).batch(size, mixing, (1,))


def test_offline_data_of_another_layout_are_refused(replay):
    view = replay.upto(2)
    with pytest.raises(ConfigError, match=r"'observation.state' is \(2, 5\) float32 in the offline data"):
        Mixture(view, Offline(3, tiny_layout(5, cameras={"front": (4, 4)})))
    with pytest.raises(ConfigError, match=r"'action' is \(4, 2\)"):
        Mixture(view, Offline(3, tiny_layout(k=4, cameras={"front": (4, 4)})))
    picture = {"observation.images.front": np.zeros((1, 2, 3, 4, 4), np.float32)}
    with pytest.raises(ConfigError, match=r"float32 in the offline data and .* uint8 in the replay"):
        Mixture(view, Offline(3, **picture))
    with pytest.raises(ConfigError, match=r"no 'observation.images.front'"):
        Mixture(view, Offline(3, tiny_layout()))
