"""GPC claims: does the best searched weight beat the better parent?  Pairs of parents, with a self-composition control.

  robopolicy compose A B --env ENV --search-episodes 200 --report-episodes 200 --out DIR/NAME.yaml      one pair
  python benchmarks/gpc.py alone DIR/NAME.yaml                    the control: each parent composed with itself
  python benchmarks/gpc.py gather DIR/*.yaml --out docs/results/gpc.json
  python benchmarks/gpc.py page docs/results/gpc.json --out docs/results/gpc.md

``DIR/NAME.notes.json`` (``{"title": ..., "setup": [...]}``) says how the parents were made.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from robopolicy.core.io import write_atomic
from robopolicy.evaluation.record import EvaluationRecord
from robopolicy.sim.registry import EnvConfig


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    sub = verbs.add_parser("alone")
    sub.add_argument("composition", type=Path, help="YAML that `robopolicy compose` wrote")
    sub.add_argument("--workers", type=int, default=1)
    sub = verbs.add_parser("gather")
    sub.add_argument("compositions", type=Path, nargs="+")
    sub.add_argument("--out", type=Path, required=True)
    sub = verbs.add_parser("page")
    sub.add_argument("json", type=Path)
    sub.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.verb == "alone":
        alone(args.composition, args.workers)
    elif args.verb == "gather":
        gather(args.compositions, args.out)
    else:
        from gpc_page import write_page

        write_page(args.json, args.out)


def control(composition: Path, parent: int) -> Path:
    """Where the control of a parent lies."""
    return composition.with_name(f"{composition.stem}.alone{parent}.json")


def alone(composition: Path, workers: int) -> None:
    """Each parent half and half with itself, on the report seeds: must be the parent, episode for episode."""
    from robopolicy.evaluation.rollout import evaluate
    from robopolicy.nesting import Place, load_source
    from robopolicy.wrappers.compose import ComposedPolicy

    record = json.loads(composition.with_suffix(".json").read_text())
    env = EnvConfig(record["env"]["name"], record["env"]["kwargs"])
    for number, name in enumerate(record["parents"]):
        out = control(composition, number)
        if out.is_file():
            continue
        twice = ComposedPolicy([load_source(name, Place(Path())) for _ in range(2)], [0.5, 0.5])
        done = evaluate(
            twice,
            env,
            episodes=record["report"][1 + number]["n"],
            base_seed=record["report_seed"],
            workers=workers,
            slots=record["slots"],
            out=out,
            policy_path=f"{name} with itself",
        )
        print(f"{name} with itself: {done.summary()}")


def gather(compositions: list[Path], out: Path) -> None:
    """All pairs with their controls and notes in one file."""
    pairs: dict[str, Any] = {}
    for file in compositions:
        record = json.loads(file.with_suffix(".json").read_text())
        notes = file.with_suffix(".notes.json")
        controls: list[Any] = []
        for number in range(len(record["parents"])):
            place = control(file, number)
            own = EvaluationRecord.load(place) if place.is_file() else None
            controls.append(own and "".join(str(int(e.success)) for e in own.scored))
        told = json.loads(notes.read_text()) if notes.is_file() else {}
        parents = [Path(name).parts[-4:] for name in record.pop("parents")]
        if record["gram"]:
            record["gram"]["data"]["path"] = Path(record["gram"]["data"]["path"]).name
        pairs[file.stem] = {**record, "parents": ["/".join(p) for p in parents], "alone": controls, "notes": told}
    write_atomic(out, json.dumps({"format": 1, "pairs": pairs}, indent=1))
    print(f"{out}: {', '.join(pairs)}")


if __name__ == "__main__":
    main()
