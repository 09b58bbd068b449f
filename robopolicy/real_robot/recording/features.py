"""What a frame of a recording holds: observation and action of one kind of policy, and the columns beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from robopolicy.core.specs import IMAGES, TIME, ActionSpace, ActionSpec, FeatureKind, FeatureSpec, ObservationSpec
from robopolicy.real_robot.control.observations import Snapshot
from robopolicy.real_robot.deploy.adapters import Adapter, make_adapter
from robopolicy.real_robot.deploy.channels import PANDA_STATE, state_feature
from robopolicy.real_robot.frames import Pose
from robopolicy.sim.arm import ACTION_SPACE
from robopolicy.sim.panda_model import WIDTH_MAX

EMITTED_NAMES = ("x", "y", "z", "qx", "qy", "qz", "qw", "width")


class Recordable(Protocol):
    """Turns a robot's data into a dataset's."""

    @property
    def observation_spec(self) -> ObservationSpec:
        """Features of an observation."""
        ...

    @property
    def action_space(self) -> ActionSpace:
        """What the numbers of an action mean."""
        ...

    def observation(self, snapshot: Snapshot) -> dict[str, Any]:
        """The newest instant of a snapshot, one value a feature: vectors float32, pictures uint8 ``(3, H, W)``."""
        ...

    def action(self, pose: Pose, width: float, here: Pose) -> np.ndarray:
        """Numbers ``(D,)`` of the action that wants the tool at ``pose`` and the hand ``width`` m open; ``here``: where
        the tool is wanted until then, from which changes count."""
        ...


@dataclass(frozen=True)
class AdaptedFeatures:
    """``Recordable`` through the adapter of a policy, of whose history a frame is one instant."""

    adapter: Adapter

    def __post_init__(self) -> None:
        one = replace(self.adapter.action, horizon=1, n_obs_steps=1, n_action_steps=1)
        object.__setattr__(self, "adapter", replace(self.adapter, action=one))

    @property
    def observation_spec(self) -> ObservationSpec:
        """What the policy wants, without language, which is the task of a frame."""
        kept = (f for f in self.adapter.wanted.features if f.kind is not FeatureKind.LANGUAGE)
        return ObservationSpec(tuple(kept))

    @property
    def action_space(self) -> ActionSpace:
        """The policy's."""
        return self.adapter.space

    def observation(self, snapshot: Snapshot) -> dict[str, Any]:
        """See ``Recordable``."""
        values = self.adapter.observation(snapshot)
        return {key: values[key][0, -1] for key in self.observation_spec.keys}

    def action(self, pose: Pose, width: float, here: Pose) -> np.ndarray:
        """See ``Recordable``."""
        track = Pose(pose.position[None], pose.quaternion[None])
        numbers: np.ndarray = self.adapter.actions(track, np.array((width,)), here)[0]
        return numbers


def demonstration_features(
    cameras: Mapping[str, tuple[int, int]] | None = None,
    names: Sequence[str] = PANDA_STATE,
    space: ActionSpace = ACTION_SPACE,
) -> AdaptedFeatures:
    """Features to record demonstrations in without a policy: those of the embedded Panda tasks unless told otherwise.

    ``cameras``: name -> (height, width).  ``names``: channels of ``observation.state``.  Raises ``ConfigError`` for
    channels or actions that the robot does not have.
    """
    pictures = [FeatureSpec(IMAGES + n, (3, *size), FeatureKind.IMAGE) for n, size in (cameras or {}).items()]
    wanted = ObservationSpec((state_feature(names), *pictures))
    return AdaptedFeatures(make_adapter(wanted, ActionSpec(space, 1, 1, 1, 0.1)))


def extra_columns(cameras: Sequence[str]) -> dict[str, Any]:
    """Columns besides observation and action: times are seconds since the first frame's grid time."""
    one = {"dtype": "float64", "shape": [1]}
    return {
        TIME + "state": one,
        **{f"{TIME}{camera}": one for camera in cameras},
        "action.time": one,
        "action.emitted": {"dtype": "float32", "shape": [len(EMITTED_NAMES)], "names": list(EMITTED_NAMES)},
        "meta.safety_flags": {"dtype": "int64", "shape": [1]},
        "meta.chunk_id": {"dtype": "int64", "shape": [1]},
        "meta.chunk_step": {"dtype": "int64", "shape": [1]},
        "intervention": {"dtype": "bool", "shape": [1]},
    }


def emitted_numbers(pose: Pose, width: float | None) -> np.ndarray:
    """``action.emitted (8,)`` float32; a hand that was never asked for anything counts as open."""
    opening = WIDTH_MAX if width is None else width
    return np.concatenate((pose.position, pose.quaternion, (opening,))).astype(np.float32)
