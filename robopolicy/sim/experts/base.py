"""Closed-loop way-point experts: where to go is decided from the present state, never from a clock.

Because the label depends on the state alone (and on speeds drawn once per episode), the same expert labels clean
actions while noise pushes the executed ones off course, which is what teaches a policy to come back.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Protocol, cast

import numpy as np

from robopolicy.core.errors import ConfigError
from robopolicy.core.seeding import generator
from robopolicy.sim.experts.noise import Drift, Slip
from robopolicy.sim.protocol import Env

OPEN, CLOSED = 1.0, 0.0


class Expert(Protocol):
    """What collection needs of an expert."""

    def act(self) -> np.ndarray:
        """The clean action ``(D,)`` for the environment's present state."""
        ...

    def disturb(self, action: np.ndarray) -> np.ndarray:
        """The action to execute instead, ``(D,)``: ``action`` plus smooth noise."""
        ...


class PandaExpert(ABC):
    """Base of the experts for the Panda tasks.

    Args:
        env: the environment, just reset.
        seed: of the expert's own choices (speeds, heights, noise).
        noise: size of the disturbance: 1.0 wanders about 4 mm and 0.02 rad a step, correlated over half a second,
            which shifts the tool by up to a centimetre or two; in some episodes the gripper also shuts unasked.  On
            a task with a slower arm (``speed``) the walk is smaller in proportion.
    """

    def __init__(self, env: Env, seed: int, noise: float = 0.0) -> None:
        if not hasattr(env, "arm"):
            raise ConfigError(f"{type(self).__name__} drives a Panda task, got {type(env).__name__}")
        self.env: Any = env
        self.rng = generator("expert", seed)
        self.noise = noise
        self.pace: float = cast(Any, env).pace  # share of the usual speed
        self.speed = self.rng.uniform(0.016, 0.026)  # m per step, at the usual speed
        self.approach = self.rng.uniform(0.07, 0.10)  # m above an object before going down
        # An arm that goes at a third of the speed comes back at a third of it, so it is pushed as much less.
        self._drift = Drift(noise * self.pace * np.array((0.004, 0.004, 0.004, 0.02)), self.rng)
        self.slip = Slip(noise, self.rng, (4, 12))

    @abstractmethod
    def act(self) -> np.ndarray:
        """The clean action ``(5,)`` for the present state."""

    def disturb(self, action: np.ndarray) -> np.ndarray:
        """``action`` plus an Ornstein-Uhlenbeck walk on position and yaw, and the gripper's one slip, if it has one."""
        if self.noise == 0.0:
            return action
        out = action.copy()
        out[:4] += self._drift.step()
        if self.slip.step() and action[4] == OPEN:
            out[4] = CLOSED
        return out

    def towards(self, point: np.ndarray, yaw: float, gripper: float, speed: float | None = None) -> np.ndarray:
        """Action one step on the straight way from where the tool is to ``point``, slowing down near it."""
        arm = self.env.arm
        offset = point - arm.tcp
        distance = math.sqrt(float(offset @ offset))
        limit = self.pace * (speed or self.speed)
        step = offset * min(1.0, limit / max(0.6 * distance, 1e-9)) * 0.6 if distance > 0 else offset
        most = 0.1 * self.pace
        turn = min(max(yaw - arm.yaw, -most), most)
        return np.array((*(arm.tcp + step), arm.yaw + turn, gripper))
