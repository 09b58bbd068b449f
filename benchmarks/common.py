"""What every benchmark shares: interleaved rounds, ratios with their range, machine facts, JSON.

Ratios are theirs / ours in the same process, A B A B, so that a busy machine slows both; above 1 means ours is
faster.  CPU time of this process is measured next to wall time because shared machines make wall time jump.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.core.io import write_atomic

PACKAGES = ("robopolicy", "torch", "numpy", "lerobot", "diffusers", "mujoco", "gym-pusht", "av")


def machine() -> dict[str, Any]:
    """Versions, cores, threads and load: what a reader needs to judge a figure."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return {
        "python": platform.python_version(),
        "versions": versions,
        "cores": os.cpu_count(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS", ""),
        "load_before": os.getloadavg()[0],
    }


def timed(fn: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Mean wall and CPU seconds of ``repeats`` calls."""
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(repeats):
        fn()
    return (time.perf_counter() - wall) / repeats, (time.process_time() - cpu) / repeats


def duel(
    name: str,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    rounds: int = 9,
    repeats: int = 3,
    warmup: int = 2,
    goal: str = "",
    **facts: Any,
) -> dict[str, Any]:
    """Interleave ``ours`` and ``theirs``; return one row with median ratios (wall and CPU) and their range."""
    for _ in range(warmup):
        ours()
        theirs()
    a, b = [], []
    for _ in range(rounds):
        a.append(timed(ours, repeats))
        b.append(timed(theirs, repeats))
    mine, peer = np.array(a), np.array(b)
    ratios = peer / mine
    return {
        "name": name,
        "ratio": float(np.median(ratios[:, 0])),
        "ratio_min": float(ratios[:, 0].min()),
        "ratio_max": float(ratios[:, 0].max()),
        "ratio_cpu": float(np.median(ratios[:, 1])),
        "ours_ms": float(np.median(mine[:, 0]) * 1e3),
        "theirs_ms": float(np.median(peer[:, 0]) * 1e3),
        "rounds": rounds,
        "repeats": repeats,
        "goal": goal,
        **facts,
    }


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Parser with the options every benchmark has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    parser.add_argument("--quick", action="store_true", help="few rounds: a smoke test, not a measurement")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    return parser


def finish(rows: list[dict[str, Any]], out: Path | None, **more: Any) -> None:
    """Print the rows and write them with the machine's facts."""
    for r in rows:
        print(
            f"{r['name']:<46} ours {r['ours_ms']:9.3f} ms  theirs {r['theirs_ms']:9.3f} ms  "
            f"ratio {r['ratio']:6.2f} [{r['ratio_min']:.2f}, {r['ratio_max']:.2f}] {r['goal']}"
        )
    if out is not None:
        write_atomic(out, json.dumps({"machine": machine(), "rows": rows, **more}, indent=1))
