"""Franka Emika Panda: kinematic table, limits, forward kinematics, and where its MJCF lies.

Source: the manufacturer's modified Denavit-Hartenberg table and joint limits (Panda).  ``sim/scenes/panda.xml`` is the
same arm built from primitives; simulation and the real-robot twin load that one file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from robopolicy.resources import resource

# Modified DH, joints 1-7: a (m), d (m), alpha (rad): T_i = Rx(alpha) Tx(a) Rz(q_i) Tz(d).
DH = np.array(
    [
        (0.0, 0.333, 0.0),
        (0.0, 0.0, -np.pi / 2),
        (0.0, 0.316, np.pi / 2),
        (0.0825, 0.0, np.pi / 2),
        (-0.0825, 0.384, -np.pi / 2),
        (0.0, 0.0, np.pi / 2),
        (0.088, 0.0, np.pi / 2),
    ]
)
FLANGE = 0.107  # m from joint 7 to the flange
HAND_ANGLE = -np.pi / 4  # of the hand about the flange's z
TCP = 0.1034  # m from the flange to the tool centre point of the hand

JOINTS = tuple(f"joint{i}" for i in range(1, 8))
FINGERS = ("finger1", "finger2")
Q_MIN = np.array((-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973))
Q_MAX = np.array((2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973))
QD_MAX = np.array((2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61))  # rad/s
TORQUE_MAX = np.array((87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0))  # Nm
HOME = np.array((0.0, -np.pi / 4, 0.0, -3 * np.pi / 4, 0.0, np.pi / 2, np.pi / 4))
WIDTH_MAX = 0.08  # m between the fingers, fully open


def scene(name: str) -> Path:
    """Path of a shipped scene, such as ``"lift"`` or the bare arm ``"panda"``."""
    return resource(f"sim/scenes/{name}.xml")


def _rotation_z(angle: float | np.ndarray) -> np.ndarray:
    turn = np.zeros((*np.shape(angle), 3, 3))
    turn[..., 0, 0] = turn[..., 1, 1] = np.cos(angle)
    turn[..., 1, 0] = np.sin(angle)
    turn[..., 0, 1] = -turn[..., 1, 0]
    turn[..., 2, 2] = 1.0
    return turn


def joint_frames(q: np.ndarray) -> np.ndarray:
    """Poses ``(..., 7, 4, 4)`` of the joint frames in the base frame for angles ``q (..., 7)`` in radians; metres."""
    (a, d, alpha), angle = DH.T, np.asarray(q, np.float64)
    ca, sa, c, s = np.cos(alpha), np.sin(alpha), np.cos(angle), np.sin(angle)
    steps = np.zeros((*angle.shape, 4, 4))
    steps[..., 0, 0], steps[..., 0, 1], steps[..., 0, 3] = c, -s, a
    steps[..., 1, 0], steps[..., 1, 1], steps[..., 1, 2], steps[..., 1, 3] = s * ca, c * ca, -sa, -d * sa
    steps[..., 2, 0], steps[..., 2, 1], steps[..., 2, 2], steps[..., 2, 3] = s * sa, c * sa, ca, d * ca
    steps[..., 3, 3] = 1.0
    pose, frames = np.eye(4), []
    for i in range(len(DH)):
        pose = pose @ steps[..., i, :, :]
        frames.append(pose)
    return np.stack(frames, axis=-3)


def tool_pose(frames: np.ndarray) -> np.ndarray:
    """Pose ``(..., 4, 4)`` of the tool centre point for joint frames ``(..., 7, 4, 4)``."""
    tool = np.eye(4)
    tool[:3, :3] = _rotation_z(HAND_ANGLE)
    tool[2, 3] = FLANGE + TCP
    pose: np.ndarray = frames[..., -1, :, :] @ tool
    return pose


def forward_kinematics(q: np.ndarray) -> np.ndarray:
    """Pose ``(..., 4, 4)`` of the tool centre point in the base frame for angles ``q (..., 7)`` in radians; metres."""
    return tool_pose(joint_frames(q))


def downward(yaw: float | np.ndarray) -> np.ndarray:
    """Rotation ``(..., 3, 3)`` of a hand that points straight down, turned by ``yaw`` radians about the base's z."""
    return _rotation_z(yaw) @ np.diag((1.0, -1.0, -1.0))
