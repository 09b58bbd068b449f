"""Side-by-side speed figures: every benchmark runs ours and LeRobot's in one process, interleaved, on equal work,
and prints the ratio (above 1: ours is faster).  Needs a checkout (the programs live in benchmarks/) and LeRobot.

  robopolicy bench                         all of them, a few minutes on two cores
  robopolicy bench --only nets data        some of them
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from robopolicy.core.errors import ConfigError, did_you_mean

ORDER = ("startup", "samplers", "nets", "chunk", "train_step", "data", "rollouts")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``robopolicy bench``."""
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"run these only: {', '.join(ORDER)}")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for the JSON files (runs/bench)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a smoke test, not a measurement")


def run(args: argparse.Namespace) -> int:
    """Run the chosen benchmarks one after another, each in a fresh interpreter."""
    folder = Path(__file__).resolve().parents[2] / "benchmarks"
    if not folder.is_dir():
        raise ConfigError(f"no benchmarks at {folder}: `robopolicy bench` needs a checkout of the project")
    for name in args.only or ():
        if name not in ORDER:
            raise ConfigError(f"--only {name}: unknown benchmark" + did_you_mean(name, ORDER))
    args.out.mkdir(parents=True, exist_ok=True)
    failed, rows = [], []
    for name in args.only or ORDER:
        out = args.out / f"{name}.json"
        command = [sys.executable, str(folder / f"bench_{name}.py"), "--out", str(out), *(["--quick"] * args.quick)]
        print(f"== {name}", flush=True)
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
            continue
        rows += [{"benchmark": name, **row} for row in json.loads(out.read_text()).get("rows", [])]
    print_table(rows)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def print_table(rows: list[dict[str, object]]) -> None:
    """One line a figure: name, median ratio, its range over rounds, and the goal if there is one."""
    if not rows:
        return
    print(f"\n{'benchmark':<12} {'figure':<44} {'ratio':>7} {'min':>7} {'max':>7}  goal")
    for r in rows:
        numbers = " ".join(f"{float(str(r[k])):7.2f}" for k in ("ratio", "ratio_min", "ratio_max"))
        print(f"{r['benchmark']!s:<12} {r['name']!s:<44} {numbers}  {r.get('goal', '')}")
