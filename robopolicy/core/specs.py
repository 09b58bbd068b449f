"""Typed contracts for observations and actions, saved with every artefact and checked at every border.

Shapes here are those of one time step; batches add ``(B, n_obs_steps)`` in front of observations and
``(B, horizon)`` in front of actions.  Numbers outside a policy are physical (metres, radians, pixels...);
only inside a policy are they normalised.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from robopolicy.core.errors import ActionSpaceMismatch, ConfigError, did_you_mean

STATE = "observation.state"
ENVIRONMENT_STATE = "observation.environment_state"
IMAGES = "observation.images."
DEPTH = "observation.depth."
CAMERA_POSE = "observation.camera_pose."
TIME = "observation.time."  # when a source really saw what a frame holds; for the record, no observation
GOAL = "goal."
TASK = "task"
ACTION = "action"
ACTION_IS_PAD = "action_is_pad"
CHAIN_IS_PAD = "chain_is_pad"
GOAL_IS_PAD = "goal_is_pad"


class FeatureKind(str, Enum):
    """What an observation feature is, which decides how it is checked, normalised and encoded."""

    STATE = "state"  # proprioception or environment state, float32 (D,)
    IMAGE = "image"  # (3, H, W), uint8 0..255 or float 0..1
    DEPTH = "depth"  # (1, H, W) float32 metres
    LANGUAGE = "language"  # one string a step
    GOAL = "goal"  # what a later observation should look like: float32 (D,), or (3, H, W) as IMAGE
    POSE = "pose"  # (4, 4) float32, camera to world: where a moving camera is; never normalised


class ChannelKind(str, Enum):
    """What an action channel is, which decides whether noise, gradients and clipping apply to it."""

    EUCLIDEAN = "euclidean"
    ROT6D = "rot6d"
    BINARY = "binary"
    PADDING = "padding"


@dataclass(frozen=True)
class CameraModel:
    """Pinhole calibration.  ``intrinsics`` row-major 3x3 in pixels; ``extrinsics`` row-major 4x4, camera to world,
    OpenCV axes (x right, y down, z forward), metres."""

    intrinsics: tuple[float, ...]
    extrinsics: tuple[float, ...]


@dataclass(frozen=True)
class FeatureSpec:
    """One observation feature.

    ``shape`` is that of one time step, images channel-first ``(3, H, W)``; ``names`` label the channels of a
    vector; ``unit`` is free text ("m", "rad", "px").
    """

    key: str
    shape: tuple[int, ...]
    kind: FeatureKind
    names: tuple[str, ...] | None = None
    unit: str = ""
    camera: CameraModel | None = None

    def __post_init__(self) -> None:
        if self.kind in (FeatureKind.IMAGE, FeatureKind.DEPTH):
            channels = 3 if self.kind is FeatureKind.IMAGE else 1
            if len(self.shape) != 3 or self.shape[0] != channels:
                raise ConfigError(
                    f"{self.key}: expected a channel-first shape ({channels}, height, width), got {self.shape}"
                )
        if self.names is not None and self.shape and len(self.names) != self.shape[0]:
            raise ConfigError(f"{self.key}: {len(self.names)} names for {self.shape[0]} channels")


def kind_of_key(key: str) -> FeatureKind:
    """Kind implied by a LeRobot key: ``observation.images.*``, ``observation.depth.*``, ``goal.*``, ``task``..."""
    if key.startswith((IMAGES, "observation.image")):
        return FeatureKind.IMAGE
    if key.startswith(DEPTH):
        return FeatureKind.DEPTH
    if key.startswith(CAMERA_POSE):
        return FeatureKind.POSE
    if key.startswith(GOAL):
        return FeatureKind.GOAL
    if key == TASK:
        return FeatureKind.LANGUAGE
    return FeatureKind.STATE


def goal_of(feature: FeatureSpec) -> FeatureSpec:
    """The goal that mirrors an observed feature: the same numbers, as a later step should observe them."""
    if feature.kind not in (FeatureKind.STATE, FeatureKind.IMAGE):
        raise ConfigError(f"{feature.key}: a goal is a state or an image, not {feature.kind.value}; choose another key")
    return dataclasses.replace(feature, key=GOAL + feature.key, kind=FeatureKind.GOAL, camera=None)


def without_goal(feature: FeatureSpec) -> FeatureSpec:
    """A goal as the state or image it is, under its own key; other features as they are."""
    if feature.kind is not FeatureKind.GOAL:
        return feature
    return dataclasses.replace(feature, kind=FeatureKind.IMAGE if len(feature.shape) == 3 else FeatureKind.STATE)


@dataclass(frozen=True)
class ObservationSpec:
    """The features a policy reads, or an environment, dataset or robot offers, in a fixed order."""

    features: tuple[FeatureSpec, ...]

    def __post_init__(self) -> None:
        keys = [f.key for f in self.features]
        if len(set(keys)) != len(keys):
            raise ConfigError(f"observation keys are not unique: {keys}")

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(f.key for f in self.features)

    def __getitem__(self, key: str) -> FeatureSpec:
        for feature in self.features:
            if feature.key == key:
                return feature
        raise KeyError(f"no observation key '{key}'" + did_you_mean(key, self.keys))

    def __contains__(self, key: object) -> bool:
        return key in self.keys

    def of_kind(self, *kinds: FeatureKind) -> tuple[FeatureSpec, ...]:
        """Features of the given kinds, in order."""
        return tuple(f for f in self.features if f.kind in kinds)

    def select(self, keys: Iterable[str]) -> ObservationSpec:
        """The same spec restricted to ``keys``, in the order of ``keys``."""
        return ObservationSpec(tuple(self[k] for k in keys))


ActionMode = Literal["unstated", "absolute", "delta", "joint_abs", "joint_delta", "keypose"]


@dataclass(frozen=True)
class ActionSpace:
    """What one action step means, as an environment, dataset or robot declares it.

    ``low``/``high`` are physical bounds (``None`` = unbounded), length ``dim``; ``frame`` names the reference frame.
    Most LeRobot datasets do not say what their numbers mean: ``mode`` "unstated" and ``frame`` "" are compared with
    nothing.  Environments and robots always state both.
    """

    dim: int
    names: tuple[str, ...] | None = None
    kinds: tuple[ChannelKind, ...] | None = None
    mode: ActionMode = "unstated"
    frame: str = ""
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    unit: str = ""

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ConfigError(f"action dim must be >= 1, got {self.dim}")
        for name in ("names", "kinds", "low", "high"):
            value = getattr(self, name)
            if value is not None and len(value) != self.dim:
                raise ConfigError(f"action {name} has {len(value)} entries, expected {self.dim}")
        for name in ("low", "high"):
            value = getattr(self, name)
            if value is not None and any(math.isnan(v) for v in value):
                raise ConfigError(f"action {name} contains NaN")

    @property
    def channel_kinds(self) -> tuple[ChannelKind, ...]:
        return self.kinds or (ChannelKind.EUCLIDEAN,) * self.dim


@dataclass(frozen=True)
class ActionSpec:
    """An action chunk: what one step means (``space``), and how steps are laid out in time.

    Index 0 of a chunk is the step of the *oldest* observation; the policy executes
    ``[n_obs_steps - 1 : n_obs_steps - 1 + n_action_steps]`` (Diffusion Policy, section 2.2 of the spec).
    ``dt`` is seconds between steps (0.0 for keypose heads).
    """

    space: ActionSpace
    horizon: int
    n_obs_steps: int
    n_action_steps: int
    dt: float

    def __post_init__(self) -> None:
        if min(self.horizon, self.n_obs_steps, self.n_action_steps) < 1:
            raise ConfigError(
                "horizon, n_obs_steps and n_action_steps must be >= 1, got "
                f"{self.horizon}, {self.n_obs_steps}, {self.n_action_steps}"
            )
        room = self.horizon - self.n_obs_steps + 1
        if self.n_action_steps > room:
            raise ConfigError(
                f"n_action_steps={self.n_action_steps} does not fit: horizon - n_obs_steps + 1 = {room}; "
                f"lower n_action_steps or raise horizon to {self.n_action_steps + self.n_obs_steps - 1}"
            )
        if not (math.isfinite(self.dt) and self.dt >= 0):
            raise ConfigError(f"dt must be a finite number of seconds >= 0, got {self.dt}")

    @property
    def dim(self) -> int:
        return self.space.dim

    @property
    def exec_start(self) -> int:
        """First executed index of the chunk."""
        return self.n_obs_steps - 1

    @property
    def exec_slice(self) -> slice:
        """Slice of the chunk that is executed before planning again."""
        return slice(self.exec_start, self.exec_start + self.n_action_steps)

    def check_matches(self, space: ActionSpace, fps: float | None, whose: str) -> None:
        """Raise ``ActionSpaceMismatch`` unless ``space`` at ``fps`` is what this chunk was trained for."""
        ours = self.space
        pairs: list[tuple[str, Any, Any]] = [
            ("dim", ours.dim, space.dim),
            ("channel kinds", ours.channel_kinds, space.channel_kinds),
        ]
        if "unstated" not in (ours.mode, space.mode):
            pairs.append(("mode", ours.mode, space.mode))
        if ours.frame and space.frame:
            pairs.append(("frame", ours.frame, space.frame))
        if ours.names and space.names:
            pairs.append(("names", ours.names, space.names))
        if fps is not None and self.dt > 0:
            pairs.append(("rate (Hz)", round(1 / self.dt, 6), round(fps, 6)))
        wrong = [f"{n}: policy {a}, {whose} {b}" for n, a, b in pairs if a != b]
        if wrong:
            raise ActionSpaceMismatch(f"the policy's actions do not fit {whose}: " + "; ".join(wrong))


@dataclass(frozen=True)
class FeatureStats:
    """Per-channel statistics of one feature in physical units; images have one value a colour channel, 0..1.

    ``constant`` marks channels whose range is below the floor used when they were computed.
    """

    min: tuple[float, ...]
    max: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    count: int
    q01: tuple[float, ...] | None = None
    q99: tuple[float, ...] | None = None
    constant: tuple[bool, ...] = field(default=())

    def __post_init__(self) -> None:
        sizes = {len(self.min), len(self.max), len(self.mean), len(self.std)}
        if len(sizes) != 1:
            raise ConfigError(f"statistics have different lengths: {sorted(sizes)}")


def to_dict(obj: Any) -> Any:
    """Plain JSON/YAML-ready form of a spec dataclass."""
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return {f.name: to_dict(getattr(obj, f.name)) for f in dataclasses.fields(obj)}
    if isinstance(obj, Enum):
        return obj.value
    if isinstance(obj, Mapping):
        return {str(k): to_dict(v) for k, v in obj.items()}
    if isinstance(obj, (tuple, list)):
        return [to_dict(v) for v in obj]
    return obj


def _tuple(value: Any) -> Any:
    return None if value is None else tuple(value)


def observation_spec_from_dict(data: Mapping[str, Any]) -> ObservationSpec:
    """Inverse of ``to_dict`` for ``ObservationSpec``."""
    features = []
    for f in data["features"]:
        camera = f.get("camera")
        features.append(
            FeatureSpec(
                key=f["key"],
                shape=tuple(f["shape"]),
                kind=FeatureKind(f["kind"]),
                names=_tuple(f.get("names")),
                unit=f.get("unit", ""),
                camera=CameraModel(tuple(camera["intrinsics"]), tuple(camera["extrinsics"])) if camera else None,
            )
        )
    return ObservationSpec(tuple(features))


def action_space_from_dict(data: Mapping[str, Any]) -> ActionSpace:
    """Inverse of ``to_dict`` for ``ActionSpace``."""
    kinds = data.get("kinds")
    return ActionSpace(
        dim=data["dim"],
        names=_tuple(data.get("names")),
        kinds=None if kinds is None else tuple(ChannelKind(k) for k in kinds),
        mode=data.get("mode", "unstated"),
        frame=data.get("frame", ""),
        low=_tuple(data.get("low")),
        high=_tuple(data.get("high")),
        unit=data.get("unit", ""),
    )


def action_spec_from_dict(data: Mapping[str, Any]) -> ActionSpec:
    """Inverse of ``to_dict`` for ``ActionSpec``."""
    rest = {k: data[k] for k in ("horizon", "n_obs_steps", "n_action_steps", "dt")}
    return ActionSpec(space=action_space_from_dict(data["space"]), **rest)


def stats_from_dict(data: Mapping[str, Any]) -> dict[str, FeatureStats]:
    """Inverse of ``to_dict`` for a mapping of ``FeatureStats``."""
    return {
        key: FeatureStats(**{k: _tuple(v) if isinstance(v, list) else v for k, v in s.items()})
        for key, s in data.items()
    }
