"""Options of the guard's command line, read without NumPy or any other package."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from robopolicy.core.errors import ConfigError
from robopolicy.real_robot.guard.config import GuardConfig
from robopolicy.real_robot.guard.lease import TOPIC_LEASE, TOPIC_TARGET
from robopolicy.real_robot.guard.shell import Topics
from robopolicy.real_robot.interface import interface

MEASURED_TYPES = ("franka_state", "franka_robot_state", "pose")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the guard can be told."""
    add = parser.add_argument
    add("--ros", choices=("ros1", "ros2"), default="ros1", help="rospy or rclpy, with its usual names (ros1)")
    add("--controller", help="topic it publishes, or franka_ros, serl, crisp (franka_ros; crisp on ros2)")
    add("--measured", help="topic with the measured pose (the usual state topic)")
    add("--measured-type", choices=MEASURED_TYPES, help="its type (FrankaState; on ros2 PoseStamped)")
    add("--target", default=TOPIC_TARGET, help=f"topic of the driver's setpoints ({TOPIC_TARGET})")
    add("--lease-topic", default=TOPIC_LEASE, help=f"topic of the driver's lease ({TOPIC_LEASE})")
    add("--arm-id", default="panda", help="first part of the base's frame name: ARM_link0 (panda)")
    add("--limits", choices=("default", "first-run"), default="default", help="workspace and lead to begin with")
    add("--box", type=float, nargs=6, metavar=("X0", "Y0", "Z0", "X1", "Y1", "Z1"), help="workspace, two corners, m")
    add("--lead", type=float, help="farthest that a setpoint may be from the measured pose, m (0.06; first-run 0.04)")
    add("--turn-lead", type=float, help="the same for rotation, rad (0.30; first-run 0.20)")
    add("--speed", type=float, help="fastest motion of the setpoint, m/s (0.25)")
    add("--lease", type=float, help="seconds without a lease after which the arm is stopped, 0.10 to 0.20 (0.15)")


def read_config(args: argparse.Namespace) -> GuardConfig:
    """The limits asked for; raises ``ConfigError`` for what no guard may be started with."""
    frame = f"{args.arm_id}_link0"
    base = GuardConfig.first_run(frame) if args.limits == "first-run" else GuardConfig(frame)
    changes: dict[str, Any] = {
        name: value for name in ("lead", "turn_lead", "speed", "lease") if (value := getattr(args, name)) is not None
    }
    if args.box is not None:
        changes.update(box_low=tuple(args.box[:3]), box_high=tuple(args.box[3:]))
    return replace(base, **changes)


def usual_topics(ros: str, controller: str | None = None) -> Topics:
    """The names as the usual packages have them."""
    names = interface("ros2" if ros == "ros2" else "ros1", controller)
    if names.ros == "ros1":
        return Topics(names.command, names.state, "franka_state")
    # franka_msgs need not be built for the guard: the broadcaster says the pose in a common type too.
    return Topics(names.command, names.state.rsplit("/", 1)[0] + "/current_pose", "pose")


def read_topics(args: argparse.Namespace) -> Topics:
    """The names asked for; raises ``ConfigError`` where the guard would hear itself."""
    usual = usual_topics(args.ros, args.controller)
    if (args.measured is None) != (args.measured_type is None):
        raise ConfigError("measured: give --measured and --measured-type together, or neither")
    topics = Topics(
        usual.controller,
        args.measured or usual.measured,
        args.measured_type or usual.measured_type,
        args.target,
        args.lease_topic,
    )
    if topics.controller == topics.target:
        raise ConfigError(f"{topics.target} cannot be both the driver's topic and the controller's; change one")
    return topics
