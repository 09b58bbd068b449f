"""The simulated Panda as a policy sees it: absolute tool targets in, tool pose and gripper width out.

A target ``(x, y, z, yaw, gripper)`` is clipped to the workspace; the set point walks towards it at no more than the
speed limits; inverse kinematics turns it into joint targets, which the joint servos track under torque limits.
Nothing a policy can send moves the arm faster or further than that.
"""

from __future__ import annotations

import math

import mujoco
import numpy as np

from robopolicy.core.specs import ActionSpace, ChannelKind
from robopolicy.sim.ik import DownwardIK
from robopolicy.sim.panda_model import FINGERS, HOME, JOINTS, QD_MAX, WIDTH_MAX

LOW = np.array((0.30, -0.30, 0.012, -1.2, 0.0))
HIGH = np.array((0.70, 0.30, 0.40, 1.2, 1.0))
LINEAR_SPEED = 0.7  # m/s of the set point
ANGULAR_SPEED = 2.5  # rad/s of the set point

STATE_NAMES = ("tcp_x", "tcp_y", "tcp_z", "tcp_yaw", "gripper_width")
ACTION_SPACE = ActionSpace(
    dim=5,
    names=("x", "y", "z", "yaw", "gripper"),
    kinds=(ChannelKind.EUCLIDEAN,) * 5,
    mode="absolute",
    frame="base",
    low=tuple(LOW.tolist()),
    high=tuple(HIGH.tolist()),
    unit="m, m, m, rad, 0 closed .. 1 open",
)


class PandaArm:
    """Drives the Panda inside ``model``/``data``.

    Args:
        model: with the arm of ``sim/scenes/panda.xml`` in it.
        data: its state.
        dt: control period in seconds.
        speed: of the set point, m/s; its turning is limited in proportion (2.5 rad/s at 0.7 m/s).
        gripper_speed: m/s between the fingers; None is as fast as the servo.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        dt: float,
        speed: float = LINEAR_SPEED,
        gripper_speed: float | None = None,
    ) -> None:
        self._model, self._data, self._dt = model, data, dt
        self.speed, self.turn_speed = speed, ANGULAR_SPEED * (speed / LINEAR_SPEED)
        self.gripper_speed = gripper_speed
        self._substeps = round(dt / model.opt.timestep)
        self._q = np.array([model.joint(name).qposadr[0] for name in JOINTS])
        self._fingers = np.array([model.joint(name).qposadr[0] for name in FINGERS])
        self._motors = np.array([model.actuator(name).id for name in JOINTS])
        self._grip = model.actuator("gripper").id
        self._tcp = model.site("tcp").id
        self._ik = DownwardIK()
        self.reset(np.array((0.45, 0.0, 0.25, 0.0)))

    def reset(self, pose: np.ndarray, width: float = WIDTH_MAX) -> None:
        """Put the arm at rest at tool pose ``(x, y, z, yaw)``, with an open gripper unless a ``width`` (m) is given."""
        q = self._ik.solve(HOME, pose, iterations=60, tolerance=1e-9)
        self._data.qpos[self._q] = q
        self._data.qpos[self._fingers] = width / 2
        self._data.ctrl[self._motors] = q
        self._data.ctrl[self._grip] = width / 2
        self._q_target = q
        self._opening = width
        self.setpoint = np.array(pose, np.float64)

    def move(self, target: np.ndarray) -> None:
        """Advance the physics by one control period towards ``target (5,)`` (already clipped to the bounds)."""
        step = target[:3] - self.setpoint[:3]
        distance = math.sqrt(float(step @ step))
        reach = self.speed * self._dt
        self.setpoint[:3] += step if distance <= reach else step * (reach / distance)
        turn = self.turn_speed * self._dt
        self.setpoint[3] += min(max(float(target[3]) - self.setpoint[3], -turn), turn)
        q = self._ik.solve(self._q_target, self.setpoint)
        limit = QD_MAX * self._dt
        q = self._q_target + np.minimum(np.maximum(q - self._q_target, -limit), limit)
        data, start, change = self._data, self._q_target, (q - self._q_target) / self._substeps
        opening, most = float(target[4]) * WIDTH_MAX, math.inf
        if self.gripper_speed is not None:
            most = self.gripper_speed * self._dt / self._substeps
        for k in range(self._substeps):
            gap = opening - self._opening
            self._opening = opening if abs(gap) <= most else self._opening + math.copysign(most, gap)
            data.ctrl[self._grip] = self._opening / 2
            data.ctrl[self._motors] = start + change * (k + 1)
            mujoco.mj_step(self._model, data)
        self._q_target = q

    @property
    def tcp(self) -> np.ndarray:
        """Measured tool position ``(3,)``, metres."""
        position: np.ndarray = self._data.site_xpos[self._tcp]
        return position

    @property
    def yaw(self) -> float:
        """Measured turn of the hand about the vertical, radians."""
        m = self._data.site_xmat[self._tcp]
        return math.atan2(m[3], m[0])

    @property
    def width(self) -> float:
        """Measured distance between the fingers, metres."""
        return float(self._data.qpos[self._fingers].sum())

    def state(self) -> np.ndarray:
        """``observation.state`` ``(5,)``: see ``STATE_NAMES``."""
        return np.array((*self.tcp, self.yaw, self.width))
