"""A policy without a network: the task's own expert, played ahead in a simulation that is set to what was observed.

For tests and for tuning the execution of chunks on the twin: what fails with it is the fault of the execution, not of
the learning.  It keeps the contract of ``act`` (chunks with dates, equal inputs give equal chunks) and reads
``observation.state`` and ``observation.environment_state`` of ``panda_lift``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np

from robopolicy.core.chunk import ActionChunk
from robopolicy.core.specs import ENVIRONMENT_STATE, STATE, ActionSpec
from robopolicy.sim.experts import make_expert
from robopolicy.sim.tasks.base import put_free_body
from robopolicy.sim.tasks.lift import PandaLift


class ExpertChunks:
    """Chunks of ``horizon`` steps for ``panda_lift`` with these ``options``; index 0 is the older of two
    observations, as in every policy with a history of two."""

    def __init__(self, horizon: int = 32, steps: int = 8, **options: Any) -> None:
        self._env = PandaLift(cameras=(), **options)
        self.observation_spec = self._env.observation_spec
        self.action_spec = ActionSpec(self._env.action_space, horizon, 2, steps, 1.0 / self._env.fps)

    def act(
        self,
        obs: Mapping[str, Any],
        noise_keys: Any = None,
        observed_at: float | np.ndarray = 0.0,
        episodes: Any = None,
    ) -> ActionChunk:
        """A chunk for one row of observations."""
        state, objects = (np.asarray(obs[key][0, -1], np.float64) for key in (STATE, ENVIRONMENT_STATE))
        env = self._env
        env.reset(0)
        self._set(state, objects)
        expert, actions = make_expert(env, 0), []
        for _ in range(self.action_spec.horizon - 1):
            actions.append(expert.act())
            env.step(actions[-1])
        chunk = np.array([actions[0], *actions], np.float32)
        return ActionChunk.stamped(chunk[None], self.action_spec, observed_at)

    def _set(self, state: np.ndarray, objects: np.ndarray) -> None:
        env, data = self._env, self._env.data
        env.arm.reset(state[:4], float(state[4]))
        put_free_body(data, "cube", objects[:3].tolist(), float(objects[3]))
        mujoco.mj_forward(env.model, data)

    def close(self) -> None:
        """Free the simulation."""
        self._env.close()
