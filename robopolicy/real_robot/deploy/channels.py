"""What the channels of a state vector are called, and how each is read from a snapshot.

A policy's ``observation.state`` is put together by the names that its dataset gave its channels; a name that is not in
this table is refused, since a near miss (degrees for radians, another frame) moves an arm to a wrong place.
Lengths are metres, angles radians, all poses those of the tool in the base frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from robopolicy.core.errors import ConfigError, did_you_mean
from robopolicy.core.specs import STATE, FeatureKind, FeatureSpec
from robopolicy.real_robot.control.observations import Snapshot
from robopolicy.real_robot.frames import six_of_quaternion, vector_of_quaternion, yaw_of
from robopolicy.sim.panda_model import WIDTH_MAX

PANDA_STATE = ("tcp_x", "tcp_y", "tcp_z", "tcp_yaw", "gripper_width")
"""State of the embedded Panda tasks, and what a robot offers unless a policy names other channels."""

Reader = Callable[[Snapshot], np.ndarray]


def _quaternion(i: int) -> Reader:
    """Component ``i`` in the hemisphere w >= 0: a policy must not see the sign that the last command happened to
    have."""

    def read(s: Snapshot) -> np.ndarray:
        q = s.poses.quaternion
        chosen: np.ndarray = np.where(q[:, 3] < 0, -1.0, 1.0) * q[:, i]
        return chosen

    return read


def _position(i: int) -> Reader:
    return lambda s: s.poses.position[:, i]


def _vector(i: int) -> Reader:
    return lambda s: vector_of_quaternion(s.poses.quaternion)[:, i]


def _six(i: int) -> Reader:
    return lambda s: six_of_quaternion(s.poses.quaternion)[:, i]


def _joint(i: int) -> Reader:
    return lambda s: s.q[:, i]


def _force(i: int) -> Reader:
    return lambda s: s.force[:, i]


CHANNELS: dict[str, tuple[str, Reader]] = {
    **{f"tcp_{axis}": ("m", _position(i)) for i, axis in enumerate("xyz")},
    "tcp_yaw": ("rad", lambda s: yaw_of(s.poses.quaternion)),
    **{f"tcp_q{axis}": ("1", _quaternion(i)) for i, axis in enumerate("xyzw")},
    **{f"tcp_r{axis}": ("rad", _vector(i)) for i, axis in enumerate("xyz")},
    **{f"tcp_rot6d_{i}": ("1", _six(i)) for i in range(6)},
    "gripper_width": ("m", lambda s: s.width),
    "gripper_open": ("1", lambda s: np.clip(s.width / WIDTH_MAX, 0.0, 1.0)),
    **{f"joint_{i + 1}": ("rad", _joint(i)) for i in range(7)},
    **{f"force_{axis}": ("N", _force(i)) for i, axis in enumerate("xyz")},
}
"""Name -> unit, and the values ``(steps,)`` of a snapshot."""


def check_names(names: Sequence[str]) -> None:
    """Raise ``ConfigError`` for the first name that is not in the table."""
    for name in names:
        if name not in CHANNELS:
            raise ConfigError(f"{STATE}: the robot has no channel '{name}'" + did_you_mean(name, CHANNELS))


def state_feature(names: Sequence[str] = PANDA_STATE) -> FeatureSpec:
    """``observation.state`` of these channels, as the robot offers it."""
    check_names(names)
    units = ", ".join(dict.fromkeys(CHANNELS[name][0] for name in names if CHANNELS[name][0] != "1"))
    return FeatureSpec(STATE, (len(names),), FeatureKind.STATE, tuple(names), units)


def read_state(snapshot: Snapshot, names: Sequence[str]) -> np.ndarray:
    """``(steps, len(names))`` float32."""
    return np.stack([CHANNELS[name][1](snapshot) for name in names], axis=-1).astype(np.float32)
