"""Adversarial chunks through plan, loop and filter to the twin: what was emitted beyond a limit, how fast the tool was.

  MUJOCO_GL=egl nice python benchmarks/bench_safety.py --chunks 10000 --out safety.json [--quick]

Half of the seeds send everything (steps, teleports, alternation at every action, NaN, infinity, 1e308, targets outside,
wild rotations, flipped quaternions, stamps that are late, early, standing, backwards or no numbers, chunks of an older
epoch, a human's raw wishes, late ticks), half only what drives the arm fast.  Seven seeds in ten have the default
limits, one those of the first run, two every limit at its hard cap; one in four the stiff controller (2000 N/m).  Exit
code 1 if anything emitted was beyond a limit, or if the tool was faster than 0.25 m/s.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import common

from robopolicy.core.io import write_atomic
from robopolicy.real_robot.limits import HARD_CAPS, SafetyLimits
from robopolicy.testing.safety import TOLERANCE
from robopolicy.testing.safety_twin import CAP, TwinTrace, TwinTrial

CHUNKS_A_SEED = 50
CAPS = {k: v for k, v in HARD_CAPS.items() if k not in ("force_slow", "force_hold")}
LIMITS = {"default": SafetyLimits(), "first run": SafetyLimits.first_run(), "hard caps": SafetyLimits(**CAPS)}


def part_of(seed: int) -> tuple[str, str, bool]:
    """Limits, controller, and whether everything is sent."""
    limits = "default" if seed % 10 < 7 else "first run" if seed % 10 == 7 else "hard caps"
    return limits, "serl" if seed // 2 % 4 == 3 else "franka_ros", seed % 2 == 0


def violations(trace: TwinTrace) -> dict[str, float]:
    """Properties that were violated, and by how much."""
    return {name: float(worst) for name, worst in trace.worst.items() if worst > TOLERANCE}


def report(
    parts: dict[str, TwinTrace], bad: list[dict[str, object]], chunks: int, options: argparse.Namespace
) -> float:
    """Write what is known so far; the fastest tool, m/s."""
    fastest = max(part.tool_speed for part in parts.values())
    if options.out is not None:
        rows = {name: asdict(part) | {"counted": dict(part.counted)} for name, part in sorted(parts.items())}
        facts = {"machine": common.machine(), "chunks": chunks, "first_seed": options.seed, "fastest": fastest}
        write_atomic(options.out, json.dumps({**facts, "beyond": bad, "parts": rows}, indent=1, default=float))
    return fastest


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="first seed (default 0)")
    parser.add_argument("--quick", action="store_true", help="200 chunks: a smoke test")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    options = parser.parse_args()
    chunks = 200 if options.quick else options.chunks
    trials: dict[tuple[str, str], TwinTrial] = {}
    parts: dict[str, TwinTrace] = {}
    bad: list[dict[str, object]] = []
    began = time.process_time()
    for k, done in enumerate(range(0, chunks, CHUNKS_A_SEED)):
        seed = options.seed + k
        limits, controller, wild = part_of(seed)
        key = (limits, controller)
        if key not in trials:
            trials[key] = TwinTrial(LIMITS[limits], controller)
        trace = trials[key].run(seed, min(CHUNKS_A_SEED, chunks - done), wild)
        if found := violations(trace):
            bad.append({"seed": seed, "limits": limits, "controller": controller, "wild": wild, "beyond": found})
        parts.setdefault(f"{limits}, {controller}", TwinTrace()).take(trace)
        if k % 5 == 4:
            report(parts, bad, done + CHUNKS_A_SEED, options)
    fastest = report(parts, bad, chunks, options)
    for name, part in sorted(parts.items()):
        c = part.counted
        told = f"holds {c['holds']}, faults {c['faults']}, reflexes {c['reflexes']}, drawn after it {c['flag DRAGGED']}"
        print(f"{name}: {c['chunks']} chunks, {c['ticks']} ticks, {told}; tool at most {part.tool_speed:.3f} m/s")
        print(f"  beyond a limit: {violations(part) or 'nothing'}")
    print(f"{chunks} chunks, {time.process_time() - began:.0f} s of CPU; fastest tool {fastest:.3f} m/s, cap {CAP} m/s")
    for each in bad:
        print("beyond a limit:", each)
    return int(bool(bad) or fastest > CAP)


if __name__ == "__main__":
    sys.exit(main())
