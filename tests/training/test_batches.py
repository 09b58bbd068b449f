"""Data order, noise and shares of ranks as pure functions of (seed, step)."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robopolicy.core.errors import ConfigError, DatasetError
from robopolicy.training.batches import BatchSource
from robopolicy.training.order import SampleOrder, share_of
from robopolicy.training.prefetch import Prefetcher


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 40), batch=st.integers(1, 50), steps=st.integers(1, 20), seed=st.integers(0, 5))
def test_every_epoch_is_a_permutation(size, batch, steps, seed):
    order = SampleOrder(size, batch, seed)
    stream = np.concatenate([order.indices(s) for s in range(steps)])
    assert len(stream) == steps * batch
    for epoch in range(len(stream) // size):
        assert sorted(stream[epoch * size : (epoch + 1) * size]) == list(range(size))
    assert len(set(stream[len(stream) // size * size :].tolist())) == len(stream) % size


def test_order_depends_on_seed_epoch_and_nothing_else():
    order = SampleOrder(50, 10, 3)
    backwards = [order.indices(s) for s in reversed(range(15))][::-1]
    forwards = [SampleOrder(50, 10, 3).indices(s) for s in range(15)]
    assert np.array_equal(backwards, forwards)
    assert not np.array_equal(SampleOrder(50, 10, 4).indices(0), forwards[0])
    assert not np.array_equal(np.concatenate(forwards[:5]), np.concatenate(forwards[5:10]))
    assert order.epoch(5) == 1.0


def test_no_windows_is_an_error():
    with pytest.raises(DatasetError, match="no training windows"):
        SampleOrder(0, 4, 0)


@settings(max_examples=60, deadline=None)
@given(world=st.integers(1, 4), parts=st.integers(1, 4), extra=st.integers(0, 30))
def test_shares_cover_the_batch_once_in_order(world, parts, extra):
    batch = world * parts + extra
    slices = [s for rank in range(world) for s in share_of(rank, world, parts, batch)]
    assert [i for s in slices for i in range(batch)[s]] == list(range(batch))
    assert all(s.stop > s.start for s in slices)
    assert len(slices) == world * parts


def test_too_small_a_batch_is_refused():
    with pytest.raises(ConfigError, match="batch_size=3"):
        share_of(0, 2, 2, 3)


class Numbers:
    """Windows whose content is their index."""

    def __len__(self):
        return 23

    def gather(self, indices):
        return {
            "action": indices[:, None].astype(np.float32),
            "task": np.array([f"t{i}" for i in indices], dtype=object),
        }


def draw(n, generator):
    return {"eps": torch.randn(n, 2, generator=generator)}


@pytest.mark.parametrize(("world", "parts"), [(1, 1), (2, 1), (1, 3), (3, 2)])
def test_ranks_and_micro_batches_see_the_same_rows_and_noise(world, parts):
    whole = BatchSource(Numbers(), draw, 12, seed=5)
    for step in (0, 1, 7):
        (want,) = whole(step)
        micro = [
            m for rank in range(world)
            for m in BatchSource(Numbers(), draw, 12, seed=5, rank=rank, world=world, accumulation=parts)(step)
        ]  # fmt: skip
        assert torch.equal(torch.cat([m.batch["action"] for m in micro]), want.batch["action"])
        assert torch.equal(torch.cat([m.noise["eps"] for m in micro]), want.noise["eps"])
        assert [t for m in micro for t in m.batch["task"]] == list(want.batch["task"])
        assert np.array_equal(np.concatenate([m.rows for m in micro]), want.rows)
    assert not torch.equal(whole.noise(0)["eps"], whole.noise(1)["eps"])


class Goals(Numbers):
    """Windows that report the draws of their goals."""

    def gather(self, indices, draws=None):
        return {**super().gather(indices), "draw": draws.copy()}


@pytest.mark.parametrize(("world", "parts"), [(1, 1), (2, 1), (1, 3), (3, 2)])
def test_goals_are_a_function_of_seed_step_and_row_of_the_global_batch(world, parts):
    whole = BatchSource(Goals(), draw, 12, seed=5, goals=True)
    for step in (7, 0, 1):
        (want,) = whole(step)
        micro = [
            m for rank in range(world)
            for m in BatchSource(Goals(), draw, 12, 5, rank=rank, world=world, accumulation=parts, goals=True)(step)
        ]  # fmt: skip
        assert torch.equal(torch.cat([m.batch["draw"] for m in micro]), want.batch["draw"])
        assert torch.equal(torch.cat([m.batch["action"] for m in micro]), want.batch["action"])
    draws = np.concatenate([whole.goal_draws(step) for step in range(200)])
    assert abs(draws.mean() - 0.5) < 0.024  # four standard deviations
    assert len(set(draws.tolist())) == len(draws)
    assert not np.array_equal(whole.goal_draws(0), BatchSource(Goals(), draw, 12, seed=6, goals=True).goal_draws(0))


class Chained(Numbers):
    """Chains of three windows."""

    def gather(self, indices):
        return {
            "action": np.repeat(super().gather(indices)["action"], 3, axis=1),
            "chain_is_pad": np.stack([indices % 2 == 1] * 3, axis=1),
            "task": np.array([[f"t{i}"] * 3 for i in indices], dtype=object),
        }


def test_chains_are_split_whole():
    (want,) = BatchSource(Chained(), lambda n, g: {"eps": torch.randn(n, 3, 2, generator=g)}, 12, seed=5)(4)
    micro = [
        m for rank in range(2)
        for m in BatchSource(
            Chained(), lambda n, g: {"eps": torch.randn(n, 3, 2, generator=g)}, 12, seed=5, rank=rank, world=2,
            accumulation=2,
        )(4)
    ]  # fmt: skip
    assert [m.batch["action"].shape for m in micro] == [(3, 3)] * 4
    assert torch.equal(torch.cat([m.batch["action"] for m in micro]), want.batch["action"])
    assert torch.equal(torch.cat([m.batch["chain_is_pad"] for m in micro]), want.batch["chain_is_pad"])
    assert torch.equal(torch.cat([m.noise["eps"] for m in micro]), want.noise["eps"])
    assert [t for m in micro for t in m.batch["task"].tolist()] == want.batch["task"].tolist()


def test_prefetched_items_come_in_order_and_errors_at_their_step():
    def make(step):
        if step == 7:
            raise DatasetError("broken frame")
        return step * step

    prefetcher = Prefetcher(make, 3, 10, depth=2)
    seen: list[int] = []
    with pytest.raises(DatasetError, match="broken frame"):
        seen.extend(prefetcher)
    assert seen == [9, 16, 25, 36]
    prefetcher.close()


def test_closing_early_ends_the_thread():
    prefetcher = Prefetcher(lambda step: step, 0, 10_000, depth=2)
    assert next(iter(prefetcher)) == 0
    prefetcher.close()
    assert "prefetch" not in [t.name for t in threading.enumerate()]
    assert prefetcher.waited >= 0
