"""What the Panda table-top tasks share: observations, stepping, the success rule, cameras.

Write a task by naming a scene and answering four questions (see ``PandaLift``): how objects start, what the environment
state is, whether the goal holds now, and the reward.  20 Hz control; actions and state as in ``robopolicy.sim.arm``.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import mujoco
import numpy as np

from robopolicy.core.errors import ConfigError
from robopolicy.core.seeding import generator
from robopolicy.core.specs import ObservationSpec
from robopolicy.sim.arm import ACTION_SPACE, HIGH, LINEAR_SPEED, LOW, STATE_NAMES, PandaArm
from robopolicy.sim.embedded import EmbeddedTask, vectors
from robopolicy.sim.panda_model import scene
from robopolicy.sim.render import Cameras, carry_round

FPS = 20.0
HOLD = 5  # consecutive steps on which the goal must hold
BRISK = 0.35  # m/s of the set point that the experts need at their usual pace
START_LOW = np.array((0.40, -0.08, 0.18, -0.2))  # tool pose at the start, uniform in this box
START_HIGH = np.array((0.50, 0.08, 0.30, 0.2))


class PandaTask(EmbeddedTask):
    """Base of the embedded tasks.

    Args:
        cameras: which of ``front`` and ``wrist`` the observation offers.
        image_size: height and width of every picture.
        depth: also offer ``observation.depth.<camera>`` in metres, and for the wrist camera, which moves,
            ``observation.camera_pose.wrist``: its pose in the base frame at every step.
        max_steps: episode length; the task's own default if None.
        camera_yaw: degrees by which the ``front`` camera is carried around the middle of the workspace, seen from above
            against the clock; it keeps its distance and its aim.  For policies that are to stand a moved camera.
        speed: of the arm's set point, m/s.  Below 0.35 the experts go as much slower and episodes last as much longer:
            with 0.1, demonstrations keep to what the safety limits let a real arm do.
        gripper_speed: of the fingers, m/s; as fast as the servo if None.  A real hand does 0.1.
    """

    HOLD = HOLD
    SCENE: ClassVar[str]
    TASK: ClassVar[str]
    MAX_STEPS: ClassVar[int]
    ENVIRONMENT_NAMES: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        cameras: Sequence[str] = ("front", "wrist"),
        image_size: tuple[int, int] = (96, 96),
        depth: bool = False,
        max_steps: int | None = None,
        camera_yaw: float = 0.0,
        speed: float = LINEAR_SPEED,
        gripper_speed: float | None = None,
    ) -> None:
        if not 0.01 <= speed <= LINEAR_SPEED:
            raise ConfigError(f"speed: expected 0.01 to {LINEAR_SPEED} m/s, got {speed:g}")
        if gripper_speed is not None and not 0.005 <= gripper_speed <= 1.0:
            raise ConfigError(f"gripper_speed: expected 0.005 to 1 m/s, got {gripper_speed:g}")
        self.model = mujoco.MjModel.from_xml_path(str(scene(self.SCENE)))
        self.data = mujoco.MjData(self.model)
        self.cameras = Cameras(self.model, self.data)
        self.arm = PandaArm(self.model, self.data, 1.0 / FPS, speed, gripper_speed)
        self.action_space = ACTION_SPACE
        self.fps, self.task = FPS, self.TASK
        self.pace = min(1.0, speed / BRISK)
        self.max_steps = round(self.MAX_STEPS / self.pace) if max_steps is None else max_steps
        self._size = (int(image_size[0]), int(image_size[1]))
        if camera_yaw:
            carry_round(self.model, "front", (LOW[:2] + HIGH[:2]) / 2, math.radians(camera_yaw))
        mujoco.mj_forward(self.model, self.data)
        self.observation_spec = self._make_spec(cameras, depth)
        self.reset(0)

    def _make_spec(self, cameras: Sequence[str], depth: bool) -> ObservationSpec:
        features = vectors(STATE_NAMES, "m, rad", self.environment_names)
        return ObservationSpec((*features, *self.cameras.features(cameras, self._size, depth)))

    @property
    def environment_names(self) -> tuple[str, ...]:
        """Names of the environment state's channels; a task whose options change them overrides this."""
        return self.ENVIRONMENT_NAMES

    def objects(self) -> tuple[tuple[str, ...], list[float]]:
        """Names and present values of the environment state, for whoever publishes it."""
        return self.environment_names, [float(v) for v in self._environment_state()]

    # -- what a task answers -------------------------------------------------------------------------------------------

    @abstractmethod
    def _start(self, rng: np.random.Generator) -> None:
        """Place the objects at rest."""

    # -- the protocol --------------------------------------------------------------------------------------------------

    def reset(self, seed: int) -> None:
        """See ``Env.reset``: tool pose and objects are drawn from the seed's own generator."""
        rng = generator("env", seed)
        mujoco.mj_resetData(self.model, self.data)
        self.arm.reset(rng.uniform(START_LOW, START_HIGH))
        self._start(rng)
        mujoco.mj_forward(self.model, self.data)
        self._begin()

    def _felt(self) -> np.ndarray:
        return self.arm.state()

    def _move(self, action: np.ndarray) -> None:
        self.arm.move(action)


def put_free_body(data: mujoco.MjData, joint: str, position: Sequence[float], yaw: float = 0.0) -> None:
    """Place the body of a free joint at ``position`` (m), turned by ``yaw`` (rad) about the vertical, at rest."""
    data.joint(joint).qpos[:] = (*position, math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2))


def quarter_turn_yaw(data: mujoco.MjData, body: str) -> float:
    """Yaw of a body that looks the same after a quarter turn, folded to -pi/4 .. pi/4."""
    m = data.body(body).xmat
    yaw = math.atan2(m[3], m[0])
    return (yaw + math.pi / 4) % (math.pi / 2) - math.pi / 4
