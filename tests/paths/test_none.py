"""The absent path refuses everything that needs levels."""

from __future__ import annotations

import pytest
import torch

from robopolicy.core.errors import IncompatibleNoiseLevel
from robopolicy.paths import NoPath


def test_states_are_clean():
    assert NoPath().kappa(torch.tensor(0.3)).item() == 0


@pytest.mark.parametrize(
    "ask",
    [
        lambda p: p.grid(4, "leading"),
        lambda p: p.t_of_kappa(torch.tensor(1.0)),
        lambda p: p.levels([0]),
        lambda p: p.rates(1.0, 0.0),
    ],
)
def test_levels_are_refused(ask):
    with pytest.raises(IncompatibleNoiseLevel, match="no noise path"):
        ask(NoPath())
