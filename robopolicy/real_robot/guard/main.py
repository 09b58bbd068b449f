"""The guard's program: on the robot's computer from one file (``robopolicy guard pack``), elsewhere as a verb."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from robopolicy.core.errors import ConfigError
from robopolicy.real_robot.guard.options import add_arguments, read_config, read_topics

HELP = """\
Stand between the driver and the arm's controller, on the robot's computer, as the only publisher of the controller's
topic.  What goes through is fresh and finite, inside the workspace, close to the last setpoint and to the arm, and from
the one driver that holds the lease; when the lease ends the arm is stopped, and nothing more is published until the
operator arms again.  Not a safety-rated function: the maker's enabling or stop device stays in the operator's hand.
"""


def run(args: argparse.Namespace) -> int:
    """Be the node until it is told to stop; raises ``ConfigError`` where ROS is missing."""
    config, topics = read_config(args), read_topics(args)
    if topics.measured_type == {"ros1": "franka_robot_state", "ros2": "franka_state"}[args.ros]:
        raise ConfigError(f"measured-type {topics.measured_type} does not exist on {args.ros}")
    try:
        if args.ros == "ros1":
            from robopolicy.real_robot.guard.rospy_node import run as spin
        else:
            from robopolicy.real_robot.guard.rclpy_node import run as spin
    except ImportError as e:
        raise ConfigError(f"{args.ros} is not to be had here ({e}): source its setup.bash and try again") from None
    try:
        return spin(config, topics)
    except ImportError as e:
        raise ConfigError(f"{e}: build franka_msgs, or give --measured TOPIC --measured-type pose") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the packed file."""
    parser = argparse.ArgumentParser(
        prog="robopolicy_guard", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    # roslaunch adds __name:= and __log:=, ros2 launch --ros-args and what follows.
    argv = list(sys.argv[1:] if argv is None else argv)
    own = argv[: argv.index("--ros-args")] if "--ros-args" in argv else argv
    args = parser.parse_args([a for a in own if ":=" not in a])
    try:
        return run(args)
    except ConfigError as e:
        sys.stderr.write(f"robopolicy_guard: {e}\n")
        return 2
