"""Small policies, statistics and observations: enough to exercise every border in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from robopolicy.core.specs import (
    ACTION,
    ACTION_IS_PAD,
    IMAGES,
    STATE,
    ActionSpace,
    FeatureKind,
    FeatureSpec,
    FeatureStats,
    ObservationSpec,
)
from robopolicy.encoders.config import EncoderConfig, ImageEncoderConfig
from robopolicy.policies.backbone_config import TransformerConfig, UnetConfig
from robopolicy.policies.base import Policy
from robopolicy.policies.diffusion_config import DiffusionConfig
from robopolicy.policies.registry import make_policy

TINY_UNET = UnetConfig(down_dims=(16, 32), kernel_size=3, step_embed_dim=16)
TINY_TRANSFORMER = TransformerConfig(n_layer=2, n_head=2, n_emb=16, p_drop_attn=0.1)
TINY_ENCODER = EncoderConfig(image=ImageEncoderConfig(backbone="tiny_cnn", channels=(16, 16), feature_dim=8))


def tiny_spec(state_dim: int = 3, cameras: Mapping[str, tuple[int, int]] | None = None) -> ObservationSpec:
    """A state vector (none when ``state_dim`` is 0) and cameras by short name with their ``(H, W)``."""
    features = [FeatureSpec(STATE, (state_dim,), FeatureKind.STATE)] if state_dim else []
    for name, size in (cameras or {}).items():
        features.append(FeatureSpec(IMAGES + name, (3, *size), FeatureKind.IMAGE))
    return ObservationSpec(tuple(features))


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
    **changes: Any,
) -> Policy:
    """A seeded policy in evaluation mode on ``tiny_spec``; ``changes`` are fields of its configuration."""
    spec = tiny_spec(state_dim, cameras)
    space = action_space or ActionSpace(2, low=(-1.0, -1.0), high=(1.0, 1.0))
    stats = {f.key: unit_stats(f.shape[0]) for f in spec.of_kind(FeatureKind.STATE)}
    stats[ACTION] = unit_stats(space.dim)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make_policy(tiny_config(**changes), spec, space, 10.0, stats).eval()


def random_observation(policy: Any, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Valid physical observations ``(batch, n_obs_steps, ...)`` for ``policy``; vectors within its statistics."""
    rng = np.random.default_rng(seed)
    steps = policy.action_spec.n_obs_steps
    out: dict[str, np.ndarray] = {}
    for feature in policy.observation_spec.features:
        shape = (batch, steps, *feature.shape)
        if feature.kind is FeatureKind.IMAGE:
            out[feature.key] = rng.integers(0, 256, shape, dtype=np.uint8)
        else:
            out[feature.key] = _uniform(rng, shape, getattr(policy, "stats", {}).get(feature.key))
    return out


def random_batch(policy: Any, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A training batch with LeRobot keys: observations, ``action`` and ``action_is_pad`` (last step of row 0)."""
    rng = np.random.default_rng(seed + 1)
    out = random_observation(policy, batch, seed)
    shape = (batch, policy.action_spec.horizon, policy.action_spec.dim)
    out[ACTION] = _uniform(rng, shape, getattr(policy, "stats", {}).get(ACTION))
    out[ACTION_IS_PAD] = np.zeros(shape[:2], bool)
    out[ACTION_IS_PAD][0, -1] = True
    return out


def _uniform(rng: np.random.Generator, shape: tuple[int, ...], stats: FeatureStats | None) -> np.ndarray:
    low, high = (-1.0, 1.0) if stats is None else (np.array(stats.min), np.array(stats.max))
    return rng.uniform(low, high, shape).astype(np.float32)
