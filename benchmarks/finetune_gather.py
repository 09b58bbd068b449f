"""A study of fine-tuning in one small file: curves, final outcomes by episode, hashes, cost; see ``finetune_study``."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from robopolicy.core.io import write_atomic
from robopolicy.evaluation.record import EvaluationRecord
from robopolicy.training.checkpoint import latest_checkpoint
from robopolicy.training.finetune_state import read_base, weights_hash
from robopolicy.training.metrics import NAME, read_metrics

ALONE = "_alone"  # ends the name of a record: the learned policy without critic


def final(out: Path, name: str) -> Path:
    """Where the record of a final evaluation lies."""
    return out / "final" / f"{name}.json"


def gather(folder: Path, out: Path) -> None:
    """All runs of a folder in one small file: evaluations by environment step, final outcomes by episode, hashes."""
    settings, notes = json.loads((folder / "settings.json").read_text()), folder / "notes.json"
    bases = {name: told_base(folder, name, path) for name, path in settings["bases"].items()}
    runs = []
    for run in sorted((folder / "runs").glob("*")):
        base, method, seed = split_name(run.name, settings)
        runs.append({"base": base, "method": method, "seed": seed, **told_run(folder, run)})
    data = {
        "format": 1,
        "settings": tails(settings),
        "notes": json.loads(notes.read_text()) if notes.is_file() else {},
        "bases": bases,
        "runs": runs,
    }
    write_atomic(out, json.dumps(data, indent=1))
    done = sum(r["final"] is not None for r in runs)
    print(f"{out}: {len(runs)} runs, {done} of them done")


def split_name(name: str, settings: dict[str, Any]) -> tuple[str, str, int]:
    """Base, method and seed of a cell."""
    for base, method in itertools.product(settings["bases"], settings["presets"]):
        if name.startswith(head := f"{base}_{method}_") and name[len(head) :].isdigit():
            return base, method, int(name[len(head) :])
    raise SystemExit(f"{name}: no cell of this study; move it elsewhere")


def tails(value: Any) -> Any:
    """The same with absolute paths cut to their last two parts: where things lay is nobody's business."""
    if isinstance(value, dict):
        return {k: tails(v) for k, v in value.items()}
    if isinstance(value, list):
        return [tails(v) for v in value]
    if isinstance(value, str) and "/" in value:
        return ",".join("/".join(Path(p).parts[-2:]) if Path(p).is_absolute() else p for p in value.split(","))
    return value


def outcomes(file: Path) -> dict[str, Any] | None:
    """A final evaluation by episode."""
    if not file.is_file():
        return None
    record = EvaluationRecord.load(file)
    return {
        "base_seed": record.base_seed,
        "n": len(record.scored),
        "errors": record.errors,
        "successes": "".join(str(int(e.success)) for e in record.scored),
        "type": record.policy.get("type"),
        "chunk_ms": record.timing.chunk_ms,
        "git_commit": record.git_commit,
        "versions": record.versions,
    }


def told_base(folder: Path, name: str, path: str) -> dict[str, Any]:
    """A base as it is now."""
    from robopolicy.api import load

    return {"sha256_now": weights_hash(load(path)), "final": outcomes(final(folder, f"base_{name}"))}


def told_run(folder: Path, run: Path) -> dict[str, Any]:
    """A run's curve, end, cost and hashes."""
    lines = read_metrics(run / NAME)
    checkpoint = latest_checkpoint(run)
    state = {} if checkpoint is None else json.loads((checkpoint / "training" / "state.json").read_text())
    return {
        "base_sha256": read_base(run).get("sha256"),
        "frozen_sha256": state.get("frozen"),
        "env_steps": state.get("env_steps", 0),
        "episodes": state.get("episodes", 0),
        "updates": state.get("updates", {}),
        "elapsed_s": round(state.get("elapsed", 0.0), 1),
        "evals": [point for line in lines if line["kind"] == "eval" for point in points(line)],
        "final": outcomes(final(folder, run.name)),
        "final_alone": outcomes(final(folder, run.name + ALONE)),
    }


def points(line: dict[str, Any]) -> list[dict[str, Any]]:
    """The candidates of one evaluation."""
    found = []
    for name in (k.removesuffix(".success_rate") for k in line if k.endswith(".success_rate")):
        n, rate = int(line[f"{name}.episodes"]), line[f"{name}.success_rate"]
        told = {"candidate": name, "env_steps": int(line["env_steps"]), "updates": int(line["updates"])}
        found.append({**told, "n": n, "successes": round((rate or 0.0) * n)})
    return found
