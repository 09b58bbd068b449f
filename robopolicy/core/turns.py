"""Which channels of an action are turns, and in what form: what may not be averaged or compared as plain numbers.

Six numbers of a matrix are declared by their kind.  Angles, quaternions and rotation vectors are ``euclidean`` channels
to the networks, and are known by their names, where the space says that its poses are absolute: changes per step are
small, and small turns add up like numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import ActionSpace, ChannelKind

ANGLES = ("yaw", "pitch", "roll")
QUATERNION = ("qx", "qy", "qz", "qw")
VECTOR = ("rx", "ry", "rz")
SIDES = ("left_", "right_")


def bare(name: str) -> str:
    """A channel's name without what says that it is the tool's, or an action's."""
    return name.removeprefix("tcp_").removeprefix("action_")


@dataclass(frozen=True)
class Turns:
    """Channels by what they are; what is neither a turn nor ``plain`` is a switch or padding.

    ``angles``: one channel each, of ``period`` (a full turn in the space's unit).  ``quaternions``: places of x, y, z,
    w.  ``vectors``: rotation vectors, radians.  ``sixes``: first two columns (or rows) of a matrix.
    """

    plain: tuple[int, ...] = ()
    angles: tuple[int, ...] = ()
    quaternions: tuple[tuple[int, ...], ...] = ()
    vectors: tuple[tuple[int, ...], ...] = ()
    sixes: tuple[tuple[int, ...], ...] = ()
    period: float = 2 * math.pi


def turns_of(space: ActionSpace) -> Turns:
    """The turns of a space; raises ``ConfigError`` where those by kind do not come in neighbouring sixes."""
    kinds = space.channel_kinds
    sixes = _sixes([i for i, kind in enumerate(kinds) if kind is ChannelKind.ROT6D])
    plain = [i for i, kind in enumerate(kinds) if kind is ChannelKind.EUCLIDEAN]
    if space.names is None or space.mode != "absolute":
        return Turns(tuple(plain), sixes=sixes)
    names = {i: bare(space.names[i].removeprefix(SIDES[0]).removeprefix(SIDES[1])) for i in plain}
    angles = tuple(i for i in plain if names[i] in ANGLES)
    quaternions = _groups(names, QUATERNION)
    vectors = _groups(names, VECTOR) if "deg" not in space.unit else ()
    turning = {*angles, *(i for group in (*quaternions, *vectors) for i in group)}
    period = 360.0 if "deg" in space.unit else 2 * math.pi
    return Turns(tuple(i for i in plain if i not in turning), angles, quaternions, vectors, sixes, period)


def _groups(names: dict[int, str], wanted: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """Places of ``wanted``, in its order, wherever they are neighbours in any order."""
    count, found, start = len(wanted), [], 0
    while start <= max(names, default=-1):
        places = range(start, start + count)
        if sorted(names.get(i, "") for i in places) == sorted(wanted):
            found.append(tuple(next(i for i in places if names[i] == name) for name in wanted))
            start += count
        else:
            start += 1
    return tuple(found)


def _sixes(turned: list[int]) -> tuple[tuple[int, ...], ...]:
    groups = [tuple(turned[k : k + 6]) for k in range(0, len(turned), 6)]
    if any(group != tuple(range(group[0], group[0] + 6)) for group in groups):
        raise ConfigError(f"rotations of an action must be six neighbouring channels each, got {turned}")
    return tuple(groups)
