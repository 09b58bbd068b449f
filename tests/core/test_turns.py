"""Which channels are turns."""

from __future__ import annotations

import math

import pytest

from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import ActionSpace, ChannelKind
from robopolicy.core.turns import turns_of
from robopolicy.sim.arm import ACTION_SPACE

K = ChannelKind


def space(*names, mode="absolute", unit="", kinds=None):
    return ActionSpace(len(names), names=names, kinds=kinds, mode=mode, unit=unit)


def test_the_yaw_of_the_embedded_arms():
    turns = turns_of(ACTION_SPACE)
    assert turns.angles == (3,)
    assert turns.plain == (0, 1, 2, 4)
    assert turns.period == 2 * math.pi


def test_quaternions_in_any_order_and_of_both_hands():
    names = (
        "left_x",
        "left_qw",
        "left_qx",
        "left_qy",
        "left_qz",
        "right_qx",
        "right_qy",
        "right_qz",
        "right_qw",
        "gripper",
    )
    turns = turns_of(space(*names))
    assert turns.quaternions == ((2, 3, 4, 1), (5, 6, 7, 8))  # places of x, y, z, w
    assert turns.plain == (0, 9)


def test_rotation_vectors_and_angles_in_degrees():
    assert turns_of(space("tcp_x", "tcp_rx", "tcp_ry", "tcp_rz")).vectors == ((1, 2, 3),)
    turned = turns_of(space("roll", "pitch", "yaw", unit="deg"))
    assert (turned.angles, turned.period) == ((0, 1, 2), 360.0)


@pytest.mark.parametrize("mode", ["delta", "unstated", "joint_abs", "joint_delta"])
def test_only_what_is_stated_to_be_absolute_is_wrapped(mode):
    """A joint called wrist_roll, or a yaw in unknown units, is a number."""
    turns = turns_of(space("yaw", "qx", "qy", "qz", "qw", mode=mode))
    assert turns.plain == (0, 1, 2, 3, 4)
    assert turns.angles == turns.quaternions == ()


def test_near_misses_and_unnamed_channels_are_numbers():
    assert turns_of(space("wrist_roll", "qx", "qy", "qz", "dyaw")).plain == (0, 1, 2, 3, 4)
    assert turns_of(ActionSpace(3, mode="absolute")).plain == (0, 1, 2)


def test_sixes_by_kind_in_any_mode_and_switches_apart():
    kinds = (K.EUCLIDEAN, *[K.ROT6D] * 6, K.BINARY, K.PADDING)
    turns = turns_of(ActionSpace(9, kinds=kinds, mode="delta"))
    assert turns.sixes == ((1, 2, 3, 4, 5, 6),)
    assert turns.plain == (0,)
    for broken in ((*[K.ROT6D] * 5, K.EUCLIDEAN, K.ROT6D), (K.ROT6D,) * 5):
        with pytest.raises(ConfigError, match="six neighbouring"):
            turns_of(ActionSpace(len(broken), kinds=broken))
