"""panda_lift: grasp a 4 cm cube and hold it at least 6 cm above the table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from robopolicy.sim.tasks.base import PandaTask, put_free_body, quarter_turn_yaw

HALF = 0.02  # m, half the cube's edge
HEIGHT = 0.06  # m, clearance under the cube that counts as lifted


class PandaLift(PandaTask):
    """Lift a cube.  Environment state: the cube's position and yaw, and its position relative to the tool."""

    SCENE = "lift"
    TASK = "Lift the red cube."
    MAX_STEPS = 120
    ENVIRONMENT_NAMES = ("cube_x", "cube_y", "cube_z", "cube_yaw", "to_cube_x", "to_cube_y", "to_cube_z", "to_cube_yaw")

    def _start(self, rng: np.random.Generator) -> None:
        # Yaw stays off +-45 degrees, where the two equivalent grasps meet and the folded yaw would jump.
        x, y, yaw = rng.uniform((0.40, -0.18, -0.6), (0.60, 0.18, 0.6))
        put_free_body(self.data, "cube", (x, y, HALF), yaw)

    def _environment_state(self) -> Sequence[float]:
        cube, yaw = self.data.body("cube").xpos, quarter_turn_yaw(self.data, "cube")
        return (*cube, yaw, *(cube - self.arm.tcp), yaw - self.arm.yaw)

    def _goal_holds(self) -> bool:
        return self._clearance() > HEIGHT

    def _progress(self) -> float:
        return 0.9 * self._clearance() / HEIGHT

    def _clearance(self) -> float:
        return float(self.data.body("cube").xpos[2]) - HALF
