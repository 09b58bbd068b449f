"""Names of the topics, services and actions of a Franka, in one place for driver, guard and twin.

Source: franka_ros with its Cartesian impedance example or the SERL controller (ROS 1); franka_ros2 with the CRISP
controllers (ROS 2).  Every name can be set; these are what the packages use unless told otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from robopolicy.core.errors import ConfigError

Ros = Literal["ros1", "ros2"]
COMMAND_TOPICS = {
    "franka_ros": "/cartesian_impedance_example_controller/equilibrium_pose",
    "serl": "/cartesian_impedance_controller/equilibrium_pose",
    "crisp": "/target_pose",
}
MODES = ("other", "idle", "move", "guiding", "reflex", "user stopped", "automatic error recovery")
"""What the numbers of ``robot_mode`` mean."""


@dataclass(frozen=True)
class Interface:
    """Names as one robot uses them; types are those of ``ros``."""

    ros: Ros
    command: str
    state: str
    joint_states: str
    gripper: str
    """Prefix of the hand's actions."""
    recovery: str | None
    """Action that clears errors; ROS 2 has none in the version read."""
    services: str
    """Prefix of the arm's services."""
    arm_id: str = "panda"
    cameras: dict[str, str] = field(default_factory=dict)
    """Camera name -> topic of its compressed pictures."""

    @property
    def base_frame(self) -> str:
        """``frame_id`` of poses."""
        return f"{self.arm_id}_link0"

    @property
    def state_type(self) -> str:
        """Message type of the arm's state."""
        return "franka_msgs/FrankaState" if self.ros == "ros1" else "franka_msgs/FrankaRobotState"

    @property
    def gripper_package(self) -> str:
        """Where the hand's action types live."""
        return "franka_gripper" if self.ros == "ros1" else "franka_msgs"

    @property
    def gripper_states(self) -> str:
        """Topic of the finger positions."""
        return f"{self.gripper}/joint_states"


def camera_topic(name: str) -> str:
    """Topic of a camera's JPEG pictures, as the usual drivers call it."""
    return f"/cam_{name}/color/image_raw/compressed"


def interface(
    ros: Ros = "ros1", controller: str | None = None, arm_id: str = "panda", cameras: tuple[str, ...] = ()
) -> Interface:
    """The usual names; ``controller``: a key of ``COMMAND_TOPICS`` (franka_ros on ROS 1, crisp on ROS 2) or a topic."""
    chosen = controller or ("franka_ros" if ros == "ros1" else "crisp")
    command = COMMAND_TOPICS.get(chosen, chosen)
    if not command.startswith("/"):
        raise ConfigError(f"controller '{chosen}': expected one of {', '.join(COMMAND_TOPICS)}, or a topic with /")
    pictures = {name: camera_topic(name) for name in cameras}
    if ros == "ros1":
        return Interface(
            "ros1",
            command,
            "/franka_state_controller/franka_states",
            "/franka_state_controller/joint_states",
            "/franka_gripper",
            "/franka_control/error_recovery",
            "/franka_control",
            arm_id,
            pictures,
        )
    broadcaster = "/franka_robot_state_broadcaster"
    return Interface(
        "ros2",
        command,
        f"{broadcaster}/robot_state",
        "/joint_states",
        "/franka_gripper",
        None,
        "/service_server",
        arm_id,
        pictures,
    )
