"""Watch a robot: state, ages beside their limits, rates, clocks, forces, flags.  Nothing is ever sent.

  robopolicy robot monitor                               until q or Ctrl-C
  robopolicy robot monitor --duration 60 | tee watch.txt plain lines, one every two seconds

exit codes: 0 done, 1 the link was lost and did not come back, 2 wrong input or no link, 130 Ctrl-C
"""

from __future__ import annotations

import argparse
import time

from robopolicy.cli._robot_options import add_robot_options, robot_config

PERIOD = 0.1  # s between two looks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_robot_options(parser)
    parser.add_argument("--duration", type=float, metavar="S", help="seconds (until q or Ctrl-C)")


def run(args: argparse.Namespace) -> int:
    """Watch; returns the exit code."""
    from robopolicy.cli._keyboard import Keyboard
    from robopolicy.real_robot.driver.local import LocalDriver
    from robopolicy.real_robot.report.dashboard import Dashboard

    config = robot_config(args)
    asked: list[str] = []
    with LocalDriver(config) as driver:
        driver.connect(monitor_only=True)
        driver.run_thread()
        title = f"watching {config.url} ({args.robot})"
        with Dashboard(title, config.safety(), config.times, "q quit") as board, Keyboard(asked.append):
            end = driver.clock.now() + args.duration if args.duration is not None else None
            while "q" not in asked and (end is None or driver.clock.now() < end):
                status = driver.status()
                board.show(status)
                time.sleep(PERIOD)
            return 0 if driver.status().link else 1
