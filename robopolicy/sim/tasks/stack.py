"""panda_stack: put the red cube on the green one and let go."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from robopolicy.sim.tasks.base import PandaTask, put_free_body, quarter_turn_yaw

HALF, BASE_HALF = 0.02, 0.025  # m, half edges of the cube and of the base under it
ASIDE, ABOVE = 0.02, 0.008  # m, tolerances of the cube's place on the base
RELEASED = 0.055  # m between the fingers
APART = 0.10  # m between the cubes at the start, at least


class PandaStack(PandaTask):
    """Stack two cubes.  Environment state: both cubes, the cube relative to the tool, the base relative to the cube."""

    SCENE = "stack"
    TASK = "Stack the red cube on the green cube."
    MAX_STEPS = 200
    ENVIRONMENT_NAMES = (
        *("cube_x", "cube_y", "cube_z", "cube_yaw", "base_x", "base_y", "base_z", "base_yaw"),
        *("to_cube_x", "to_cube_y", "to_cube_z", "to_cube_yaw", "cube_to_base_x", "cube_to_base_y", "cube_to_base_z"),
    )

    def _start(self, rng: np.random.Generator) -> None:
        # Yaw stays off +-45 degrees, where the two equivalent grasps meet and the folded yaw would jump.
        while True:
            cube, base = rng.uniform((0.40, -0.18, -0.6), (0.60, 0.18, 0.6), (2, 3))
            if np.hypot(*(cube - base)[:2]) > APART:
                break
        put_free_body(self.data, "cube", (cube[0], cube[1], HALF), cube[2])
        put_free_body(self.data, "base", (base[0], base[1], BASE_HALF), base[2])

    def _environment_state(self) -> Sequence[float]:
        cube, base = self.data.body("cube").xpos, self.data.body("base").xpos
        yaw, base_yaw = quarter_turn_yaw(self.data, "cube"), quarter_turn_yaw(self.data, "base")
        return (*cube, yaw, *base, base_yaw, *(cube - self.arm.tcp), yaw - self.arm.yaw, *(base - cube))

    def _offset(self) -> np.ndarray:
        """Of the cube from its place on the base ``(3,)``, metres."""
        place = self.data.body("base").xpos + np.array((0.0, 0.0, BASE_HALF + HALF))
        offset: np.ndarray = self.data.body("cube").xpos - place
        return offset

    def _goal_holds(self) -> bool:
        x, y, z = self._offset()
        return float(np.hypot(x, y)) < ASIDE and abs(z) < ABOVE and self.arm.width > RELEASED

    def _progress(self) -> float:
        x, y, z = self._offset()
        lifted = min(max(z + 2 * BASE_HALF, 0.0) / (2 * BASE_HALF), 1.0)
        return 0.3 * lifted + 0.6 * max(0.0, 1.0 - float(np.hypot(x, y)) / APART) * (lifted > 0.5)
