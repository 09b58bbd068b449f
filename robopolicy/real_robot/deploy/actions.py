"""Actions of a policy as poses of the tool and widths of the hand, and back.

Which numbers an action has is read off its ``ActionSpace`` (names, kinds, mode, unit) and refused where that is not
certain: on an arm a guess is worse than an error.  Rotations are a yaw (a hand that points straight down, as in the
embedded Panda tasks), a quaternion x, y, z, w, six numbers (Zhou et al. 2019) or a rotation vector; modes are absolute
in the base frame, or changes per step that add up from the pose of the observation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from robopolicy.core.configs import config_dataclass
from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import ActionSpace, ChannelKind
from robopolicy.core.turns import QUATERNION, VECTOR, bare
from robopolicy.real_robot.frames import (
    Pose,
    SixForm,
    difference,
    downward,
    hemisphere,
    quaternion_of_six,
    quaternion_of_vector,
    six_of_quaternion,
    turned,
    vector_of_quaternion,
    yaw_of,
)
from robopolicy.sim.panda_model import WIDTH_MAX

Rotation = Literal["yaw", "rot6d", "quaternion", "vector"]
Hand = Literal["open", "width", "none"]
LENGTHS: dict[Rotation, int] = {"yaw": 1, "rot6d": 6, "quaternion": 4, "vector": 3}
_NAMES: dict[Rotation, tuple[tuple[str, ...], ...]] = {
    "yaw": (("yaw",), ("dyaw",)),
    "quaternion": (QUATERNION,),
    "vector": (VECTOR, tuple(f"d{name}" for name in VECTOR)),
    "rot6d": (tuple(f"rot6d_{i}" for i in range(6)), tuple(f"r{i}" for i in range(6))),
}
_PLACES = (("x", "y", "z"), ("dx", "dy", "dz"))


@config_dataclass
class ActionConfig:
    """What a policy's numbers mean, where its ``ActionSpace`` leaves it open; null: as that says."""

    rotation: Rotation | None = None
    """yaw, rot6d, quaternion or vector: what follows x, y, z."""
    mode: Literal["absolute", "delta"] | None = None
    """Poses in the base frame, or changes per step."""
    hand: Hand | None = None
    """Last channel: open (0 closed .. 1 open), width (m), or none."""
    six: SixForm = "rows"
    """What the six numbers of rot6d are: first two rows or columns of the matrix."""
    snap: bool = False
    """The hand is wholly open or wholly closed, whichever is nearer: for policies taught with a switch, whose numbers
    between the two are noise, and would be goals of their own to a real hand."""


@dataclass(frozen=True)
class ActionForm:
    """How actions ``(N, dim)`` stand for poses and widths."""

    rotation: Rotation
    delta: bool = False
    hand: Hand = "open"
    six: SixForm = "rows"
    snap: bool = False

    @property
    def dim(self) -> int:
        """Numbers of an action."""
        return 3 + LENGTHS[self.rotation] + (self.hand != "none")

    def poses(self, actions: np.ndarray, here: Pose) -> tuple[Pose, np.ndarray | None]:
        """Track of N poses and widths ``(N,)`` in m (``None`` without a hand); ``here``: the tool at the observation,
        from which changes count."""
        a = np.asarray(actions, np.float64)
        if a.ndim != 2 or a.shape[1] != self.dim:
            raise ConfigError(f"actions: expected (N, {self.dim}), got {a.shape}")
        turn = a[:, 3 : 3 + LENGTHS[self.rotation]]
        if self.delta:
            place = here.position + np.cumsum(a[:, :3], axis=0)
            quaternions, q = [], here.quaternion
            for way in turn if self.rotation == "vector" else np.pad(turn, ((0, 0), (2, 0))):
                q = turned(q, way)
                quaternions.append(q)
            quaternion = np.array(quaternions).reshape(-1, 4)
        else:
            place, quaternion = a[:, :3], self._absolute(turn)
        return Pose(place, quaternion), self._widths(a[:, -1]) if self.hand != "none" else None

    def actions(self, track: Pose, width: np.ndarray | None, here: Pose) -> np.ndarray:
        """The opposite, float32: actions ``(N, dim)`` that stand for a track; ``here``: the pose before its first."""
        parts: list[np.ndarray] = []
        if self.delta:
            before = Pose(
                np.vstack((here.position[None], track.position[:-1])),
                np.vstack((here.quaternion[None], track.quaternion[:-1])),
            )
            way = difference(before.quaternion, track.quaternion)
            parts = [track.position - before.position, way if self.rotation == "vector" else way[:, 2:]]
        else:
            parts = [track.position, self._numbers(track.quaternion)]
        if self.hand != "none":
            if width is None:
                raise ConfigError("actions: this policy's actions have a hand, so widths are needed")
            parts.append(np.asarray(width, np.float64)[:, None] / (WIDTH_MAX if self.hand == "open" else 1.0))
        return np.concatenate(parts, axis=-1).astype(np.float32)

    def _absolute(self, turn: np.ndarray) -> np.ndarray:
        if self.rotation == "yaw":
            return downward(turn[:, 0])
        if self.rotation == "quaternion":
            return turn
        return quaternion_of_vector(turn) if self.rotation == "vector" else quaternion_of_six(turn, self.six)

    def _numbers(self, quaternion: np.ndarray) -> np.ndarray:
        if self.rotation == "yaw":
            return yaw_of(quaternion)[:, None]
        if self.rotation == "quaternion":
            return hemisphere(quaternion, (0.0, 0.0, 0.0, 1.0))
        return (
            vector_of_quaternion(quaternion) if self.rotation == "vector" else six_of_quaternion(quaternion, self.six)
        )

    def _widths(self, numbers: np.ndarray) -> np.ndarray:
        widths = numbers * WIDTH_MAX if self.hand == "open" else numbers
        return np.where(widths > WIDTH_MAX / 2, WIDTH_MAX, 0.0) if self.snap else widths


def form_of(space: ActionSpace, config: ActionConfig | None = None) -> ActionForm:
    """The form of a policy's actions; raises ``ConfigError`` that says what is not certain and how to state it."""
    c = config or ActionConfig()
    if space.frame not in ("", "base"):
        raise ConfigError(f"actions are in the frame '{space.frame}'; this robot is commanded in its base frame")
    mode = c.mode or space.mode
    if mode not in ("absolute", "delta"):
        cure = "; state mode: absolute or delta" if mode == "unstated" else ""
        raise ConfigError(f"actions of mode '{mode}' are no poses of the tool" + cure)
    hand = c.hand or _hand(space)
    rotation = c.rotation or _rotation(space, hand)
    form = ActionForm(rotation, mode == "delta", hand, c.six, c.snap)
    if form.delta and rotation not in ("yaw", "vector"):
        raise ConfigError(f"changes per step as {rotation} do not add up; known are dyaw and rotation vectors")
    if form.dim != space.dim:
        raise ConfigError(
            f"actions have {space.dim} numbers; x, y, z, {rotation} and hand '{hand}' are {form.dim}; state rotation "
            "and hand"
        )
    _check_names(space, form)
    return form


def _hand(space: ActionSpace) -> Hand:
    last = (space.names or ("",))[-1]
    if space.names is not None and "gripper" not in last and "width" not in last:
        return "none"
    if "0 closed .. 1 open" in space.unit:
        return "open"
    if last in ("gripper_width", "width"):
        return "width"
    raise ConfigError(
        f"the last action channel '{last}' (unit '{space.unit}') may be an opening or a width; state hand: open, width "
        "or none"
    )


def _rotation(space: ActionSpace, hand: Hand) -> Rotation:
    if ChannelKind.ROT6D in space.channel_kinds:
        if space.channel_kinds[3:9] != (ChannelKind.ROT6D,) * 6:
            raise ConfigError("actions: expected the six numbers of a rotation at places 3 to 8, after x, y, z")
        return "rot6d"
    middle = tuple(bare(name) for name in (space.names or ())[3 : space.dim - (hand != "none")])
    for rotation, known in _NAMES.items():
        if middle in known:
            return rotation
    raise ConfigError(
        f"actions: it is not certain what {middle or 'the unnamed numbers'} after x, y, z are; state rotation: "
        + ", ".join(get_args(Rotation))
    )


def _check_names(space: ActionSpace, form: ActionForm) -> None:
    if space.names is not None and (places := tuple(bare(n) for n in space.names[:3])) not in _PLACES:
        raise ConfigError(f"actions: expected x, y, z as the first three channels, got {', '.join(places)}")
    if not form.delta and form.rotation == "yaw" and "deg" in space.unit:
        raise ConfigError(f"actions: expected metres and radians, got '{space.unit}'")
