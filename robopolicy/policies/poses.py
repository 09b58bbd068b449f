"""Rotations in the forms that actions use, and physical actions as poses ``(position 3, rotation 6, gripper)``.

Source: 3D Diffuser Actor (Ke et al. 2024), sections 3.2, 4.3 and 13 of our spec; the six numbers of a rotation are the
first two columns of its matrix, made orthonormal by Gram-Schmidt (Zhou et al. 2019, arXiv 1812.07035).
Differs: also reads actions with a turn about the vertical only (a tool that points down) and without any rotation.
Everything is differentiable but for single points (parallel columns, a half turn's quaternion sign).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import FeatureStats
from robopolicy.policies.pose_layout import PoseLayout

IDENTITY_6D = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def matrix_of_6d(six: Tensor) -> Tensor:
    """Rotation matrices ``(..., 3, 3)`` of ``(..., 6)``: first column, then second; scale does not matter."""
    first = F.normalize(six[..., :3], dim=-1)
    second = six[..., 3:]
    second = F.normalize(second - (first * second).sum(-1, keepdim=True) * first, dim=-1)
    return torch.stack((first, second, torch.linalg.cross(first, second)), dim=-1)


def matrix_to_6d(matrix: Tensor) -> Tensor:
    """``(..., 3, 3)`` to ``(..., 6)``: first column, then second."""
    return torch.cat((matrix[..., 0], matrix[..., 1]), dim=-1)


def matrix_of_quaternion(quaternion: Tensor, order: str = "wxyz") -> Tensor:
    """Rotation matrices ``(..., 3, 3)`` of quaternions ``(..., 4)`` of any length; ``order`` is wxyz or xyzw."""
    parts = F.normalize(quaternion, dim=-1).unbind(-1)
    w, x, y, z = parts if order == "wxyz" else (parts[3], *parts[:3])
    rows = (
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def matrix_to_quaternion(matrix: Tensor, order: str = "wxyz") -> Tensor:
    """Unit quaternions ``(..., 4)`` with ``w >= 0`` of rotation matrices ``(..., 3, 3)``.

    Of the four ways to divide by a component, the one with the largest is taken, so no digits are lost.
    """
    m = [[matrix[..., i, j] for j in range(3)] for i in range(3)]
    xx, yy, zz = m[0][0], m[1][1], m[2][2]
    # Rows of 4 q q^T: each is the quaternion times four times one of its components.
    x_w, y_w, z_w = m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]
    x_y, x_z, y_z = m[0][1] + m[1][0], m[0][2] + m[2][0], m[1][2] + m[2][1]
    rows = (
        torch.stack((1 + xx + yy + zz, x_w, y_w, z_w), -1),
        torch.stack((x_w, 1 + xx - yy - zz, x_y, x_z), -1),
        torch.stack((y_w, x_y, 1 - xx + yy - zz, y_z), -1),
        torch.stack((z_w, x_z, y_z, 1 - xx - yy + zz), -1),
    )
    table = torch.stack(rows, -2)
    largest = table.diagonal(dim1=-2, dim2=-1).argmax(-1)
    row = table.gather(-2, largest[..., None, None].expand(*largest.shape, 1, 4)).squeeze(-2)
    quaternion = F.normalize(row, dim=-1)
    quaternion = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    return quaternion if order == "wxyz" else quaternion.roll(-1, dims=-1)


def matrix_of_yaw(yaw: Tensor) -> Tensor:
    """Matrices ``(..., 3, 3)`` of a tool that points down, turned by ``yaw`` ``(...)`` radians.

    Columns: ``(cos, sin, 0)``, ``(sin, -cos, 0)``, ``(0, 0, -1)``.
    """
    cos, sin, zero = yaw.cos(), yaw.sin(), torch.zeros_like(yaw)
    rows = (cos, sin, zero, sin, -cos, zero, zero, zero, zero - 1)
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def matrix_to_yaw(matrix: Tensor) -> Tensor:
    """The yaw ``(...)`` in -pi..pi whose downward tool is nearest to ``matrix`` (least squares over all elements)."""
    sin = matrix[..., 1, 0] + matrix[..., 0, 1]
    cos = matrix[..., 0, 0] - matrix[..., 1, 1]
    return torch.atan2(sin, cos)


class PoseCodec(nn.Module):
    """Between physical actions ``(..., D)``, and normalised poses ``(..., 9)`` with the gripper's opening apart.

    Positions are mapped to [-1, 1] per axis by the workspace ``low`` and ``high``, whose axes may differ; nothing is
    clipped.  The gripper's closed and open values are the action's minimum and maximum.
    """

    low: Tensor
    high: Tensor
    shut: Tensor
    span: Tensor

    def __init__(self, layout: PoseLayout, stats: FeatureStats, low: Tensor, high: Tensor) -> None:
        """``low`` and ``high`` ``(3,)`` metres; raises ``ConfigError`` if the layout does not fit the action."""
        super().__init__()
        dim = len(stats.min)
        used = sorted(layout.channels)
        if used != list(range(dim)):
            raise ConfigError(
                f"pose: the action has {dim} channels, position, rotation and gripper use {used}; each channel must "
                "be used once, as nothing else can be predicted"
            )
        if not bool((high > low).all()):
            raise ConfigError(f"bounds: expected lowest corner < highest, got {low.tolist()} and {high.tolist()}")
        self.layout, self.dim = layout, dim
        shut, span = 0.0, 0.0
        if layout.gripper is not None:
            shut = stats.min[layout.gripper]
            span = stats.max[layout.gripper] - shut
        for name, value in (("low", low), ("high", high), ("shut", torch.tensor(shut)), ("span", torch.tensor(span))):
            self.register_buffer(name, value.float(), persistent=False)

    def place(self, xyz: Tensor) -> Tensor:
        """Metres ``(..., 3)`` to workspace coordinates."""
        return (xyz - self.low) / (self.high - self.low) * 2 - 1

    def metres(self, place: Tensor) -> Tensor:
        """Inverse of ``place``."""
        return (place + 1) / 2 * (self.high - self.low) + self.low

    def encode(self, action: Tensor, origin: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pose ``(..., 9)`` and opening ``(...)`` 0..1 of physical actions seen from ``origin`` ``(..., 3)``."""
        xyz = action[..., list(self.layout.position)]
        pose = torch.cat((self.place(xyz if origin is None else xyz - origin), self._six(action)), dim=-1)
        return pose, self._opening(action)

    def decode(self, pose: Tensor, opening: Tensor | None, origin: Tensor | None = None) -> Tensor:
        """Physical actions ``(..., D)``; ``opening`` in 0..1, absent without a gripper."""
        xyz = self.metres(pose[..., :3])
        columns = dict(zip(self.layout.position, (xyz if origin is None else xyz + origin).unbind(-1), strict=True))
        columns |= dict(zip(self.layout.rotation_channels, self._turned(pose[..., 3:]).unbind(-1), strict=True))
        if self.layout.gripper is not None:
            assert opening is not None
            columns[self.layout.gripper] = self.shut + opening * self.span
        return torch.stack([columns[i] for i in range(self.dim)], dim=-1)

    def _opening(self, action: Tensor) -> Tensor:
        if self.layout.gripper is None:
            return torch.zeros_like(action[..., 0])
        value: Tensor = (action[..., self.layout.gripper] - self.shut) / self.span.clamp(min=1e-9)
        return value.clamp(0, 1)

    def _six(self, action: Tensor) -> Tensor:
        kind, turn = self.layout.rotation, action[..., list(self.layout.rotation_channels)]
        if kind == "none":
            return action.new_tensor(IDENTITY_6D).expand(*action.shape[:-1], 6)
        if kind == "yaw":
            return matrix_to_6d(matrix_of_yaw(turn[..., 0]))
        if kind == "rot6d":
            return matrix_to_6d(matrix_of_6d(turn))
        return matrix_to_6d(matrix_of_quaternion(turn, kind.removeprefix("quat_")))

    def _turned(self, six: Tensor) -> Tensor:
        """Rotation channels ``(..., R)`` of predicted six numbers."""
        kind = self.layout.rotation
        if kind == "none":
            return six[..., :0]
        matrix = matrix_of_6d(six)
        if kind == "yaw":
            return matrix_to_yaw(matrix).unsqueeze(-1)
        if kind == "rot6d":
            return matrix_to_6d(matrix)
        return matrix_to_quaternion(matrix, kind.removeprefix("quat_"))
