"""All cells of a study in one small file: outcomes by episode, counts, distances as percentiles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.core.io import write_atomic

DRAWS = 1000  # of the bootstrap


def gather(folder: Path, out: Path) -> None:
    """Read the folder of ``deploy.py run`` and write ``out``."""
    from common import machine

    data = json.loads((folder / "settings.json").read_text())
    cells = []
    for file in sorted(folder.glob("*.*.jsonl")):
        head, name, _ = file.name.split(".")
        episodes = [json.loads(line) for line in file.read_text().splitlines()]
        if not episodes:
            continue
        cells.append({"head": head, "cell": name, "n": len(episodes), **_summary(episodes)})
    notes = folder / "notes.json"
    data |= {"notes": json.loads(notes.read_text()) if notes.is_file() else {}, "cells": cells, "machine": machine()}
    write_atomic(out, json.dumps(data, indent=1))
    print(f"{out}: {len(cells)} cells")


def _summary(episodes: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "successes": "".join(str(int(e["success"])) for e in episodes),
        "seconds": [e["seconds"] for e in episodes],
        "ends": {why: sum(e["why"] == why for e in episodes) for why in sorted({e["why"] for e in episodes})},
    }
    if "borders_mm" not in episodes[0]:
        return found
    for key in ("runner", "counters", "flags"):
        names = sorted({name for e in episodes for name in e[key]})
        found[key] = {name: sum(e[key].get(name, 0) for e in episodes) for name in names}
    for key in ("inside_mm", "borders_mm", "actions_inside_mm", "actions_borders_mm"):
        values = np.array([v for e in episodes for v in e[key]])
        found[key] = {"n": len(values)}
        if len(values):
            found[key] |= {f"p{q}": round(float(np.percentile(values, q)), 2) for q in (50, 95, 99, 100)}
    for kind in ("", "actions_"):
        found[f"{kind}less_mm"] = _less(episodes, f"{kind}borders_mm", f"{kind}inside_mm")
    found |= {"held": sum(e["held"] for e in episodes), "dropped": sum(e["dropped"] for e in episodes)}
    found |= {"ticks": sum(e["ticks"] for e in episodes), "fastest": max(e["fastest"] for e in episodes)}
    return found


def _less(episodes: list[dict[str, Any]], one: str, other: str) -> dict[str, float]:
    """99th percentile of ``one`` less that of ``other``, mm, with a 95 % bootstrap interval over episodes."""

    def difference(chosen: list[dict[str, Any]]) -> float:
        a, b = (np.array([v for e in chosen for v in e[key]]) for key in (one, other))
        return float(np.percentile(a, 99) - np.percentile(b, 99)) if len(a) and len(b) else float("nan")

    rng = np.random.default_rng(0)
    drawn = [difference([episodes[i] for i in rng.integers(len(episodes), size=len(episodes))]) for _ in range(DRAWS)]
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    return {"p99": round(difference(episodes), 2), "low": round(float(low), 2), "high": round(float(high), 2)}
