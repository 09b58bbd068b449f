"""Calibrations of the depth cameras inside a policy, and the world points they give.

A camera that stands still has its pose in the spec; one that moves brings it with every observation
(``observation.camera_pose.<camera>``).  Both may differ from training: points are in the world frame either way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import CAMERA_POSE, DEPTH, IMAGES, CameraModel, FeatureKind, FeatureSpec, ObservationSpec
from robopolicy.encoders.point_cloud import unproject


def color_key(depth: str) -> str:
    """Key of the colour picture taken by the camera of a depth key."""
    return IMAGES + depth.removeprefix(DEPTH)


def pose_key(depth: str) -> str:
    """Key of the pose of the camera of a depth key."""
    return CAMERA_POSE + depth.removeprefix(DEPTH)


def depth_key(pose: str) -> str:
    """Key of the depth picture taken by the camera of a pose key."""
    return DEPTH + pose.removeprefix(CAMERA_POSE)


class CameraRig(nn.Module):
    """The depth cameras of a spec; ``xyz`` lifts their pictures into the world."""

    def __init__(self, spec: ObservationSpec, max_depth: float) -> None:
        """Raises ``ConfigError`` for a depth camera without calibration; pixels beyond ``max_depth`` (m) are lost."""
        super().__init__()
        self.max_depth = max_depth
        self.keys = tuple(f.key for f in spec.of_kind(FeatureKind.DEPTH))
        self.moving = frozenset(k for k in self.keys if pose_key(k) in spec)
        for key in self.keys:
            camera = _calibration(spec[key])
            self.register_buffer(_slot(key) + "/intrinsics", _matrix(camera.intrinsics, 3), persistent=False)
            self.register_buffer(_slot(key) + "/extrinsics", _matrix(camera.extrinsics, 4), persistent=False)

    def set_cameras(self, spec: ObservationSpec) -> None:
        """Take the calibrations of ``spec``; raises ``ConfigError`` if it lacks one."""
        for key in self.keys:
            if key not in spec:
                raise ConfigError(f"no calibration for '{key}': it is not among {', '.join(spec.keys)}")
            camera = _calibration(spec[key])
            self.get_buffer(_slot(key) + "/intrinsics").copy_(_matrix(camera.intrinsics, 3))
            self.get_buffer(_slot(key) + "/extrinsics").copy_(_matrix(camera.extrinsics, 4))

    def xyz(self, key: str, obs: Mapping[str, Tensor]) -> Tensor:
        """World points ``(N, 3, H, W)`` in metres of ``obs[key]`` ``(N, 1, H, W)``; NaN where there is no return.

        A moving camera's pose is ``obs[pose_key(key)]`` ``(N, 4, 4)``.
        """
        depth = obs[key].float()
        pose = obs[pose_key(key)] if key in self.moving else self.get_buffer(_slot(key) + "/extrinsics")
        points = unproject(depth, self.get_buffer(_slot(key) + "/intrinsics"), pose)
        return points.masked_fill((depth <= 0) | (depth > self.max_depth), torch.nan)


def recalibrated(spec: ObservationSpec, place: ObservationSpec) -> ObservationSpec:
    """``spec`` with the calibrations that ``place`` (an environment, a robot) states for the same keys.

    Without depth cameras ``spec`` comes back as it is.  Raises ``ConfigError`` if one has no calibration there.
    """
    if not spec.of_kind(FeatureKind.DEPTH):
        return spec
    features, offered = [], {f.key: f for f in place.features}
    for feature in spec.features:
        there = offered.get(feature.key)
        if feature.kind is FeatureKind.DEPTH:
            if there is None:
                raise ConfigError(f"no calibration for '{feature.key}': it is not among {', '.join(place.keys)}")
            _calibration(there)
        camera = there.camera if there is not None and there.camera is not None else feature.camera
        features.append(dataclasses.replace(feature, camera=camera))
    return ObservationSpec(tuple(features))


def _calibration(feature: FeatureSpec) -> CameraModel:
    camera = feature.camera
    if camera is None:
        raise ConfigError(
            f"{feature.key}: no calibration, so its pixels have no place in space; record the camera's intrinsics and "
            "pose (FeatureSpec.camera), or leave the key out of observation_keys"
        )
    if len(camera.intrinsics) != 9 or len(camera.extrinsics) != 16:
        raise ConfigError(
            f"{feature.key}: expected 3x3 intrinsics and 4x4 extrinsics, got {len(camera.intrinsics)} and "
            f"{len(camera.extrinsics)} numbers"
        )
    return camera


def _matrix(values: tuple[float, ...], size: int) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(size, size)


def _slot(key: str) -> str:
    return key.replace(".", "/")
