"""panda_push: push a puck into a goal ring with the closed fingers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from robopolicy.sim.tasks.base import PandaTask, put_free_body

RADIUS = 0.035  # m, of the puck
HALF = 0.0175  # m, half the puck's height
TOLERANCE = 0.02  # m, from the puck's centre to the goal's
APART = (0.12, 0.26)  # m, between puck and goal at the start


class PandaPush(PandaTask):
    """Push a puck to a goal.  Environment state: puck and goal, the puck relative to the tool, the goal to the puck."""

    SCENE = "push"
    TASK = "Push the blue puck into the green ring."
    MAX_STEPS = 200
    ENVIRONMENT_NAMES = (
        *("puck_x", "puck_y", "goal_x", "goal_y"),
        *("to_puck_x", "to_puck_y", "to_puck_z", "puck_to_goal_x", "puck_to_goal_y"),
    )

    def _start(self, rng: np.random.Generator) -> None:
        while True:
            puck, goal = rng.uniform((0.40, -0.18), (0.60, 0.18)), rng.uniform((0.40, -0.20), (0.62, 0.20))
            self._distance_at_start = float(np.hypot(*(puck - goal)))
            if APART[0] < self._distance_at_start < APART[1]:
                break
        put_free_body(self.data, "puck", (*puck, HALF))
        self.data.mocap_pos[0] = (*goal, 0.0)

    @property
    def goal(self) -> np.ndarray:
        """Centre of the goal ring ``(2,)``, metres."""
        position: np.ndarray = self.data.mocap_pos[0, :2]
        return position

    def _environment_state(self) -> Sequence[float]:
        puck = self.data.body("puck").xpos
        return (*puck[:2], *self.goal, *(puck - self.arm.tcp), *(self.goal - puck[:2]))

    def _distance(self) -> float:
        return float(np.hypot(*(self.data.body("puck").xpos[:2] - self.goal)))

    def _goal_holds(self) -> bool:
        return self._distance() < TOLERANCE

    def _progress(self) -> float:
        return 0.9 * (1.0 - self._distance() / self._distance_at_start)
