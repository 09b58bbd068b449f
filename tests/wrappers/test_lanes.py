"""Networks of a composition asked side by side: the same answers, in the same modes, and errors that are not lost."""

from __future__ import annotations

import threading

import pytest
import torch

from robopolicy.testing.heads import tiny_head
from robopolicy.testing.tiny import random_observation
from robopolicy.wrappers import chorus
from robopolicy.wrappers.compose import ComposedPolicy
from robopolicy.wrappers.lanes import side_by_side, worth_it

X = torch.zeros(1)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def where() -> tuple[str, bool, bool]:
    return threading.current_thread().name, torch.is_inference_mode_enabled(), torch.is_grad_enabled()


def test_the_first_is_asked_here_and_the_others_always_in_the_same_threads(two_threads):
    with torch.inference_mode():
        first, second = side_by_side([where, where]), side_by_side([where, where])
    assert first == second
    assert [name for name, _, _ in first] == [threading.current_thread().name, "lane-1_0"]
    assert all(inference for _, inference, _ in first)
    with torch.no_grad():
        assert [(i, g) for _, i, g in side_by_side([where, where])] == [(False, False)] * 2
    assert torch.get_num_threads() == 2


def test_networks_in_lanes_use_one_thread_each(two_threads):
    with torch.no_grad():
        assert side_by_side([torch.get_num_threads, torch.get_num_threads]) == [1, 1]


def test_an_error_in_a_lane_is_raised_after_all_have_ended(two_threads):
    ended = []

    def broken():
        raise ValueError("the second parent")

    def slow():
        ended.append(1)

    with torch.no_grad(), pytest.raises(ValueError, match="the second parent"):
        side_by_side([slow, broken, slow])
    assert len(ended) == 2
    assert torch.get_num_threads() == 2


def test_only_where_there_are_threads_and_no_gradient(two_threads):
    with torch.no_grad():
        assert worth_it(2, X)
        assert not worth_it(1, X)
        assert not worth_it(3, X), "three networks, two threads"
        torch.set_num_threads(1)
        assert not worth_it(2, X)
        torch.set_num_threads(2)
    assert not worth_it(2, X), "a graph would have to be built over two threads"


def test_a_composition_says_the_same_in_lanes(two_threads, monkeypatch):
    policy = ComposedPolicy([tiny_head("diffusion", "unet"), tiny_head("flow", "unet")])
    obs, keys = random_observation(policy, 1), [(0, 0)]
    used = []
    monkeypatch.setattr(chorus, "side_by_side", lambda q: used.append(len(q)) or side_by_side(q))
    together = policy.act(obs, keys).actions
    assert used
    assert set(used) == {2}
    used.clear()
    torch.set_num_threads(1)
    apart = policy.act(obs, keys).actions
    assert not used
    assert abs(together - apart).max() <= 1e-6 * max(1.0, abs(apart).max())
