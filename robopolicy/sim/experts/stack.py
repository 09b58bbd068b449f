"""Expert for panda_stack: grasp, carry above the base, lower, let go, leave."""

from __future__ import annotations

import numpy as np

from robopolicy.sim.experts.base import CLOSED, OPEN, PandaExpert
from robopolicy.sim.experts.lift import GRASPED, grasp_and
from robopolicy.sim.protocol import Env
from robopolicy.sim.tasks.base import quarter_turn_yaw
from robopolicy.sim.tasks.stack import BASE_HALF, HALF


class StackExpert(PandaExpert):
    """Carries the cube at a height drawn once an episode; starts over if it drops."""

    def __init__(self, env: Env, seed: int, noise: float = 0.0) -> None:
        super().__init__(env, seed, noise)
        self.carry = self.rng.uniform(0.045, 0.065)  # m above the place

    def act(self) -> np.ndarray:
        """See ``Expert.act``."""
        arm, data = self.env.arm, self.env.data
        tcp, cube, base = arm.tcp, data.body("cube").xpos.copy(), data.body("base").xpos
        yaw = quarter_turn_yaw(data, "cube")
        place = base + np.array((0.0, 0.0, BASE_HALF + HALF))
        offset = cube - place
        aside = float(np.hypot(offset[0], offset[1]))
        if aside < 0.018 and offset[2] < 0.006:  # on its place: let go, then leave upwards
            if arm.width < 0.06:
                return self.towards(tcp, arm.yaw, OPEN)
            return self.towards(np.array((tcp[0], tcp[1], place[2] + 0.12)), arm.yaw, OPEN)
        held = arm.width < GRASPED and abs(tcp[2] - cube[2]) < 0.02 and float(np.hypot(*(tcp - cube)[:2])) < 0.02
        if not held:
            return grasp_and(self, tcp, cube, yaw, np.array((cube[0], cube[1], place[2] + self.carry)))
        grip = tcp - cube
        if aside < 0.008 or (aside < 0.014 and offset[2] < 0.03):
            return self.towards(place + grip - (0.0, 0.0, 0.002), yaw, CLOSED, 0.012)
        if offset[2] < 0.015 + min(aside, 0.05) * 0.4:  # too low to go across: up first
            return self.towards(np.array((cube[0], cube[1], place[2] + self.carry)) + grip, yaw, CLOSED)
        return self.towards(place + grip + (0.0, 0.0, self.carry), yaw, CLOSED)
