"""V-GPS claims: success by number of candidates, temperature and critic, against random choice and oracle choice.

  python benchmarks/v_gps.py run --policy RUN --critic iql=RUN --critic cal_ql=RUN --env panda_lift --out DIR
  python benchmarks/v_gps.py gather DIR --out docs/results/v_gps.json
  python benchmarks/v_gps.py page docs/results/v_gps.json --out docs/results/v_gps.md

Every cell is an evaluation record of its own on the same seeds; cells that exist are not run again, so ``run`` may be
stopped and goes on, and two of them with ``--part 0/2`` and ``--part 1/2`` share the work.
"""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robopolicy.core.errors import RobopolicyError
from robopolicy.core.io import write_atomic
from robopolicy.evaluation.record import EvaluationRecord
from robopolicy.sim.registry import EnvConfig

COUNTS, TEMPERATURES = (1, 5, 10, 30, 100), (0.0, 0.1, 1.0)
BASE, RANDOM, ORACLE = "base", "random", "oracle"
INFO = ("q", "q_std", "ess")


@dataclass(frozen=True)
class Cell:
    """One row of the table; ``critic`` is ``base``, ``random``, ``oracle`` or the name of a critic."""

    critic: str
    count: int = 1
    temperature: float | None = None

    @property
    def name(self) -> str:
        """File name."""
        warm = "" if self.temperature is None else f"_t{self.temperature:g}"
        return f"{self.critic}_k{self.count}{warm}"


def cells(critics: list[str], counts: tuple[int, ...], oracle_counts: tuple[int, ...]) -> list[Cell]:
    """The whole table, cheap cells first."""
    controls = [Cell(BASE), *(Cell(RANDOM, k) for k in counts if k > 1)]
    asked = [Cell(c, k, t) for k, c, t in itertools.product(counts, critics, TEMPERATURES)]
    return sorted([*controls, *asked, *(Cell(ORACLE, k) for k in oracle_counts)], key=lambda c: c.count)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    sub = verbs.add_parser("run")
    sub.add_argument("--policy", required=True, help="run or policy directory of the base")
    sub.add_argument("--critic", action="append", default=[], metavar="NAME=PATH", help="critic, may be repeated")
    sub.add_argument("--env", required=True)
    sub.add_argument("--kwargs", type=json.loads, default={}, metavar="JSON", help="options of the environment")
    sub.add_argument("--episodes", type=int, default=200)
    sub.add_argument("--base-seed", type=int, default=100_000)
    sub.add_argument("--counts", type=int, nargs="*", default=COUNTS)
    sub.add_argument("--oracle-counts", type=int, nargs="*", default=(10,), help="candidates of the oracle's cells")
    sub.add_argument("--workers", type=int, default=1)
    sub.add_argument("--slots", type=int, default=32)
    sub.add_argument("--part", default="0/1", help="this share of the cells, e.g. 0/2")
    sub.add_argument("--out", type=Path, required=True)
    sub = verbs.add_parser("gather")
    sub.add_argument("folder", type=Path)
    sub.add_argument("--out", type=Path, required=True)
    sub = verbs.add_parser("page")
    sub.add_argument("json", type=Path)
    sub.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.verb == "run":
        run(args)
    elif args.verb == "gather":
        gather(args.folder, args.out)
    else:
        from v_gps_page import write_page

        write_page(args.json, args.out)


def run(args: argparse.Namespace) -> None:
    """Every cell of this part that has no record yet."""
    critics = dict(item.split("=", 1) for item in args.critic)
    table = cells(list(critics), tuple(args.counts), tuple(args.oracle_counts))
    part, parts = map(int, args.part.split("/"))
    settings = {"policy": args.policy, "critics": critics, "env": args.env, "kwargs": args.kwargs,
                "episodes": args.episodes, "base_seed": args.base_seed, "slots": args.slots}  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "settings.json"
    if file.is_file() and json.loads(file.read_text()) != settings:
        raise SystemExit(f"{file}: other settings; choose another folder")
    write_atomic(file, json.dumps(settings, indent=1))
    for number, cell in enumerate(table):
        if number % parts != part or (args.out / f"{cell.name}.json").is_file():
            continue
        try:
            record = measure(cell, args, critics)
        except RobopolicyError as e:
            print(f"{cell.name}: {e}", flush=True)
            continue
        print(f"{number + 1}/{len(table)} {cell.name}: {record.summary()}; {record.timing.wall_s:.0f} s", flush=True)


def measure(cell: Cell, args: argparse.Namespace, critics: dict[str, str]) -> EvaluationRecord:
    """One cell, written to ``OUT/<name>.json``."""
    from robopolicy.api import load
    from robopolicy.evaluation.oracle_choice import evaluate_oracle
    from robopolicy.evaluation.rollout import evaluate
    from robopolicy.nesting import Place, load_source

    env, out = EnvConfig(args.env, args.kwargs), args.out / cell.name
    shared: dict[str, Any] = {"episodes": args.episodes, "base_seed": args.base_seed, "out": out, "progress": False}
    if cell.critic == ORACLE:
        return evaluate_oracle(load(args.policy), env, num_samples=cell.count, workers=args.workers, **shared)
    if cell.critic == BASE:
        policy: Any = load(args.policy)
    else:
        settings = {"temperature": cell.temperature} if cell.temperature is not None else {}
        critic = "random" if cell.critic == RANDOM else critics[cell.critic]
        source = {"format": 1, "type": "value_guided", "policy": args.policy, "critic": critic,
                  "num_samples": cell.count, "on_degenerate": "warn", **settings}  # fmt: skip
        policy = load_source(source, Place(Path()))
    return evaluate(policy, env, workers=args.workers, slots=args.slots, policy_path=cell.name, **shared)


def without_places(facts: Any) -> Any:
    """The same facts with the ends of paths: where a disk keeps its runs is nobody's business."""
    if isinstance(facts, dict):
        return {key: without_places(value) for key, value in facts.items()}
    if isinstance(facts, list):
        return [without_places(value) for value in facts]
    return "/".join(Path(facts).parts[-4:]) if isinstance(facts, str) and Path(facts).is_absolute() else facts


def gather(folder: Path, out: Path) -> None:
    """All records of a folder in one small file: outcomes by episode, what the policy told, times, provenance."""
    settings = json.loads((folder / "settings.json").read_text())
    table = cells(list(settings["critics"]), COUNTS, COUNTS)
    rows = []
    for cell in table:
        file = folder / f"{cell.name}.json"
        if not file.is_file():
            continue
        record = EvaluationRecord.load(file)
        rows.append(
            {
                "critic": cell.critic,
                "count": cell.count,
                "temperature": cell.temperature,
                "base_seed": record.base_seed,
                "n": len(record.scored),
                "errors": record.errors,
                "successes": "".join(str(int(e.success)) for e in record.scored),
                "max_reward": [round(e.max_reward, 4) for e in record.scored],
                "told": {name: round(mean.mean, 4) for name, mean in record.info.items() if name in INFO},
                "chunk_ms": record.timing.chunk_ms,
                "rows": record.timing.rows,
                "policy": without_places(record.policy),
                "git_commit": record.git_commit,
                "versions": record.versions,
            }
        )
    notes = folder / "notes.json"  # how base and critics were made: counts of demonstrations, steps, critic reports
    told = json.loads(notes.read_text()) if notes.is_file() else {}
    data = {"format": 1, "settings": without_places(settings), "notes": told, "cells": rows}
    write_atomic(out, json.dumps(data, indent=1))
    print(f"{out}: {len(rows)} cells")


if __name__ == "__main__":
    main()
