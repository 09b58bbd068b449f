"""What every task of the embedded simulations does the same way: observing, stepping, scoring, drawing.

A family of tasks (``tasks.base`` with one arm, ``bimanual.env`` with two) says how its arm moves and what it feels; a
task says how it starts and when it is solved.  An episode is over once the goal has held for ``HOLD`` steps in a row,
or is lost.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import mujoco
import numpy as np

from robopolicy.core.specs import ENVIRONMENT_STATE, STATE, ActionSpace, FeatureKind, FeatureSpec, ObservationSpec
from robopolicy.sim.protocol import Observation, StepResult, checked_action, checked_keys
from robopolicy.sim.render import Cameras
from robopolicy.sim.snapshot import Fields

# What a step may change in the model: lamps that go on, lights that flicker.  Only pictures show it.
LOOKS = ("geom_matid", "geom_rgba", "light_active", "light_pos", "light_dir", "light_diffuse")


@dataclass(frozen=True)
class Photograph:
    """Everything that a step of an embedded task reads: the physics, and what task and arms remember."""

    data: mujoco.MjData
    looks: dict[str, np.ndarray]
    fields: tuple[Fields, ...]


class EmbeddedTask(ABC):
    """Base of the families; ``model``, ``data``, ``cameras``, ``action_space``, ``max_steps``, ``_size`` are theirs to
    set, and ``arm`` or ``arms``."""

    HOLD: ClassVar[int] = 1
    model: mujoco.MjModel
    data: mujoco.MjData
    cameras: Cameras
    action_space: ActionSpace
    observation_spec: ObservationSpec
    max_steps: int
    _size: tuple[int, int]

    # -- what a family answers -----------------------------------------------------------------------------------------

    @abstractmethod
    def _felt(self) -> np.ndarray:
        """Values of ``observation.state``."""

    @abstractmethod
    def _move(self, action: np.ndarray) -> None:
        """Advance the physics by one control step towards ``action``, already clipped to the bounds."""

    # -- what a task answers -------------------------------------------------------------------------------------------

    @abstractmethod
    def _environment_state(self) -> Sequence[float]:
        """Values of ``observation.environment_state``."""

    @abstractmethod
    def _goal_holds(self) -> bool:
        """Whether the goal is met at this instant."""

    @abstractmethod
    def _progress(self) -> float:
        """Reward in 0..1 that grows towards the goal."""

    def _advance(self) -> None:  # noqa: B027 - most tasks have nothing to do here
        """Called after every control step, before the goal is looked at: signals and other things with a memory."""

    def _failed(self) -> bool:
        """Whether the episode is lost for good, which ends it."""
        return False

    # -- the protocol --------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """At the end of ``reset``: nothing was scored yet."""
        self._steps, self._held, self._max_reward = 0, 0, 0.0

    def observe(self, keys: Collection[str] | None = None) -> Observation:
        """See ``Env.observe``."""
        out: Observation = {}
        for key in checked_keys(keys, self.observation_spec):
            if key == STATE:
                out[key] = self._felt().astype(np.float32)
            elif key == ENVIRONMENT_STATE:
                out[key] = np.array(self._environment_state(), np.float32)
            else:
                out[key] = self.cameras.observe(key, self._size)
        return out

    def step(self, action: np.ndarray) -> StepResult:
        """See ``Env.step``; solved, and over, once the goal has held for ``HOLD`` consecutive steps."""
        self._move(checked_action(action, self.action_space))
        return self.judge()

    def judge(self) -> StepResult:
        """Score a control step that has just happened; ``step`` does, and whoever moves the arm by other means."""
        self._steps += 1
        self._advance()
        failed = self._failed()
        self._held = self._held + 1 if self._goal_holds() else 0
        success = self._held >= self.HOLD and not failed
        reward = 1.0 if success else min(max(self._progress(), 0.0), 1.0)
        self._max_reward = max(self._max_reward, reward)
        over = success or failed
        truncated = not over and self._steps >= self.max_steps
        return StepResult(reward, over, truncated, success, {"max_reward": self._max_reward})

    def snapshot(self) -> Photograph:
        """The whole present state, for ``restore``: MuJoCo's data to the last contact, and every plain attribute."""
        looks = {name: getattr(self.model, name).copy() for name in LOOKS}
        return Photograph(copy.copy(self.data), looks, tuple(Fields.of(thing) for thing in self._remembering()))

    def restore(self, state: Photograph) -> None:
        """Return to a ``snapshot`` of this instance's present episode; what follows is the same bit for bit."""
        mujoco.mj_copyData(self.data, self.model, state.data)
        for name, values in state.looks.items():
            getattr(self.model, name)[...] = values
        for thing, fields in zip(self._remembering(), state.fields, strict=True):
            fields.put_back(thing)

    def _remembering(self) -> tuple[Any, ...]:
        """Objects with attributes that steps change: the task and its arms."""
        return (self, *(vars(self)[name] for name in ("arm", "arms") if name in vars(self)))

    def render(self, camera: str | None = None, size: tuple[int, int] | None = None) -> np.ndarray:
        """Picture with shadows for people, 480 x 640 from the camera ``view`` unless told otherwise."""
        return np.ascontiguousarray(self.cameras.colour(camera or "view", size or (480, 640), shadows=True))

    def close(self) -> None:
        """Free the GL context."""
        self.cameras.close()


def vectors(state: tuple[str, ...], unit: str, objects: tuple[str, ...]) -> tuple[FeatureSpec, FeatureSpec]:
    """The two low-dimensional features, from the names of their channels; ``unit`` is that of the state."""
    return (
        FeatureSpec(STATE, (len(state),), FeatureKind.STATE, state, unit),
        FeatureSpec(ENVIRONMENT_STATE, (len(objects),), FeatureKind.STATE, objects, "m, rad"),
    )
