"""What every environment offers: LeRobot observation keys, physical actions, explicit seeds, frames only on demand.

Differs from ``gymnasium.Env`` on purpose: ``reset`` takes the seed and returns nothing, ``step`` renders nothing, and
``observe`` computes exactly the keys it is asked for, so a policy that reads two of eight frames pays for two.
``robopolicy.sim.gym_adapter`` gives the gymnasium view; ``robopolicy.testing.check_env`` checks the rules below.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from robopolicy.core.errors import InvalidObservation, did_you_mean
from robopolicy.core.guard import ensure_finite_action
from robopolicy.core.specs import ActionSpace, ObservationSpec

Observation = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class StepResult:
    """Outcome of one control step.

    ``terminated``: the task is over, solved or lost for good.  ``truncated``: ``max_steps`` was reached without that.
    ``success`` is true from the step on which the task counts as solved.  ``info`` always has ``max_reward``, the
    largest reward of the episode so far, which is the episode's score.
    """

    reward: float
    terminated: bool
    truncated: bool
    success: bool
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether the episode is over, either way."""
        return self.terminated or self.truncated


@runtime_checkable
class Env(Protocol):
    """A seeded, single, synchronous environment.

    Rules: the whole episode is a function of ``reset(seed)`` and the actions, bit for bit, in any process; ``observe``
    changes nothing; observations are those of ``observation_spec`` (step shapes, images ``(3, H, W)`` uint8, everything
    else float32); actions outside the bounds are clipped to them, non-finite ones raise ``InvalidAction``.
    """

    observation_spec: ObservationSpec
    action_space: ActionSpace
    fps: float
    max_steps: int
    task: str

    def reset(self, seed: int) -> None:
        """Begin the episode that belongs to ``seed`` (any integer >= 0)."""
        ...

    def observe(self, keys: Collection[str] | None = None) -> Observation:
        """Observations of the present state; only ``keys`` (default: all), only those are rendered."""
        ...

    def step(self, action: np.ndarray) -> StepResult:
        """Apply one physical action ``(D,)`` for ``1 / fps`` seconds."""
        ...

    def render(self, camera: str | None = None, size: tuple[int, int] | None = None) -> np.ndarray:
        """A picture ``(height, width, 3)`` uint8 for people; never part of the observation."""
        ...

    def close(self) -> None:
        """Release windows and GL contexts; a second call does nothing."""
        ...


def checked_action(action: Any, space: ActionSpace) -> np.ndarray:
    """``action`` as float64 ``(D,)`` clipped to the bounds; raises ``InvalidAction`` on a wrong shape or NaN/inf."""
    a = ensure_finite_action(action, space)
    if space.low is None or space.high is None:
        return a
    return np.minimum(np.maximum(a, space.low), space.high)


def checked_keys(keys: Collection[str] | None, spec: ObservationSpec) -> tuple[str, ...]:
    """The keys to compute; raises ``InvalidObservation`` for a key that the environment does not offer."""
    if keys is None:
        return spec.keys
    for key in keys:
        if key not in spec:
            raise InvalidObservation(f"this environment offers no '{key}'" + did_you_mean(key, spec.keys))
    return tuple(keys)
