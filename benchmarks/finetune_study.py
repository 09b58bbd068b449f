"""What the studies of fine-tuning share: cells of {base} x {method} x {seed}, run one after the other, and gathered.

A cell is a run of ``robopolicy finetune`` and, when it is done, an evaluation of what it deploys on seeds that neither
learning nor the choice of a checkpoint has seen; the bases are measured on the same seeds.  Everything that exists is
not run again and a run that was stopped goes on, so ``run`` may be killed at any moment; two of them with ``--part
0/2`` and ``--part 1/2`` share the work.  ``OUT/notes.json`` (``{"setup": [...]}``) says how the bases were made.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml
from finetune_gather import ALONE, final, gather

from robopolicy.core.io import write_atomic
from robopolicy.sim.registry import EnvConfig
from robopolicy.training.finetune_state import POLICY

STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM)


@dataclass(frozen=True)
class Method:
    """One way to improve a base: a preset and options of its own."""

    preset: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One run."""

    base: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        """Folder."""
        return f"{self.base}_{self.method}_{self.seed}"


def study(doc: str | None, methods: dict[str, Method], write_page: Callable[[Path, Path], None]) -> None:
    """The command line of a study; what comes after ``--`` are options of every ``robopolicy finetune``."""
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    sub = verbs.add_parser("run")
    sub.add_argument("--base", action="append", required=True, metavar="NAME=PATH", help="policy, may be repeated")
    sub.add_argument("--offline", action="append", default=[], metavar="NAME=PATH,...", help="datasets of a base")
    sub.add_argument("--env", required=True)
    sub.add_argument("--kwargs", type=json.loads, default={}, metavar="JSON", help="options of the environment")
    sub.add_argument("--methods", nargs="*", choices=list(methods), default=list(methods))
    sub.add_argument("--of", nargs=2, action="append", default=[], metavar=("METHOD", "OPTIONS"), help="for one method")
    sub.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    sub.add_argument("--max-env-steps", type=int, required=True, help="budget of every run")
    sub.add_argument("--episodes", type=int, default=100, help="of every evaluation along the way")
    sub.add_argument("--final-episodes", type=int, default=200)
    sub.add_argument("--final-seed", type=int, default=100_000)
    sub.add_argument("--workers", type=int, default=1)
    sub.add_argument("--slots", type=int, default=16, help="episodes in flight in the final evaluations")
    sub.add_argument("--part", default="0/1", help="this share of the cells, e.g. 0/2")
    sub.add_argument("--out", type=Path, required=True)
    sub = verbs.add_parser("gather")
    sub.add_argument("folder", type=Path)
    sub.add_argument("--out", type=Path, required=True)
    sub = verbs.add_parser("page")
    sub.add_argument("json", type=Path)
    sub.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(given[:cut])
    if args.verb == "run":
        Runs(args, methods, given[cut + 1 :]).all()
    elif args.verb == "gather":
        gather(args.folder, args.out)
    else:
        write_page(args.json, args.out)


def pairs(items: list[str]) -> dict[str, str]:
    """``NAME=PATH`` arguments."""
    return dict(item.split("=", 1) for item in items)


class Runs:
    """The cells of one call of ``run``."""

    def __init__(self, args: argparse.Namespace, methods: dict[str, Method], options: list[str]) -> None:
        self.args, self.methods, self.options = args, methods, options
        self.bases, self.offline, self.own = pairs(args.base), pairs(args.offline), dict(args.of)
        self.env = EnvConfig(args.env, args.kwargs)
        self.settings = {
            "bases": self.bases, "offline": self.offline, "env": args.env, "kwargs": args.kwargs, "options": options,
            "presets": {n: [m.preset, *m.options] for n, m in methods.items()}, "of": self.own,
            "max_env_steps": args.max_env_steps, "episodes": args.episodes,
            "final_episodes": args.final_episodes, "final_seed": args.final_seed,
        }  # fmt: skip

    def all(self) -> None:
        """Every cell of this part that is not done, bases first."""
        args = self.args
        args.out.mkdir(parents=True, exist_ok=True)
        self._check_settings(args.out / "settings.json")
        part, parts = map(int, args.part.split("/"))
        for name, path in self.bases.items():
            if part == 0:
                self._measure(path, f"base_{name}")
        # Seeds outermost: a study that is stopped early has every base and method.
        cells = [Cell(b, m, s) for s, m, b in itertools.product(args.seeds, args.methods, self.bases)]
        failed = []
        for number, cell in enumerate(cells):
            if number % parts == part and not final(args.out, cell.name).is_file():
                print(f"{number + 1}/{len(cells)} {cell.name}", flush=True)
                if not self._run(cell):
                    failed.append(cell.name)
        if failed:
            raise SystemExit(f"not done: {', '.join(failed)}; the messages above say why")

    def _check_settings(self, file: Path) -> None:
        if file.is_file():
            old = json.loads(file.read_text())
            if differ := [k for k, v in self.settings.items() if old.get(k) != v]:
                raise SystemExit(f"{file}: {', '.join(differ)} differ; choose another folder")
        write_atomic(file, json.dumps(self.settings, indent=1))

    def command(self, cell: Cell) -> list[str]:
        """``robopolicy finetune`` for a cell, from the start or from where it stopped."""
        args, method, folder = self.args, self.methods[cell.method], self.args.out / "runs" / cell.name
        free = ["--max-env-steps", str(args.max_env_steps), "--simulate.workers", str(args.workers), "--quiet"]
        verb = [sys.executable, "-m", "robopolicy", "finetune"]
        if (folder / "config.yaml").is_file():
            return [*verb, "--resume", str(folder), *free]
        place = ["--base", self.bases[cell.base], "--env", args.env, "--run_dir", str(folder)]
        for name, value in args.kwargs.items():
            place += [f"--env.kwargs.{name}", value if isinstance(value, str) else json.dumps(value)]
        if cell.base in self.offline:
            place += ["--offline.paths", self.offline[cell.base]]
        own = shlex.split(self.own.get(cell.method, ""))
        choices = ["--seed", str(cell.seed), "--eval.episodes", str(args.episodes)]
        return [*verb, method.preset, *place, *free, *choices, *method.options, *own, *self.options]

    def _run(self, cell: Cell) -> bool:
        """Whether the cell was done; one that fails does not keep the others from running."""
        code = patient(self.command(cell))
        if code in STOPPED:
            raise SystemExit(f"{cell.name}: stopped; the same command goes on")
        if code:
            print(f"{cell.name}: robopolicy finetune ended with {code}", flush=True)
            return False
        run = self.args.out / "runs" / cell.name
        nesting = yaml.safe_load((run / POLICY).read_text())
        if nesting["type"] == "optimised":
            self._measure(str(run / nesting["policy"]), cell.name + ALONE)
        self._measure(str(run), cell.name)
        return True

    def _measure(self, path: str, name: str) -> None:
        """Evaluate on the seeds of the report."""
        from robopolicy.api import load
        from robopolicy.evaluation.rollout import evaluate

        args, out = self.args, final(self.args.out, name)
        if out.is_file():
            return
        record = evaluate(
            load(path),
            self.env,
            episodes=args.final_episodes,
            base_seed=args.final_seed,
            workers=args.workers,
            slots=args.slots,
            out=out.with_suffix(""),
            policy_path=name,
            progress=False,
        )
        print(f"{name}: {record.summary()}", flush=True)


def patient(command: list[str]) -> int:
    """Run ``command``; an interrupt is its to handle (it saves), a SIGTERM is passed on to it."""
    child = subprocess.Popen(command)
    before = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    try:
        while True:
            try:
                return child.wait()
            except KeyboardInterrupt:
                continue
    finally:
        signal.signal(signal.SIGTERM, before)
