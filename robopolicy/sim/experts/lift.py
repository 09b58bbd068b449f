"""Expert for panda_lift: above the cube, down, close, up."""

from __future__ import annotations

import numpy as np

from robopolicy.sim.experts.base import CLOSED, OPEN, PandaExpert
from robopolicy.sim.protocol import Env
from robopolicy.sim.tasks.base import quarter_turn_yaw
from robopolicy.sim.tasks.lift import HALF

GRASPED = 2 * HALF + 0.004  # m, finger distance below which the cube is between them


class LiftExpert(PandaExpert):
    """Grasps along the cube's own yaw; starts over if the cube slips."""

    def __init__(self, env: Env, seed: int, noise: float = 0.0) -> None:
        super().__init__(env, seed, noise)
        self.top = self.rng.uniform(0.16, 0.20)

    def act(self) -> np.ndarray:
        """See ``Expert.act``."""
        arm, data = self.env.arm, self.env.data
        cube, yaw = data.body("cube").xpos.copy(), quarter_turn_yaw(data, "cube")
        return grasp_and(self, arm.tcp, cube, yaw, np.array((cube[0], cube[1], self.top)))


def grasp_and(expert: PandaExpert, tcp: np.ndarray, cube: np.ndarray, yaw: float, goal: np.ndarray) -> np.ndarray:
    """Grasp ``cube`` and bring it towards ``goal``; the phase follows from where the tool and the fingers are."""
    width, turn = expert.env.arm.width, abs(yaw - expert.env.arm.yaw)
    aside = float(np.hypot(*(tcp[:2] - cube[:2])))
    above = float(tcp[2] - cube[2])
    if aside < 0.02 and above < 0.012:  # around the cube
        if width < GRASPED:
            return expert.towards(goal, yaw, CLOSED)
        if (aside < 0.012 and turn < 0.15) or width < 0.07:
            return expert.towards(cube, yaw, CLOSED)
    if aside < min(0.010 + 0.25 * max(above - 0.02, 0.0), 0.03) and turn < 0.2 and width > 0.055:
        return expert.towards(cube, yaw, OPEN)
    height = cube[2] + expert.approach
    # Below the approach height and off to the side: rise on the way, so that the fingers do not sweep the cube.
    return expert.towards(np.array((cube[0], cube[1], height)), yaw, OPEN)
