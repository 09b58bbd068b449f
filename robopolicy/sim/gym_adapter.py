"""The gymnasium view of an environment, for tools that speak gymnasium; our own code does without.

Differs from the protocol where gymnasium asks for it: ``reset(seed=None)`` continues a generator, every observation key
is computed at each step (name the ones wanted in ``keys``), and vectors have no declared bounds.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from robopolicy.core.specs import FeatureKind, FeatureSpec
from robopolicy.sim.protocol import Env, Observation, checked_keys


def feature_space(feature: FeatureSpec) -> spaces.Box:
    """The box of one observation feature."""
    if feature.kind is FeatureKind.IMAGE:
        return spaces.Box(0, 255, feature.shape, np.uint8)
    low = 0.0 if feature.kind is FeatureKind.DEPTH else -np.inf
    return spaces.Box(low, np.inf, feature.shape, np.float32)


class GymAdapter(gymnasium.Env[Observation, np.ndarray]):
    """Wraps a protocol environment as a ``gymnasium.Env`` with a dictionary observation.

    Args:
        env: the environment; the adapter owns it and closes it.
        keys: observation keys to offer; all of them if None.
        render_mode: ``"rgb_array"`` or None.
    """

    def __init__(self, env: Env, keys: Collection[str] | None = None, render_mode: str | None = "rgb_array") -> None:
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": env.fps}
        self.env, self.render_mode = env, render_mode
        self._keys = checked_keys(keys, env.observation_spec)
        boxes: Any = {key: feature_space(env.observation_spec[key]) for key in self._keys}
        self.observation_space = spaces.Dict(boxes)  # type: ignore[assignment]
        space = env.action_space
        low = np.full(space.dim, -np.inf) if space.low is None else np.array(space.low)
        high = np.full(space.dim, np.inf) if space.high is None else np.array(space.high)
        self.action_space = spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict]:
        """Start an episode: ``seed``'s own, or the next one of this adapter's generator."""
        super().reset(seed=seed)
        self.env.reset(int(self.np_random.integers(2**31)) if seed is None else seed)
        return self.env.observe(self._keys), {}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One step; ``info["is_success"]`` says whether the task counts as solved."""
        r = self.env.step(action)
        info = {**r.info, "is_success": bool(r.success)}
        return self.env.observe(self._keys), float(r.reward), bool(r.terminated), bool(r.truncated), info

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """Picture ``(height, width, 3)`` uint8."""
        return self.env.render() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Close the environment."""
        self.env.close()
