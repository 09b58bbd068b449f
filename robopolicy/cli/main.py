"""The ``robopolicy`` command: finds the verb, imports only its module, turns errors into one line."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence

from robopolicy import __version__
from robopolicy.core.errors import ConfigError, RobopolicyError, did_you_mean

# verb -> (module, one-line help); the order is the order of a project's life.
VERBS: dict[str, tuple[str, str]] = {
    "demo": ("robopolicy.cli.demo", "collect, train, evaluate and report on an embedded task, end to end"),
    "collect": ("robopolicy.cli.collect", "record scripted demonstrations into a LeRobot v3 dataset"),
    "data": ("robopolicy.cli.data", "info, doctor, convert and view for datasets"),
    "train": ("robopolicy.cli.train", "train a policy from a preset: robopolicy train configs/<task>/<policy>.yaml"),
    "train-critic": ("robopolicy.cli.train_critic", "train a critic (IQL, Cal-QL) that ranks a policy's chunks"),
    "finetune": ("robopolicy.cli.finetune", "improve a trained policy by trying: DSRL, PA-RL; on a budget, resumable"),
    "distill": ("robopolicy.cli.distill", "turn a trained policy into one that needs one network query a chunk"),
    "compose": ("robopolicy.cli.compose", "compose trained policies: search weights, report on fresh episodes"),
    "evaluate": ("robopolicy.cli.evaluate", "measure the success rate of a policy, with its interval"),
    "benchmark": (
        "robopolicy.cli.benchmark",
        "a table of tasks x policies x seeds: collect, train, evaluate, one page",
    ),
    "compare": ("robopolicy.cli.compare", "compare two evaluations, paired by seed"),
    "report": ("robopolicy.cli.report", "write one self-contained HTML page for a run"),
    "export": ("robopolicy.cli.export", "write a checkpoint as a policy folder of RoboTwin or XPolicyLab"),
    "bench": ("robopolicy.cli.bench", "side-by-side speed figures against LeRobot"),
    "twin": ("robopolicy.cli.twin", "a simulated Franka behind the rosbridge protocol, with controller and faults"),
    "robot": ("robopolicy.cli.robot", "a Franka behind a ROS bridge: doctor, monitor, run, replay, calibrate, record"),
    "deploy": ("robopolicy.cli.deploy", "run a trained policy on the arm: short for robot run --policy PATH"),
    "bridge": ("robopolicy.cli.bridge", "a rosbridge gateway to ROS 1, ROS 2 or an in-process graph"),
    "guard": ("robopolicy.cli.guard", "the robot-side guard: one file for the robot's computer, or a ROS node here"),
    "lerobot": ("robopolicy.cli.lerobot", "our robot and our policies inside LeRobot's own commands"),
    "doctor": ("robopolicy.cli.doctor", "check this machine: packages, rendering, video; says how to mend"),
}

EPILOG = """\
a first minute:
  robopolicy doctor                                     what works on this machine
  robopolicy demo                                       the whole road in under 15 minutes on two cores
  robopolicy train configs/pusht_state/diffusion.yaml --dataset.path PATH
  robopolicy evaluate runs/NAME --episodes 100
  robopolicy report runs/NAME

tasks:  panda_lift panda_push panda_stack panda_recall pusht ogbench_cube, or your own package.module:Class
        bimanual_stack_blocks_two bimanual_stack_blocks_three bimanual_blocks_ranking_rgb bimanual_blocks_ranking_size
        bimanual_handover_block bimanual_place_block_pad
        robosuite_lift robosuite_can robosuite_square robosuite_stack robosuite_tool_hang robosuite_transport
        robosuite_handover robosuite_file; robotwin
heads:  diffusion flow beso ebt seed_policy diffuser_actor_3d; presets are configs/<task>/<head>.yaml

exit codes: 0 done, 1 done but with findings or failures, 2 wrong input or missing part (one line says which)
"""


def verb_table() -> str:
    """The list of verbs as ``--help`` prints it."""
    return "\n".join(f"  {name:<12} {text}" for name, (_, text) in VERBS.items())


def make_parser(verb: str) -> tuple[argparse.ArgumentParser, object]:
    """Parser of one verb and the module that runs it."""
    if verb not in VERBS:
        raise ConfigError(f"unknown verb '{verb}'" + did_you_mean(verb, VERBS))
    module = importlib.import_module(VERBS[verb][0])
    parser = argparse.ArgumentParser(
        prog=f"robopolicy {verb}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=not getattr(module, "OWN_HELP", False),
    )
    module.add_arguments(parser)
    return parser, module


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(f"robopolicy {__version__}\n\nusage: robopolicy VERB [options]\n\n{verb_table()}\n\n{EPILOG}", end="")
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"robopolicy {__version__}")
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        parser, module = make_parser(argv[0])
        if getattr(module, "TAKES_REST", False):
            args, rest = parser.parse_known_args(argv[1:])
            args.rest = rest
        else:
            args = parser.parse_args(argv[1:])
        return int(module.run(args) or 0)  # type: ignore[attr-defined]
    except RobopolicyError as e:
        print(f"robopolicy {argv[0]}: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
