"""ogbench_cube: two cubes to be put where the goal shows them; the published benchmark cube-double-v0.

Source: Park et al. 2025 (OGBench), package ``ogbench`` (MIT), which this module wraps.  Observations, scaling, actions,
tasks and success are the package's, so its play data train policies for this environment.  Differs in two points: the
package moves the scene by two unseeded random actions while it makes the goal observation, which also reaches the
solver's warm start, so its episodes cannot be repeated; here those actions follow from the seed.  And the reward is the
share of cubes in place (0, 0.5 or 1).
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

import gymnasium
import mujoco
import numpy as np

from robopolicy.core.errors import ConfigError
from robopolicy.core.seeding import derive_seed
from robopolicy.core.specs import GOAL, STATE, ActionSpace, FeatureKind, FeatureSpec, ObservationSpec
from robopolicy.sim.protocol import Observation, StepResult, checked_action, checked_keys
from robopolicy.sim.render import Cameras

# The package imports dm_control, which looks for a window at import unless told that nothing is to be drawn; pictures
# are drawn here by ``Cameras``, which finds a backend of its own when the first one is asked for.
_backend = os.environ.get("MUJOCO_GL")
try:
    os.environ["MUJOCO_GL"] = "off"
    from ogbench.manipspace.envs.cube_env import CubeEnv
finally:
    if _backend is None:
        del os.environ["MUJOCO_GL"]
    else:
        os.environ["MUJOCO_GL"] = _backend

PACKAGE_ID = "cube-double-v0"
CUBES = 2
TASKS = 5
FILM = (480, 640)  # largest picture
STATE_NAMES = (
    *(f"joint{i}" for i in range(1, 7)),
    *(f"joint{i}_vel" for i in range(1, 7)),
    *("effector_x", "effector_y", "effector_z", "effector_yaw_cos", "effector_yaw_sin"),
    *("gripper_opening", "gripper_contact"),
    *(
        f"cube{i}_{name}"
        for i in range(1, CUBES + 1)
        for name in ("x", "y", "z", "qw", "qx", "qy", "qz", "yaw_cos", "yaw_sin")
    ),
)
ACTION_SPACE = ActionSpace(
    dim=5,
    names=("dx", "dy", "dz", "dyaw", "gripper"),
    mode="delta",
    low=(-1.0,) * 5,
    high=(1.0,) * 5,
    unit="1 is 0.05 m, 0.05 m, 0.05 m, 0.3 rad, the whole gripper",
)


class _SeededCubes(CubeEnv):
    """The package's environment with an action space that lives on, so that its samples can be seeded."""

    def __init__(self, **options: Any) -> None:
        self._samples = gymnasium.spaces.Box(-1.0, 1.0, (5,), np.float32)
        super().__init__(env_type="double", **options)

    @property
    def action_space(self) -> gymnasium.spaces.Box:  # type: ignore[override]
        """The box of actions."""
        return self._samples

    def begin(self, seed: int, task: int) -> None:
        """Reset to the start of ``task`` that belongs to ``seed``."""
        self._samples.seed(seed)
        self.reset(seed=seed, options={"task_id": task})

    @property
    def goal(self) -> np.ndarray:
        """The observation to reach ``(37,)``."""
        goal: np.ndarray = self._cur_goal_ob
        return goal

    def placed(self) -> float:
        """Share of the cubes within 4 cm of their goals."""
        return float(np.mean(self._compute_successes()))


class OgbenchCube:
    """Two cubes, five tasks: one moved, two moved (twice), swapped, stacked.

    ``observation.state`` (37) is the package's observation and ``goal.observation.state`` (37) the one to reach.

    Args:
        task: 1..5, or 0 for the task ``1 + seed % 5``.
        max_steps: episode length; the package's (500) if None.
    """

    fps = 20.0
    task = "Bring both cubes to where the goal shows them."

    def __init__(self, task: int = 0, max_steps: int | None = None) -> None:
        if task not in range(TASKS + 1):
            raise ConfigError(f"task: expected 1..{TASKS}, or 0 to go through them by seed, got {task}")
        published = gymnasium.spec(PACKAGE_ID).max_episode_steps
        self.max_steps = int(published or 0) if max_steps is None else int(max_steps)
        self._only = task
        self.action_space = ACTION_SPACE
        size, named = (len(STATE_NAMES),), STATE_NAMES
        self.observation_spec = ObservationSpec(
            (
                FeatureSpec(STATE, size, FeatureKind.STATE, named, "rad, rad/s, 0.1 m"),
                FeatureSpec(GOAL + STATE, size, FeatureKind.GOAL, named, "rad, rad/s, 0.1 m"),
            )
        )
        self._cubes = _SeededCubes(height=FILM[0], width=FILM[1])
        self._cameras: Cameras | None = None
        self.reset(0)

    def reset(self, seed: int) -> None:
        """See ``Env.reset``."""
        self._cubes.begin(derive_seed("env", seed) % 2**31, self._only or 1 + seed % TASKS)
        self._steps, self._max_reward = 0, 0.0

    def observe(self, keys: Collection[str] | None = None) -> Observation:
        """See ``Env.observe``."""
        values = {STATE: self._cubes.compute_observation, GOAL + STATE: lambda: self._cubes.goal}
        return {key: values[key]().astype(np.float32) for key in checked_keys(keys, self.observation_spec)}

    def step(self, action: np.ndarray) -> StepResult:
        """See ``Env.step``; over once both cubes are in place."""
        clipped = checked_action(action, self.action_space)
        _, _, terminated, _, info = self._cubes.step(clipped)
        self._steps += 1
        success = bool(info["success"])
        reward = self._cubes.placed()
        self._max_reward = max(self._max_reward, reward)
        truncated = not terminated and self._steps >= self.max_steps
        more = {"max_reward": self._max_reward, "task": int(self._cubes.cur_task_id)}
        return StepResult(reward, bool(terminated), truncated, success, more)

    @property
    def model(self) -> mujoco.MjModel:
        """The package's model."""
        return self._cubes.model

    @property
    def data(self) -> mujoco.MjData:
        """The package's simulation state."""
        return self._cubes.data

    def render(self, camera: str | None = None, size: tuple[int, int] | None = None) -> np.ndarray:
        """Picture for people, 480 x 640 at most; the goals are the pale cubes."""
        if self._cameras is None:
            self._cameras = Cameras(self.model, self.data)
        return np.ascontiguousarray(self._cameras.colour(camera or "front", size or FILM, shadows=True))

    def close(self) -> None:
        """Free the GL context."""
        if self._cameras is not None:
            self._cameras.close()
