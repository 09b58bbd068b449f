"""Milliseconds a chunk for one observation, every head and step count of part a in one process on one thread.

Measured apart from the episodes, because those ran beside other work.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
from heads_study import HEADS, STEPS

import robopolicy
from robopolicy.core.io import write_atomic
from robopolicy.policies.base import Policy
from robopolicy.testing.tiny import random_observation

CALLS, SECONDS = 40, 4.0


def measure(runs: Path) -> None:
    """Write ``RUNS/latency.json``: head -> steps -> median milliseconds."""
    torch.set_num_threads(1)
    table: dict[str, dict[str, float]] = {}
    for head in HEADS:
        if not (runs / f"push_{head}" / "cost.json").is_file():
            continue
        policy = robopolicy.load(runs / f"push_{head}")
        obs = random_observation(policy, 1)
        table[head] = {}
        for steps in STEPS:
            policy.set_sampler(**{"max_steps" if head == "ebt" else "num_inference_steps": steps})
            table[head][str(steps)] = round(median_ms(policy, obs), 2)
        print(head, table[head], flush=True)
    write_atomic(runs / "latency.json", json.dumps(table, indent=1))


def median_ms(policy: Policy, obs: dict[str, np.ndarray]) -> float:
    """Median over up to ``CALLS`` calls or ``SECONDS`` seconds, after two that warm up."""
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < CALLS + 2 and (time.perf_counter() - begin < SECONDS or len(times) < 7):
        policy.reset()
        start = time.perf_counter()
        policy.act(obs, noise_keys=[(0, len(times))])
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:])) * 1000
