"""How many refinements EBT takes when it may stop by itself, on held-out observations and on ones off the data."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

import robopolicy
from robopolicy.core.io import write_atomic
from robopolicy.core.specs import ENVIRONMENT_STATE
from robopolicy.training.config_load import load_config
from robopolicy.training.data import Demonstrations

RUN, DATA = "push_ebt", "panda_push"
SHIFTS = (0.0, 1.0, 2.0, 4.0)
WINDOWS = 500
# Trained with two refinements; here a chunk is finished when a step moves it by less than 2 % of the action range.
STOP = {"max_steps": 20, "tolerance": 0.02}


def measure(runs: Path, data: Path) -> None:
    """Write ``RUNS/push_ebt/cells/adaptive.json``."""
    policy = robopolicy.load(runs / RUN)
    policy.set_sampler(**STOP)
    config = load_config(runs / RUN / "config.yaml")
    dataset = dataclasses.replace(config.dataset, path=str(data / DATA))
    demos = Demonstrations.open(dataset)
    windows = demos.windows(policy.observation_spec, policy.action_spec, demos.validation)
    rows = np.linspace(0, len(windows) - 1, WINDOWS).round().astype(np.int64)
    batch = windows.gather(rows)
    obs = {key: batch[key] for key in policy.observation_spec.keys}
    sign = np.random.default_rng(0).choice([-1.0, 1.0], size=(len(rows), 1, obs[ENVIRONMENT_STATE].shape[-1]))
    std = np.array(policy.stats[ENVIRONMENT_STATE].std)
    cells = []
    for shift in SHIFTS:
        moved = {**obs, ENVIRONMENT_STATE: (obs[ENVIRONMENT_STATE] + shift * sign * std).astype(np.float32)}
        info = policy.act(moved, noise_keys=[(0, int(r)) for r in rows]).info
        steps, energy = info["refinement_steps"], info["energy"]
        cells.append(
            {
                "name": f"adaptive_{shift:g}", "part": "adaptive", "shift": shift, "n": len(rows),
                "refinement_steps": round(float(np.mean(steps)), 3), "energy": round(float(np.mean(energy)), 4),
                "stop": STOP,
            }
        )  # fmt: skip
    out = runs / RUN / "cells" / "adaptive.json"
    out.parent.mkdir(exist_ok=True)
    write_atomic(out, json.dumps(cells, indent=1))
    print(json.dumps(cells, indent=1))
