"""The border of commands: finite ones pass unchanged, everything else is refused by channel."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.core.errors import InvalidAction
from robopolicy.core.guard import ensure_finite_action
from robopolicy.core.specs import ActionSpace

SPACE = ActionSpace(3, names=("x", "y", "gripper"), low=(-1.0,) * 3, high=(1.0,) * 3)


def test_finite_commands_pass_as_a_copy_even_beyond_the_bounds():
    action = np.array([0.25, -5.0, 1.0], np.float32)
    out = ensure_finite_action(action, SPACE)
    assert out.tolist() == action.tolist()
    out[0] = 9.0
    assert action[0] == np.float32(0.25)
    assert ensure_finite_action([0, 1, 2], SPACE).dtype == np.float64


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channel", [0, 1, 2])
def test_non_finite_commands_are_refused_by_channel(value, channel):
    action = np.zeros(3)
    action[channel] = value
    with pytest.raises(InvalidAction, match=rf"channel {channel} \({SPACE.names[channel]}\) is not finite"):
        ensure_finite_action(action, SPACE)


@pytest.mark.parametrize("action", [np.zeros(2), np.zeros((1, 3)), 0.0, [], np.zeros((8, 3))])
def test_other_shapes_are_refused(action):
    with pytest.raises(InvalidAction, match=r"expected shape \(3,\), got"):
        ensure_finite_action(action, SPACE)


@pytest.mark.parametrize("action", [["a", "b", "c"], [True, False, True], [1j, 0, 0], [None, 1, 2]])
def test_what_is_no_number_is_refused(action):
    with pytest.raises(InvalidAction, match="expected numbers"):
        ensure_finite_action(action, SPACE)
