"""The robot type ``robopolicy_franka`` of LeRobot: its settings.

Source: LeRobot 0.4.4, ``robots/config.py``; LeRobot finds the device ``RobopolicyFranka`` in ``franka`` by the names of
this class and module.
"""

from __future__ import annotations

from dataclasses import dataclass

from lerobot.robots.config import RobotConfig

from robopolicy.core.errors import ConfigError


@RobotConfig.register_subclass("robopolicy_franka")
@dataclass(kw_only=True)
class RobopolicyFrankaConfig(RobotConfig):
    """A Franka behind a bridge; every safety limit is that of the preset, and none can be set here."""

    preset: str = "twin"
    """Robot preset (twin, panda_franka_ros, panda_serl, fr3_crisp) or a YAML file of one's own."""
    url: str | None = None
    """Address of the bridge, instead of the preset's."""
    guard: bool | None = None
    """Whether a robot-side guard stands before the controller, instead of the preset's answer."""
    fps: float = 10.0
    """Actions a second that will be sent."""
    rotation: str = "yaw"
    """What follows x, y, z in an action: yaw (hand pointing down), quaternion, rot6d or vector."""
    arm: bool = False
    """Whether the arm may be moved at all; otherwise it is only watched."""
    operator: str = ""
    """Name of who holds the stop device; needed to arm."""
    resume_after_pause: bool = False
    """Whether the next action resumes an arm that held because no actions came (between episodes); never after a fault
    or an operator's hold."""
    in_process: bool = False
    """Run the control loop in a thread of this process: for the twin, never for an arm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.arm and not self.operator.strip():
            raise ConfigError("arm: name who holds the stop device: --robot.operator=NAME")
        if not 1 <= self.fps <= 50:
            raise ConfigError(f"fps: expected 1 to 50 actions a second, got {self.fps:g}")
        if self.rotation not in ("yaw", "quaternion", "rot6d", "vector"):
            raise ConfigError(f"rotation: expected yaw, quaternion, rot6d or vector, got '{self.rotation}'")
