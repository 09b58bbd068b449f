"""Expert for panda_push: go round behind the puck, down, push along the line to the goal."""

from __future__ import annotations

import numpy as np

from robopolicy.sim.experts.base import CLOSED, PandaExpert
from robopolicy.sim.protocol import Env
from robopolicy.sim.tasks.push import RADIUS

FINGER = 0.012  # m, half the fingers' thickness with room
DEPTH = 0.018  # m, tool height while pushing


class PushExpert(PandaExpert):
    """Keeps the fingers on the far side of the puck from the goal; lifts and starts over when they slip off."""

    def __init__(self, env: Env, seed: int, noise: float = 0.0) -> None:
        super().__init__(env, seed, noise)
        self.push_speed = self.rng.uniform(0.010, 0.016)
        self.gap = self.rng.uniform(0.02, 0.035)

    def act(self) -> np.ndarray:
        """See ``Expert.act``."""
        tcp, goal = self.env.arm.tcp, self.env.goal
        puck = self.env.data.body("puck").xpos[:2]
        way = goal - puck
        distance = float(np.hypot(*way))
        along = way / max(distance, 1e-6)
        behind = puck - along * (RADIUS + FINGER + self.gap)
        relative = tcp[:2] - puck
        ahead, side = float(relative @ along), float(relative[0] * along[1] - relative[1] * along[0])
        low = tcp[2] < DEPTH + 0.012
        if low and ahead < -0.5 * RADIUS and abs(side) < 0.018:
            return self._push(tcp, puck, along, side, distance)
        aside = float(np.hypot(*(tcp[:2] - behind)))
        if aside < 0.02 or (low and aside < 0.03):
            return self.towards(np.array((*behind, DEPTH)), 0.0, CLOSED)
        if low or (tcp[2] < 0.05 and float(np.hypot(*relative)) < RADIUS + 0.04):
            return self.towards(np.array((*tcp[:2], 0.09)), 0.0, CLOSED)
        height = DEPTH + self.approach * min(1.0, aside / 0.08 + 0.3)
        return self.towards(np.array((*behind, height)), 0.0, CLOSED)

    def _push(self, tcp: np.ndarray, puck: np.ndarray, along: np.ndarray, side: float, distance: float) -> np.ndarray:
        """One step along the line, steering back onto it (``side`` is the distance to its right)."""
        across = np.array((along[1], -along[0]))
        contact = puck - along * (RADIUS + FINGER * 0.5)
        point = contact + along * min(distance, 0.04) - across * 1.5 * side
        return self.towards(np.array((*point, DEPTH)), 0.0, CLOSED, self.push_speed)
