"""A Franka arm (or its simulated twin) behind a ROS bridge: check it, watch it, calibrate it, run policies on it.

  robopolicy twin &                                      a simulated arm on ws://127.0.0.1:9090; no robot needed
  robopolicy robot doctor                                look at everything, say how to mend what is wrong
  robopolicy robot monitor --duration 60                 ages, rates, clocks, forces; nothing is ever sent
  robopolicy robot run --policy hold --duration 10 --arm --operator ada
  robopolicy robot calibrate --arm --operator ada        measure the latencies of arm and hand; writes a YAML
  robopolicy robot run --policy runs/lift --limits first-run --record out/ --arm --operator ada
  robopolicy robot replay out/log                        run the log again: the same setpoints, bit for bit?
  robopolicy robot replay out/log --arm --operator ada --speed 0.25
  robopolicy robot record demos/ --teleop keyboard --task "lift the cube" --arm --operator ada

Nothing moves without --arm: every command only watches unless told otherwise.  Arming takes two steps: a word typed on
the terminal, and a confirmation within ten seconds; scripts say --yes-i-hold-the-stop NAME instead.  On the twin the
words are left out.  The keys of a terminal while it runs: space hold, r resume, q quit, e stop, h take over.

The robot's stop device in the operator's hand is what stops the arm; no program is (docs/deploying.md).

exit codes: 0 done, 1 held, faulted or found something, 2 wrong input or no link, 130 stopped by Ctrl-C (143 by SIGTERM,
            129 when the terminal was closed); each of the last three holds the arm and takes the command topic back
"""

from __future__ import annotations

import argparse
import importlib
import logging

ACTIONS = {
    "doctor": "check link, clocks, rates, tool, limits; a cure for each finding",
    "monitor": "watch a robot; never sends anything",
    "run": "run a policy or a built-in motion",
    "replay": "re-run a log offline, or play its motion on the arm",
    "calibrate": "measure how far the arm and the hand are behind their targets",
    "record": "record demonstrations by teleoperation",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One parser an action, each in a module of its own."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="|".join(ACTIONS))
    for name, text in ACTIONS.items():
        module = importlib.import_module(f"robopolicy.cli.robot_{name}")
        own = actions.add_parser(
            name, help=text, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(own)


def only_warnings() -> None:
    """Of the link's comings and goings nothing is printed, the dashboard shows them; what goes wrong is still told."""
    logging.getLogger("robopolicy.real_robot").setLevel(logging.WARNING)


def run(args: argparse.Namespace) -> int:
    """Dispatch to the action's module."""
    only_warnings()
    return int(importlib.import_module(f"robopolicy.cli.robot_{args.action}").run(args))
