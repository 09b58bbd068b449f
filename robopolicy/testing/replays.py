"""Episodes as a replay stores them, of seeded random numbers, for tests of replays and of what learns from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from robopolicy.core.improver import ReplayLayout
from robopolicy.core.specs import IMAGES, STATE, FeatureKind, FeatureSpec
from robopolicy.rl.replay_files import row_dtype, row_shape
from robopolicy.rl.transitions import EpisodeChunks, repeat_last


def tiny_layout(
    state_dim: int = 3,
    cameras: Mapping[str, tuple[int, int]] | None = None,
    **changes: Any,
) -> ReplayLayout:
    """A layout like ``testing.tiny.tiny_spec`` with two actions; ``changes`` are fields of ``ReplayLayout``."""
    features = [FeatureSpec(STATE, (state_dim,), FeatureKind.STATE)]
    features += [FeatureSpec(IMAGES + name, (3, *size), FeatureKind.IMAGE) for name, size in (cameras or {}).items()]
    numbers: dict[str, Any] = {"n_obs_steps": 2, "k": 3, "action_dim": 2, "latent_shape": None, "gamma": 0.9}
    return ReplayLayout(**{"features": tuple(features), **numbers, **changes})


def make_episode(
    layout: ReplayLayout, steps: int, index: int = 0, round: int = 0, success: bool = False, **changes: Any
) -> EpisodeChunks:
    """An episode of ``steps`` steps, different for each (round, index); success comes with the last step.

    ``changes`` are fields of ``EpisodeChunks``.
    """
    rng = np.random.default_rng((round, index))
    decisions = -(-steps // layout.k)
    observations = {}
    for feature in layout.features:
        shape = (decisions + 1, *row_shape(feature, layout.n_obs_steps))
        pictures = row_dtype(feature) == "|u1"
        observations[feature.key] = (
            rng.integers(0, 256, shape, np.uint8) if pictures else rng.uniform(-1, 1, shape).astype(np.float32)
        )
    action = rng.uniform(-1, 1, (decisions, layout.k, layout.action_dim)).astype(np.float32)
    action[-1] = repeat_last(action[-1], steps - (decisions - 1) * layout.k)
    latent = None
    if layout.latent_shape is not None:
        latent = rng.standard_normal((decisions, *layout.latent_shape), np.float32)
    made: dict[str, Any] = {
        "index": index,
        "seed": 1000 + index,
        "observations": observations,
        "action": action,
        "latent": latent,
        "step_rewards": rng.uniform(-1, 1, steps),
        "step_successes": np.arange(steps) == (steps - 1 if success else -1),
        "terminated": success,
        "truncated": not success,
        "env_steps": steps,
        "round": round,
    }
    return EpisodeChunks(**{**made, **changes})
