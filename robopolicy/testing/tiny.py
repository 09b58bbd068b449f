"""Small policies, statistics and observations: enough to exercise every border in milliseconds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch

from robopolicy.core.specs import (
    ACTION,
    ACTION_IS_PAD,
    CAMERA_POSE,
    DEPTH,
    GOAL,
    GOAL_IS_PAD,
    IMAGES,
    STATE,
    TASK,
    ActionSpace,
    CameraModel,
    FeatureKind,
    FeatureSpec,
    FeatureStats,
    ObservationSpec,
    without_goal,
)
from robopolicy.encoders.config import EncoderConfig, ImageEncoderConfig, LanguageConfig, PointCloudConfig
from robopolicy.policies.backbone_config import TransformerConfig, UnetConfig
from robopolicy.policies.base import Policy
from robopolicy.policies.diffusion_config import DiffusionConfig
from robopolicy.policies.registry import make_policy

TINY_UNET = UnetConfig(down_dims=(16, 32), kernel_size=3, step_embed_dim=16)
TINY_TRANSFORMER = TransformerConfig(n_layer=2, n_head=2, n_emb=16, p_drop_attn=0.1)
TINY_SENTENCES = ("lift the cube", "push the cube to the mark")
TINY_ENCODER = EncoderConfig(
    image=ImageEncoderConfig(backbone="tiny_cnn", channels=(16, 16), feature_dim=8),
    point_cloud=PointCloudConfig(n_points=16, channels=(8, 16), feature_dim=8),
    language=LanguageConfig(vocabulary=TINY_SENTENCES, dim=4),
)


def tiny_spec(
    state_dim: int = 3,
    cameras: Mapping[str, tuple[int, int]] | None = None,
    depth: Mapping[str, tuple[int, int]] | None = None,
    moving: Collection[str] = (),
    language: bool = False,
) -> ObservationSpec:
    """A state vector (none when ``state_dim`` is 0), cameras and depth cameras by short name with their ``(H, W)``.

    The ``moving`` ones of the depth cameras also give their pose.
    """
    features = [FeatureSpec(STATE, (state_dim,), FeatureKind.STATE)] if state_dim else []
    for name, size in (cameras or {}).items():
        features.append(FeatureSpec(IMAGES + name, (3, *size), FeatureKind.IMAGE))
    for name, size in (depth or {}).items():
        camera = tiny_camera(size)
        features.append(FeatureSpec(DEPTH + name, (1, *size), FeatureKind.DEPTH, unit="m", camera=camera))
        if name in moving:
            features.append(FeatureSpec(CAMERA_POSE + name, (4, 4), FeatureKind.POSE))
    if language:
        features.append(FeatureSpec(TASK, (), FeatureKind.LANGUAGE))
    return ObservationSpec(tuple(features))


def tiny_camera(size: tuple[int, int], position: tuple[float, float, float] = (0.0, 0.0, 1.0)) -> CameraModel:
    """A camera of 53 degrees at ``position`` (metres) that looks straight down."""
    height, width = size
    x, y, z = position
    intrinsics = (float(height), 0.0, width / 2, 0.0, float(height), height / 2, 0.0, 0.0, 1.0)
    return CameraModel(intrinsics, (1.0, 0.0, 0.0, x, 0.0, -1.0, 0.0, y, 0.0, 0.0, -1.0, z, 0.0, 0.0, 0.0, 1.0))


def unit_stats(dim: int, scale: float = 1.0, shift: float = 0.0) -> FeatureStats:
    """Statistics of ``dim`` channels, uniform on ``shift +- scale``."""
    low, high = (shift - scale,) * dim, (shift + scale,) * dim
    return FeatureStats(low, high, (shift,) * dim, (scale / 3**0.5,) * dim, 1000, low, high)


def tiny_config(**changes: Any) -> DiffusionConfig:
    """A Diffusion Policy of a few thousand parameters; ``changes`` are fields of ``DiffusionConfig``."""
    small: dict[str, Any] = {
        "unet": TINY_UNET,
        "transformer": TINY_TRANSFORMER,
        "encoder": TINY_ENCODER,
        "num_inference_steps": 4,
    }
    return DiffusionConfig(**{**small, **changes})


def tiny_policy(
    state_dim: int = 3,
    cameras: Mapping[str, tuple[int, int]] | None = None,
    action_space: ActionSpace | None = None,
    seed: int = 0,
    observation_spec: ObservationSpec | None = None,
    **changes: Any,
) -> Policy:
    """A seeded policy in evaluation mode on ``tiny_spec``; ``changes`` are fields of its configuration.

    ``observation_spec`` instead of ``state_dim`` and ``cameras`` is read whole, depth and language included.
    """
    spec = observation_spec or tiny_spec(state_dim, cameras)
    if observation_spec is not None:
        changes.setdefault("observation_keys", spec.keys)
    space = action_space or ActionSpace(2, low=(-1.0, -1.0), high=(1.0, 1.0))
    stats = {f.key: unit_stats(f.shape[0]) for f in spec.of_kind(FeatureKind.STATE)}
    stats[ACTION] = unit_stats(space.dim)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make_policy(tiny_config(**changes), spec, space, 10.0, stats).eval()


def random_observation(policy: Any, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Valid physical observations ``(batch, n_obs_steps, ...)`` for ``policy``; vectors within its statistics."""
    rng = np.random.default_rng(seed)
    out: dict[str, np.ndarray] = {}
    for feature in policy.observation_spec.features:
        steps = policy.needs.goal_steps if feature.kind is FeatureKind.GOAL else policy.action_spec.n_obs_steps
        shape = (batch, steps, *feature.shape)
        kind = without_goal(feature).kind
        if kind is FeatureKind.IMAGE:
            out[feature.key] = rng.integers(0, 256, shape, dtype=np.uint8)
        elif kind is FeatureKind.DEPTH:
            seen = rng.random(shape) > 0.05  # the others gave no return
            out[feature.key] = (rng.uniform(0.3, 2.0, shape) * seen).astype(np.float32)
        elif kind is FeatureKind.POSE:
            out[feature.key] = random_poses(rng, shape[:2])
        elif kind is FeatureKind.LANGUAGE:
            known = policy.config.encoder.language.vocabulary
            rows = rng.integers(len(known), size=batch)
            out[feature.key] = np.array([[known[r]] * steps for r in rows], dtype=object)
        else:
            out[feature.key] = _uniform(rng, shape, getattr(policy, "stats", {}).get(feature.key.removeprefix(GOAL)))
    return out


def random_batch(policy: Any, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A training batch with LeRobot keys: observations, ``action`` and ``action_is_pad`` (last step of row 0).

    With goals also ``goal_is_pad`` (row 1).
    """
    rng = np.random.default_rng(seed + 1)
    out = random_observation(policy, batch, seed)
    shape = (batch, policy.action_spec.horizon, policy.action_spec.dim)
    out[ACTION] = _uniform(rng, shape, getattr(policy, "stats", {}).get(ACTION))
    out[ACTION_IS_PAD] = np.zeros(shape[:2], bool)
    out[ACTION_IS_PAD][0, -1] = True
    if policy.observation_spec.of_kind(FeatureKind.GOAL):
        out[GOAL_IS_PAD] = np.arange(batch) == 1
    return out


def random_poses(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Camera-to-world poses ``(*shape, 4, 4)`` float32: any rotation, within half a metre of (0, 0, 1)."""
    rotation, _ = np.linalg.qr(rng.standard_normal((*shape, 3, 3)))
    rotation[..., :, 0] *= np.linalg.det(rotation)[..., None]  # right-handed
    poses = np.zeros((*shape, 4, 4), np.float32)
    poses[..., :3, :3], poses[..., 3, 3] = rotation, 1.0
    poses[..., :3, 3] = rng.uniform((-0.5, -0.5, 0.5), (0.5, 0.5, 1.5), (*shape, 3))
    return poses


def _uniform(rng: np.random.Generator, shape: tuple[int, ...], stats: FeatureStats | None) -> np.ndarray:
    low, high = (-1.0, 1.0) if stats is None else (np.array(stats.min), np.array(stats.max))
    return rng.uniform(low, high, shape).astype(np.float32)
