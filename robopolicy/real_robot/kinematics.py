"""Forward kinematics, Jacobian and one damped least-squares step of the Franka arm, in NumPy.

Source: the manufacturer's modified Denavit-Hartenberg table, the same for Panda and FR3 (``robopolicy.sim.panda_model``
holds it and the simulated arm is built from it); Nakamura & Hanafusa 1986 for the damped inverse.
Use it where a simulator must not be: in the safety filter and the guard.  All functions work over any leading axes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from robopolicy.core.errors import ConfigError
from robopolicy.real_robot.frames import Pose, difference
from robopolicy.sim.panda_model import FLANGE, HAND_ANGLE, TCP, joint_frames

Frame = Literal["joint7", "flange", "hand", "tcp"]
DAMPING = 0.01  # of the least-squares step; singular values well above it are inverted as they are
_EYE6 = np.eye(6)


def hand_on_flange(reach: float = TCP) -> np.ndarray:
    """``F_T_EE (4, 4)`` of the Franka Hand: turned by -45 degrees about the flange's z, ``reach`` metres along it."""
    c, s = np.cos(HAND_ANGLE), np.sin(HAND_ANGLE)
    return np.array(((c, -s, 0, 0), (s, c, 0, 0), (0, 0, 1, reach), (0, 0, 0, 1.0)))


def _along_z(distance: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[2, 3] = distance
    return matrix


@dataclass(frozen=True, eq=False)
class Kinematics:
    """The arm with a tool on its flange.

    ``tool``: ``F_T_EE (4, 4)``, the pose of the tool centre point in the flange's frame, metres; that of the Franka
    Hand unless told otherwise.  Raises ``ConfigError`` for a matrix that is no rigid transform.
    """

    tool: np.ndarray = field(default_factory=hand_on_flange)

    def __post_init__(self) -> None:
        tool = np.array(self.tool, np.float64)
        rigid = tool.shape == (4, 4) and np.isfinite(tool).all() and np.allclose(tool[3], (0, 0, 0, 1))
        if rigid:  # a rotation, and no mirror image of one
            turn = tool[:3, :3]
            rigid = np.allclose(turn @ turn.T, np.eye(3), atol=1e-6) and np.linalg.det(turn) > 0
        if not rigid:
            raise ConfigError(f"F_T_EE: expected a rigid transform (4, 4) in metres, got {tool.tolist()}")
        tool.flags.writeable = False
        object.__setattr__(self, "tool", tool)

    def forward(self, q: np.ndarray, frame: Frame = "tcp") -> Pose:
        """Pose of a frame in the base frame for angles ``q (..., 7)`` in radians."""
        return Pose.of_matrix(self._last_frame(q) @ self._offset(frame))

    def jacobian(self, q: np.ndarray, frame: Frame = "tcp") -> np.ndarray:
        """Jacobian ``(..., 6, 7)`` of a frame's origin: m/s, then rad/s, both in the base frame, per rad/s."""
        return self.linearise(q, frame)[1]

    def linearise(self, q: np.ndarray, frame: Frame = "tcp") -> tuple[Pose, np.ndarray]:
        """``forward`` and ``jacobian`` for the price of one."""
        frames = joint_frames(np.asarray(q, np.float64))
        pose = frames[..., -1, :, :] @ self._offset(frame)
        axes, origins = frames[..., :3, 2], frames[..., :3, 3]
        lever = pose[..., None, :3, 3] - origins
        columns = np.concatenate((np.cross(axes, lever), axes), axis=-1)
        return Pose.of_matrix(pose), np.swapaxes(columns, -1, -2)

    def step(self, q: np.ndarray, target: Pose, damping: float = DAMPING) -> np.ndarray:
        """Change ``(..., 7)`` of the angles ``q`` that brings the tool towards ``target``, by one linear step.

        Damped least squares: near a singularity the change stays bounded by error / (2 damping), and falls short.
        For small steps, as between two control ticks.
        """
        pose, jacobian = self.linearise(q)
        error = np.concatenate(
            (target.position - pose.position, difference(pose.quaternion, target.quaternion)), axis=-1
        )
        return damped_step(jacobian, error, damping)

    def _last_frame(self, q: np.ndarray) -> np.ndarray:
        frame: np.ndarray = joint_frames(np.asarray(q, np.float64))[..., -1, :, :]
        return frame

    def _offset(self, frame: Frame) -> np.ndarray:
        if frame == "joint7":
            return np.eye(4)
        if frame == "flange":
            return _along_z(FLANGE)
        if frame == "hand":
            return _along_z(FLANGE) @ hand_on_flange(0.0)
        offset: np.ndarray = _along_z(FLANGE) @ self.tool
        return offset


def damped_step(jacobian: np.ndarray, error: np.ndarray, damping: float = DAMPING) -> np.ndarray:
    """``J^T (J J^T + damping^2)^-1 error``: ``(..., 7)`` for ``jacobian (..., 6, 7)`` and ``error (..., 6)`` m, rad."""
    transposed = np.swapaxes(jacobian, -1, -2)
    square = jacobian @ transposed + damping**2 * _EYE6
    change: np.ndarray = (transposed @ np.linalg.solve(square, error[..., None]))[..., 0]
    return change


def smallest_singular_value(jacobian: np.ndarray) -> np.ndarray:
    """How far ``jacobian (..., 6, 7)`` is from losing a direction ``(...)``; metres and radians count alike."""
    return np.asarray(np.linalg.svd(jacobian, compute_uv=False)[..., -1])


PANDA = Kinematics()


def forward(q: np.ndarray, frame: Frame = "tcp") -> Pose:
    """``Kinematics.forward`` of the arm with the Franka Hand."""
    return PANDA.forward(q, frame)


def jacobian(q: np.ndarray, frame: Frame = "tcp") -> np.ndarray:
    """``Kinematics.jacobian`` of the arm with the Franka Hand."""
    return PANDA.jacobian(q, frame)
