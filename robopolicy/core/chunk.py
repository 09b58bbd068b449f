"""Time-stamped action chunks: what a policy hands to an executor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from robopolicy.core.errors import InvalidChunk
from robopolicy.core.specs import ActionSpec


@dataclass(frozen=True)
class ActionChunk:
    """Physical actions ``(B, horizon, D)`` float32 and the time of every step.

    ``stamps`` ``(B, horizon)`` float64 seconds: ``stamps[:, exec_start]`` is the time of the newest observation.
    ``info`` ``(B,)`` numbers by name: what the policy tells about each row's chunk, such as its energy.
    """

    actions: np.ndarray
    stamps: np.ndarray
    spec: ActionSpec
    info: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        want = (self.spec.horizon, self.spec.dim)
        if self.actions.ndim != 3 or self.actions.shape[1:] != want:
            raise InvalidChunk(f"chunk actions: expected (B, {want[0]}, {want[1]}), got {self.actions.shape}")
        if self.stamps.shape != self.actions.shape[:2]:
            raise InvalidChunk(f"chunk stamps: expected {self.actions.shape[:2]}, got {self.stamps.shape}")
        if not np.isfinite(self.actions).all():
            raise InvalidChunk("chunk actions are not finite; the policy or its normaliser is broken")
        for key, values in self.info.items():
            if values.shape != self.actions.shape[:1]:
                raise InvalidChunk(f"chunk info '{key}': expected ({len(self.actions)},), got {values.shape}")

    @staticmethod
    def stamped(
        actions: np.ndarray,
        spec: ActionSpec,
        observed_at: np.ndarray | float = 0.0,
        info: Mapping[str, np.ndarray] | None = None,
    ) -> ActionChunk:
        """Chunk whose executed part starts at ``observed_at`` (seconds, scalar or ``(B,)``)."""
        start = np.broadcast_to(np.asarray(observed_at, np.float64), (len(actions),))
        offsets = (np.arange(spec.horizon) - spec.exec_start) * spec.dt
        stamps = start[:, None] + offsets
        return ActionChunk(np.ascontiguousarray(actions, np.float32), stamps, spec, info or {})

    @property
    def executable(self) -> np.ndarray:
        """``(B, n_action_steps, D)``: the part to execute before planning again."""
        return self.actions[:, self.spec.exec_slice]

    def due(self, now: float, slack: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Steps of row 0 that are not late at ``now``: ``(actions (n, D), stamps (n,))``.

        Late steps are dropped, not run late.  Steps before ``exec_start`` are in the past by definition.
        """
        start = self.spec.exec_start
        keep = self.stamps[0, start:] >= now - slack
        return self.actions[0, start:][keep], self.stamps[0, start:][keep]
