"""Does this policy fit this environment?  Asked before the first step, answered in one line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from robopolicy.core.errors import ConfigError, InvalidObservation, PolicyInterfaceError, did_you_mean
from robopolicy.core.specs import CAMERA_POSE, DEPTH, IMAGES, FeatureKind, FeatureSpec, ObservationSpec
from robopolicy.datasets.layout_v3 import INFO
from robopolicy.sim.collect import RECORD
from robopolicy.sim.pool import Description
from robopolicy.sim.registry import EnvConfig

DRAWN = {"fast_visuals": True}  # options that change pictures and nothing else, and their defaults
NEEDED = ("act", "reset", "action_spec", "observation_spec")


def check_fits(policy: Any, description: Description, env_name: str) -> None:
    """Check contract, observation keys and shapes, and actions.

    Raises:
        PolicyInterfaceError: the object is no policy.
        InvalidObservation: keys or shapes differ.
        ActionSpaceMismatch: actions mean something else, or come at another rate.
    """
    missing = [name for name in NEEDED if not hasattr(policy, name)]
    if missing:
        raise PolicyInterfaceError(f"{type(policy).__name__} is no policy: it has no {', '.join(missing)}")
    check_stride(policy)
    offered = description.observation_spec
    for feature in policy.observation_spec.features:
        if feature.kind is FeatureKind.LANGUAGE:
            continue
        if feature.key not in offered:
            hint = did_you_mean(feature.key, offered.keys)
            raise InvalidObservation(
                f"the policy reads '{feature.key}', which environment '{env_name}' does not give{hint}; "
                "choose the environment's cameras and observation type with env.kwargs"
            )
        theirs = offered[feature.key]
        if tuple(feature.shape) != tuple(theirs.shape):
            mend = (
                "set image_size in env.kwargs"
                if feature.kind is FeatureKind.IMAGE
                else "use the task it was trained on"
            )
            raise InvalidObservation(
                f"'{feature.key}': the policy expects {tuple(feature.shape)}, environment '{env_name}' gives "
                f"{tuple(theirs.shape)}; {mend}"
            )
        _check_camera(feature, offered, policy, env_name)
        if feature.names and theirs.names and feature.names != theirs.names:
            raise InvalidObservation(
                f"'{feature.key}': the policy expects the channels {', '.join(feature.names)}, environment "
                f"'{env_name}' gives {', '.join(theirs.names)}"
            )
    policy.action_spec.check_matches(description.action_space, description.fps, f"environment '{env_name}'")


def check_pictures(dataset: Path, env: EnvConfig, keys: Iterable[str] | None) -> None:
    """Raise ``ConfigError`` if a dataset made in ``env`` was drawn in another way than ``env`` draws.

    Pictures of both kinds have equal keys and shapes, so nothing else would tell.  ``keys`` are those the policy reads,
    None for all.
    """
    collected = _drawn_in(dataset)
    reads = keys is None or any(key.startswith((IMAGES, DEPTH)) for key in keys)
    if not reads or collected is None or collected["name"] != env.name:
        return
    for option, default in DRAWN.items():
        theirs, ours = collected["kwargs"].get(option, default), env.kwargs.get(option, default)
        if theirs != ours:
            raise ConfigError(
                f"{dataset} was collected with {option}: {theirs}, env.kwargs has {ours}; the pictures differ: "
                f"set env.kwargs.{option} to {theirs}, or collect again"
            )


def _drawn_in(dataset: Path) -> dict[str, Any] | None:
    """``name`` and ``kwargs`` of the environment that drew a dataset, as far as the dataset says."""
    env: dict[str, Any] | None = None
    if (dataset / RECORD).is_file():
        env = json.loads((dataset / RECORD).read_text())["env"]
    elif (dataset / INFO).is_file():
        env = json.loads((dataset / INFO).read_text()).get("robopolicy", {}).get("source", {}).get("env")
    return env


def check_stride(policy: Any) -> None:
    """Raise ``ConfigError`` for a recurrent policy that would plan at another interval than it was trained at."""
    if not getattr(policy, "recurrent", False):
        return
    trained, executed = policy.needs.chain_stride, policy.action_spec.n_action_steps
    if trained != executed:
        raise ConfigError(
            f"the policy's memory steps once every {trained} actions (trained n_action_steps), but {executed} a plan "
            f"would be executed; execute {trained}, or train with n_action_steps={executed}"
        )


def _check_camera(feature: FeatureSpec, offered: ObservationSpec, policy: Any, env_name: str) -> None:
    """Depth needs to know where its camera is, in the way the policy was trained."""
    if feature.kind is not FeatureKind.DEPTH:
        return
    if offered[feature.key].camera is None:
        raise InvalidObservation(
            f"the policy reads '{feature.key}', but environment '{env_name}' states no calibration of that camera; "
            "give its FeatureSpec a CameraModel"
        )
    pose = CAMERA_POSE + feature.key.removeprefix(DEPTH)
    if pose in offered and pose not in policy.observation_spec:
        raise InvalidObservation(
            f"the camera of '{feature.key}' moves in environment '{env_name}', and the policy does not read '{pose}'; "
            "train on data that has this key"
        )


@contextmanager
def calibrated(policy: Any, observation_spec: ObservationSpec) -> Iterator[None]:
    """Inside, the policy has the cameras' calibrations of ``observation_spec``; afterwards its own again.

    A policy in training is saved after its evaluations, and its training data have the cameras they were recorded with.
    """
    own = policy.observation_spec
    if not hasattr(policy, "calibrate"):
        yield
        return
    policy.calibrate(observation_spec)
    try:
        yield
    finally:
        policy.calibrate(own)
