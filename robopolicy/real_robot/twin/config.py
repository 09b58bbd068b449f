"""Settings of the twin (read by the command line, so only light imports)."""

from __future__ import annotations

from typing import Any, Literal

from robopolicy.core.configs import config_dataclass
from robopolicy.core.errors import ConfigError
from robopolicy.real_robot.interface import Interface, interface


@config_dataclass
class TwinConfig:
    """What stands on the table, how the arm is controlled, and what is published how often."""

    task: str | None = None
    """Embedded task whose scene is loaded (panda_lift, panda_push...); None is an empty table."""
    options: dict[str, Any] | None = None
    """Options of the task, as ``--env.NAME`` elsewhere."""
    seed: int = 0
    """Seed of the first scene."""
    ros: Literal["ros1", "ros2"] = "ros1"
    """Names, types and stamps of ROS 1 or ROS 2."""
    controller: Literal["franka_ros", "franka_ros_stiff", "serl"] = "franka_ros"
    """Compliance: 200/10, 400/30, or SERL's 2000/150 with a clipped error."""
    arm_id: str = "panda"
    """First part of frame and joint names."""
    state_rate: float = 100.0
    """State messages a second; an untuned robot publishes 30."""
    cameras: tuple[str, ...] = ("front", "wrist")
    """Cameras to publish; () for none."""
    camera_rate: float = 10.0
    """Pictures a second of each camera."""
    image_size: tuple[int, int] = (240, 320)
    """Height and width of the pictures."""
    jpeg_quality: int = 90
    """1 to 100."""
    lock_step: bool = False
    """Time stands still until ``/twin/step`` or ``Twin.step`` is called; otherwise it follows the clock."""

    def __post_init__(self) -> None:
        for name, low, high in (("state_rate", 1, 1000), ("camera_rate", 0.1, 120), ("jpeg_quality", 1, 100)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name}: expected {low} to {high}, got {getattr(self, name):g}")
        if min(self.image_size) < 8:
            raise ConfigError(f"image_size: expected (height, width) of at least 8, got {self.image_size}")

    def interface(self) -> Interface:
        """The names on ROS."""
        controller = "serl" if self.controller == "serl" and self.ros == "ros1" else None
        return interface(self.ros, controller, self.arm_id, self.cameras)
