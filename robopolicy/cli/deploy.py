"""Run a trained policy on the arm: the short form of `robopolicy robot run --policy PATH`.

  robopolicy deploy runs/lift                                              looks and asks, sends nothing
  robopolicy deploy runs/lift --limits first-run --arm --operator ada      on the twin, or whatever is on port 9090
  robopolicy deploy runs/lift --robot panda_franka_ros --record out/ --arm --operator ada

All options, keys and exit codes are those of `robopolicy robot run`; docs/deploying.md is the way to a first run.
"""

from __future__ import annotations

import argparse

from robopolicy.cli import robot_run
from robopolicy.cli.robot import only_warnings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PATH, and what ``robot run`` takes."""
    parser.usage = "robopolicy deploy PATH [options]"
    parser.add_argument("policy", metavar="PATH", help="checkpoint, run, policy directory or YAML of a nesting")
    robot_run.add_common_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """As ``robot run``; the motions' options are not offered."""
    only_warnings()
    args.axis, args.amplitude, args.frequency = "x", 0.05, 0.2
    return robot_run.run(args)
