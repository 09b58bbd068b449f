"""Channels with different schedules at one time."""

from __future__ import annotations

import pytest
import torch

from robopolicy.core.errors import ConfigError, IncompatibleNoiseLevel
from robopolicy.paths import PerChannel, VPDiscrete


@pytest.fixture
def actor() -> PerChannel:
    position, rotation = VPDiscrete.make("scaled_linear"), VPDiscrete.make("squaredcos_cap_v2")
    return PerChannel({(3, 9): rotation, (0, 3): position})


def test_two_noise_ratios_at_one_time(actor):
    kappa = actor.kappa(torch.tensor(99))
    assert kappa.shape == (9,)
    assert kappa[0].item() == pytest.approx(1.0313, abs=1e-4)
    assert kappa[8].item() == pytest.approx(2029.2, rel=1e-4)
    assert actor.alpha(torch.tensor([3, 4, 5])).shape == (3, 9)


def test_matches_only_its_own_kind(actor):
    t, distance = actor.t_of_kappa(actor.kappa(torch.tensor([0, 40, 99])))
    assert t.tolist() == [0, 40, 99]
    assert distance.max().item() == 0
    with pytest.raises(IncompatibleNoiseLevel, match="9 noise ratios"):
        actor.t_of_kappa(torch.tensor(1.0))
    _, far = actor.t_of_kappa(torch.ones(9))
    assert far.item() > 0.06


def test_gaps_and_unequal_lengths_are_refused():
    a, b = VPDiscrete.make(num_train_steps=100), VPDiscrete.make(num_train_steps=50)
    for parts in ({(0, 3): a, (4, 6): a}, {(1, 3): a}, {(0, 3): a, (2, 5): a}, {(0, 0): a}):
        with pytest.raises(ConfigError, match="tile"):
            PerChannel(parts)
    for parts in ({(0, 3): a, (3, 6): b}, {}):
        with pytest.raises(ConfigError, match="equal num_train_steps"):
            PerChannel(parts)
