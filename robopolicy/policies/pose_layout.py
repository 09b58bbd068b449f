"""Which channels of an action are position, rotation and gripper (no torch here: the command line reads this class)."""

from __future__ import annotations

from typing import Literal

from robopolicy.core.configs import config_dataclass
from robopolicy.core.errors import ConfigError

WIDTHS = {"none": 0, "yaw": 1, "quat_wxyz": 4, "quat_xyzw": 4, "rot6d": 6}


@config_dataclass
class PoseLayout:
    """An end-effector pose inside an action; the defaults are the embedded arms' ``(x, y, z, yaw, gripper)``."""

    position: tuple[int, int, int] = (0, 1, 2)
    """Channels of x, y and z, metres, in the frame of the point cloud."""
    rotation: Literal["none", "yaw", "quat_wxyz", "quat_xyzw", "rot6d"] = "yaw"
    """yaw is a turn about the vertical of a tool that points down, radians; rot6d the first two columns of the matrix.
    A quaternion's order is part of the data: the wrong one trains without complaint and fails."""
    rotation_channels: tuple[int, ...] = (3,)
    gripper: int | None = 4
    """Channel of the gripper; its closed and open values are the least and greatest in the data. Null has none."""

    def __post_init__(self) -> None:
        want = WIDTHS[self.rotation]
        if len(self.rotation_channels) != want:
            raise ConfigError(
                f"pose: rotation {self.rotation} has {want} channels, rotation_channels lists "
                f"{len(self.rotation_channels)}: {self.rotation_channels}"
            )
        if min(self.channels) < 0 or len(set(self.channels)) != len(self.channels):
            raise ConfigError(f"pose: channels must be different and >= 0, got {self.channels}")

    @property
    def channels(self) -> tuple[int, ...]:
        """All channels, position first."""
        last = () if self.gripper is None else (self.gripper,)
        return (*self.position, *self.rotation_channels, *last)
