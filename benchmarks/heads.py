"""The six heads side by side on small tasks: runs what docs/results/heads.md reports.

  python benchmarks/heads.py train --data DIR --runs DIR [--only NAME...]      trainings, each resumable
  python benchmarks/heads.py evaluate --runs DIR [--only NAME...]              evaluations, those that exist are kept
  python benchmarks/heads.py adaptive --runs DIR --data DIR                     EBT's own step count, near and far
  python benchmarks/heads.py latency --runs DIR                                milliseconds a chunk, on a quiet machine
  python benchmarks/heads.py collect --runs DIR --out docs/results/heads.json  every number of the page, one file
  python benchmarks/heads.py page docs/results/heads.json --out docs/results/heads.md

DIR of the data holds what `robopolicy collect` made (see the page for the commands).  One thread a training; CPU
seconds of the whole process are recorded, because shared machines stretch wall time.  The trainings and
evaluations are listed in ``heads_study.py``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from heads_study import EVALUATIONS, TRAININGS, Evaluation, Training

from robopolicy.core.io import write_atomic
from robopolicy.evaluation.record import EvaluationRecord
from robopolicy.evaluation.uncertainty import auroc, scores_of

CLOCK = "cost.json"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("train", "evaluate", "adaptive", "latency", "collect"):
        sub = verbs.add_parser(verb)
        sub.add_argument("--runs", type=Path, required=True, help="folder of the runs")
        sub.add_argument("--only", nargs="*", help="names of trainings (prefixes will do)")
        sub.add_argument("--data", type=Path, help="folder of the collected datasets (train)")
        sub.add_argument("--out", type=Path, help="JSON file (collect)")
        sub.add_argument("--most", type=int, default=1000, help="leave cells of more steps for later (evaluate)")
        sub.add_argument("--list", action="store_true", help="print what would be done")
    page = verbs.add_parser("page")
    page.add_argument("json", type=Path)
    page.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.verb == "page":
        from heads_page import write_page

        write_page(args.json, args.out)
        return
    chosen = [t for t in TRAININGS if not args.only or t.name.startswith(tuple(args.only))]
    names = {t.name for t in chosen}
    cells = [e for e in EVALUATIONS if e.training in names]
    if args.verb == "train":
        for training in chosen:
            print(training.name) if args.list else train(training, args.data, args.runs)
    elif args.verb == "latency":
        from heads_latency import measure as measure_latency

        measure_latency(args.runs)
    elif args.verb == "adaptive":
        from heads_adaptive import measure

        measure(args.runs, args.data)
    elif args.verb == "evaluate":
        for cell in (c for c in cells if int(str(c.tags.get("steps", 0))) <= args.most):
            print(cell.name) if args.list else evaluate(cell, args.runs)
    else:
        write_atomic(args.out, json.dumps(collected(chosen, cells, args.runs), indent=1))
        print(args.out)


def train(training: Training, data: Path, runs: Path) -> None:
    """One training with one thread, unless it is done already."""
    run = runs / training.name
    if (run / CLOCK).is_file():
        return
    command = [sys.executable, "-m", "robopolicy", "train"]
    if (run / "config.yaml").is_file():
        command += ["--resume", str(run)]
    else:
        command += [training.preset, "--dataset.path", str(data / training.data), "--run_dir", str(run)]
        command += ["--eval.every", "0", "--validation.every", "0", *training.options]
    seconds, cpu = run_one_thread(command, run.with_suffix(".log"))
    cost = {"cpu_s": round(cpu, 1), "wall_s": round(seconds, 1), "resumed": "--resume" in command}
    write_atomic(run / CLOCK, json.dumps(cost))


def evaluate(cell: Evaluation, runs: Path) -> None:
    """One evaluation with the seeds of the page, unless its record exists."""
    out = runs / cell.training / "cells" / f"{cell.name}.json"
    if out.is_file() or not (runs / cell.training / CLOCK).is_file():
        return
    command = [sys.executable, "-m", "robopolicy", "evaluate", str(runs / cell.training), "--quiet", "--latency"]
    command += ["--episodes", str(cell.episodes), "--workers", "1", "--slots", "25", "--out", str(out), *cell.options]
    run_one_thread(command, out.with_suffix(".log"))


def run_one_thread(command: list[str], log: Path) -> tuple[float, float]:
    """Run to the end; wall and CPU seconds.  Fails loudly with the end of the log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with log.open("w") as out:
        code = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, env=env, check=False).returncode
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}:\n{log.read_text()[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{time.perf_counter() - begin:7.1f} s  {log.stem}", flush=True)
    return time.perf_counter() - begin, cpu


def collected(trainings: list[Training], cells: list[Evaluation], runs: Path) -> dict[str, object]:
    """Every number the page needs: costs of the trainings, and each evaluation with its outcomes episode by episode."""
    costs = {t.name: {**_json(runs / t.name / CLOCK), "preset": t.preset, "options": t.options, "part": t.part}
             for t in trainings if (runs / t.name / CLOCK).is_file()}  # fmt: skip
    records = {}
    for cell in cells:
        path = runs / cell.training / "cells" / f"{cell.name}.json"
        if path.is_file():
            records[cell.name] = {"training": cell.training, "part": cell.part, **cell.tags, **_cell(path)}
    for path in sorted(runs.glob("*/cells/adaptive.json")):
        records |= {c["name"]: c for c in json.loads(path.read_text())}
    quiet = runs / "latency.json"
    return {"trainings": costs, "evaluations": records, "latency": _json(quiet) if quiet.is_file() else {}}


def _cell(path: Path) -> dict[str, object]:
    record = EvaluationRecord.load(path)
    return {
        "env": record.env,
        "base_seed": record.base_seed,
        "n": len(record.scored),
        "successes": "".join("1" if e.success else "0" for e in record.scored),
        "max_reward": [round(e.max_reward, 4) for e in record.scored],
        "ms": record.timing.single_ms,
        "calls": record.policy.get("denoiser_calls"),
        "parameters": record.policy.get("parameters"),
        "sampler": record.policy.get("sampler"),
        "num_inference_steps": record.policy.get("num_inference_steps"),
        "info": _info(record),
        "auroc": _auroc(record),
    }


def _info(record: EvaluationRecord) -> dict[str, float]:
    """Means over episodes of what the policy said about its chunks (energy, refinement steps), if anything."""
    tables = [e.info for e in record.scored]
    keys = sorted({k for t in tables for k in t})
    return {k: round(sum(t.get(k, 0.0) for t in tables) / len(tables), 4) for k in keys}


def _auroc(record: EvaluationRecord) -> float | None:
    """Chance that a failed episode has a higher mean energy than a successful one; null without energies."""
    if not any("energy" in e.info for e in record.scored):
        return None
    value = auroc(*scores_of(record))
    return None if math.isnan(value) else round(value, 3)


def _json(path: Path) -> dict[str, object]:
    data: dict[str, object] = json.loads(path.read_text())
    return data


if __name__ == "__main__":
    main()
