"""Between a policy and a driver: snapshots as the policy's observations, its chunks as dated poses.

Source: dated chunks and latencies as in UMI (arXiv 2402.10329).  Differs: what a channel means is read off the specs
that every checkpoint carries, and refused where it is not certain; ``follows`` says when an action's target was reached
where the policy was taught, so that a stiff simulation and a soft arm mean the same by one date.

    adapter = make_adapter(policy.observation_spec, policy.action_spec)
    require_same_features(..., adapter.offered(config), ..., adapter.space, adapter.fps)
    observation = adapter.observation(snapshot)
    driver.submit(adapter.waypoints(chunk, snapshot, epoch))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from robopolicy.core.chunk import ActionChunk
from robopolicy.core.errors import ConfigError, InvalidObservation, did_you_mean
from robopolicy.core.specs import (
    ENVIRONMENT_STATE,
    IMAGES,
    STATE,
    TASK,
    ActionSpace,
    ActionSpec,
    FeatureKind,
    FeatureSpec,
    ObservationSpec,
)
from robopolicy.real_robot.control.observations import Snapshot
from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.deploy.actions import ActionConfig, ActionForm, form_of
from robopolicy.real_robot.deploy.channels import PANDA_STATE, check_names, read_state, state_feature
from robopolicy.real_robot.driver.config import FrankaBridgeConfig
from robopolicy.real_robot.driver.pictures import decode
from robopolicy.real_robot.frames import Pose


@dataclass(frozen=True)
class Adapter:
    """One policy on one kind of robot; ``make_adapter`` makes it.

    ``wanted``, ``action``: the policy's specs.  ``form``: what its numbers mean.  ``names``: channels of
    ``observation.state``.  ``follows``: seconds from an action's date to when the tool of the demonstrations was there
    (``measured_follow``).  ``task``: for policies that read one.
    """

    wanted: ObservationSpec
    action: ActionSpec
    form: ActionForm
    names: tuple[str, ...]
    follows: float = 0.0
    task: str = ""

    # -- what fits -----------------------------------------------------------------------------------------------------

    @property
    def space(self) -> ActionSpace:
        """Actions that this robot takes through this adapter; the bounds are the policy's own."""
        return self.action.space

    @property
    def fps(self) -> float:
        """Actions a second: plans are interpolated, so any rate a policy has is one of the robot's."""
        return 1.0 / self.action.dt

    @property
    def steps(self) -> int:
        """Instants of an observation."""
        return self.action.n_obs_steps

    def offered(self, config: FrankaBridgeConfig, objects: Sequence[str] = ()) -> ObservationSpec:
        """What the robot offers to this policy, for ``feature_differences``; ``objects``: names of its tracker."""
        features = [state_feature(self.names)]
        if config.objects is not None and objects:
            names = tuple(objects)
            wanted = self.wanted[ENVIRONMENT_STATE].names if ENVIRONMENT_STATE in self.wanted else None
            # A tracker that knows more than is wanted, in another order, still has what is wanted.
            if wanted is not None and set(wanted) <= set(names):
                names = wanted
            features.append(FeatureSpec(ENVIRONMENT_STATE, (len(names),), FeatureKind.STATE, names))
        for name in config.camera_names:
            height, width = config.cameras[name].size
            features.append(FeatureSpec(IMAGES + name, (3, height, width), FeatureKind.IMAGE))
        if self.task:
            features += [f for f in self.wanted.features if f.kind is FeatureKind.LANGUAGE]
        return ObservationSpec(tuple(features))

    # -- observations --------------------------------------------------------------------------------------------------

    def observation(self, snapshot: Snapshot) -> dict[str, Any]:
        """The policy's observations, one row: ``(1, steps, ...)``, vectors float32, pictures uint8 ``(3, H, W)``.

        Raises ``InvalidObservation`` for a snapshot that lacks what the policy wants.
        """
        return {feature.key: self._feature(feature, snapshot) for feature in self.wanted.features}

    def _feature(self, feature: FeatureSpec, s: Snapshot) -> Any:
        if feature.key == STATE:
            return self._row(read_state(s, self.names), STATE)
        if feature.key == ENVIRONMENT_STATE:
            return self._row(self._objects(feature, s), ENVIRONMENT_STATE)
        if feature.kind is FeatureKind.LANGUAGE:
            return [[self.task] * self.steps]
        name = feature.key.removeprefix(IMAGES)
        if name not in s.frames:
            raise InvalidObservation(f"the snapshot has no camera '{name}'" + did_you_mean(name, s.frames))
        frames = s.frames[name]
        pictures = [decode(f, (feature.shape[1], feature.shape[2])) for f in frames]
        return self._row(np.stack(pictures).transpose(0, 3, 1, 2), feature.key)

    def _row(self, values: np.ndarray, key: str) -> np.ndarray:
        if len(values) != self.steps:
            raise InvalidObservation(f"{key}: expected {self.steps} instants, the snapshot has {len(values)}")
        return np.ascontiguousarray(values[None])

    def _objects(self, feature: FeatureSpec, s: Snapshot) -> np.ndarray:
        if s.objects is None:
            raise InvalidObservation("the snapshot has no objects; set 'objects' to the topic of a tracker")
        values = s.objects
        if feature.names is not None:
            missing = [n for n in feature.names if n not in s.object_names]
            if missing:
                hint = did_you_mean(missing[0], s.object_names)
                raise InvalidObservation(f"the tracker says nothing of '{missing[0]}'" + hint)
            values = values[:, [s.object_names.index(n) for n in feature.names]]
        if values.shape[1:] != feature.shape:
            raise InvalidObservation(
                f"objects: expected {feature.shape[0]} numbers, the tracker says {values.shape[1]}"
            )
        return values.astype(np.float32)

    # -- actions -------------------------------------------------------------------------------------------------------

    def waypoints(self, chunk: ActionChunk, snapshot: Snapshot, epoch: int, number: int = 0) -> Waypoints:
        """The steps of ``chunk`` (one row) from the newest observation on, dated when the tool shall be there."""
        start = chunk.spec.exec_start
        here = Pose(snapshot.poses.position[-1], snapshot.poses.quaternion[-1])
        track, width = self.form.poses(chunk.actions[0, start:], here)
        return Waypoints(track, chunk.stamps[0, start:] + self.follows, chunk.spec.dt, epoch, width, number)

    def actions(self, track: Pose, width: np.ndarray | None, here: Pose) -> np.ndarray:
        """Poses ``(N,)`` as the policy's numbers ``(N, D)``: what was emitted, for a record."""
        return self.form.actions(track, width, here)


def make_adapter(
    wanted: ObservationSpec,
    action: ActionSpec,
    config: ActionConfig | None = None,
    *,
    follows: float = 0.0,
    names: Sequence[str] | None = None,
    task: str = "",
) -> Adapter:
    """The adapter of a policy with these specs.

    ``names``: channels of ``observation.state``, for policies whose spec does not name them.  Raises ``ConfigError``
    for what a robot does not have: unknown channels, goals, depth, keyposes, joint actions, a task that is not given.
    """
    if not action.dt > 0:
        raise ConfigError(
            "chunks of keyposes have no dates; this robot is driven by policies whose actions have a rate"
        )
    if not -1.0 <= follows <= 1.0:
        raise ConfigError(f"follows: expected seconds within -1..1, got {follows:g}")
    for feature in wanted.features:
        if feature.kind is FeatureKind.LANGUAGE and not task:
            raise ConfigError(f"the policy reads a {TASK}; say what it shall do (task)")
        if feature.kind not in (FeatureKind.STATE, FeatureKind.IMAGE, FeatureKind.LANGUAGE):
            raise ConfigError(f"{feature.key}: the robot offers no {feature.kind.value}")
        if feature.kind is FeatureKind.IMAGE and not feature.key.startswith(IMAGES):
            raise ConfigError(f"{feature.key}: expected a picture's key to begin with {IMAGES}")
        if feature.kind is FeatureKind.STATE and feature.key not in (STATE, ENVIRONMENT_STATE):
            raise ConfigError(f"the robot does not offer {feature.key}" + did_you_mean(feature.key, (STATE,)))
    return Adapter(wanted, action, form_of(action.space, config), _state_names(wanted, names), follows, task)


def _state_names(wanted: ObservationSpec, names: Sequence[str] | None) -> tuple[str, ...]:
    if STATE not in wanted:
        return tuple(names or PANDA_STATE)
    feature = wanted[STATE]
    chosen = feature.names or (tuple(names) if names is not None else None)
    if chosen is None:
        raise ConfigError(f"{STATE}: the policy does not say what its {feature.shape[0]} channels are; state names")
    check_names(chosen)
    if (len(chosen),) != feature.shape:
        raise ConfigError(f"{STATE}: {len(chosen)} names for {feature.shape[0]} channels")
    return tuple(chosen)


def measured_follow(
    actions: Sequence[np.ndarray], states: Sequence[np.ndarray], dt: float, longest: float = 0.6
) -> float:
    """``follows`` of demonstrations: the delay at which their tool best matches their actions, seconds.

    ``actions``, ``states``: per episode positions ``(T, 3)``, of the targets and of the tool when they were given.  The
    delay with the least mean square distance, to a fifth of a period.
    """
    grid = np.arange(0.0, longest + 1e-9, dt / 5)
    errors = np.zeros(len(grid))
    for targets, tool in zip(actions, states, strict=True):
        times = dt * np.arange(len(tool))
        for k, delay in enumerate(grid):
            inside = times + delay <= times[-1]
            at = np.stack([np.interp(times[inside] + delay, times, axis) for axis in np.asarray(tool).T], axis=-1)
            errors[k] += float(np.sum((np.asarray(targets)[inside] - at) ** 2)) / max(1, int(inside.sum()))
    return float(grid[int(np.argmin(errors))])
