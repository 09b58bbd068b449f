"""The guard on the robot's computer: only what may move the arm goes through, and a silent driver is stopped.

  robopolicy guard pack robopolicy_guard.pyz        one file for the robot's computer: Python 3.8 and ROS, nothing else
  python3 robopolicy_guard.pyz --ros ros1 --limits first-run           there
  robopolicy guard run --ros ros2                   the same here, where ROS 2 is sourced
  robopolicy twin --guard                           the twin with a guard before it

A driver that is told of the guard publishes setpoints on /robopolicy/target_pose and a lease with each on
/robopolicy/lease; the guard is the only publisher of the controller's topic and says how it goes on /robopolicy/guard.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from robopolicy.core.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``robopolicy guard``."""
    from robopolicy.real_robot.guard.options import add_arguments as add_options

    parser.add_argument("action", choices=("pack", "run"), help="write the one-file program, or be the node here")
    parser.add_argument("file", nargs="?", type=Path, help="where to pack it (robopolicy_guard.pyz)")
    add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Pack, or run until Ctrl-C."""
    if args.action == "pack":
        from robopolicy.real_robot.guard.pack import pack

        path = pack(args.file or Path("robopolicy_guard.pyz"))
        print(
            f"{path}: {path.stat().st_size} bytes; copy it to the robot's computer and try: python3 {path.name} --help"
        )
        return 0
    if args.file is not None:
        raise ConfigError(f"run: takes no file, got {args.file}")
    from robopolicy.real_robot.guard.main import run as be_the_node

    return be_the_node(args)
