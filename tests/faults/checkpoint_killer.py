"""Run by test_checkpoint_kill.py in a process of its own: forks trainers, kills them around saving, resumes them.

One warmed process forks all children, because importing torch for each of sixty would take minutes.  Prints one JSON
object a trial.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from robopolicy.core import io
from robopolicy.policies.io import load_policy
from robopolicy.testing.datasets import make_tiny_dataset
from robopolicy.testing.training import final_tensors, tiny_train_config
from robopolicy.training.checkpoint import latest_checkpoint
from robopolicy.training.loop import train

POINTS = ("before_weights", "half_way", "after_weights", "before_manifest", "before_rename", "after_rename")
STEPS = 4
# As few tensors as a policy can have: the files matter here, not the network.
SMALL = {"policy.backbone": "transformer", "policy.transformer": {"n_layer": 1, "n_head": 1, "n_emb": 8}}


def die_at(point: str, occurrence: int) -> None:
    """Make this process kill itself when ``point`` is passed for the ``occurrence``-th time."""
    left = occurrence

    def fault_point(name: str) -> None:
        nonlocal left
        if name == point:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    io.fault_point = fault_point


def killed_run(config, run: Path, point: str | None, occurrence: int, delay: float) -> int:
    """Train in a forked child that dies at a point, or is killed after ``delay`` seconds; the signal it died of."""
    pid = os.fork()
    if pid == 0:
        try:
            if point is not None:
                die_at(point, occurrence)
            train(config, run, progress=False)
        finally:
            os._exit(0)
    if point is None:
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def trial(config, run: Path, reference, point: str | None, occurrence: int, delay: float) -> dict:
    died_of = killed_run(config, run, point, occurrence, delay)
    newest = latest_checkpoint(run)
    if newest is not None:
        load_policy(newest)
    if (run / "config.yaml").is_file():
        train(config, run, resume=True, progress=False)
    else:  # killed before there was a run
        train(config, run.with_name(run.name + "-again"), progress=False)
        run = run.with_name(run.name + "-again")
    after = final_tensors(run)
    return {
        "point": point,
        "died_of": died_of,
        "resumed_from": 0 if newest is None else int(newest.name.split("_")[1]),
        "equal": after.keys() == reference.keys() and all(torch.equal(after[k], reference[k]) for k in reference),
        "left_over": sorted(p.name for p in (run / "checkpoints").glob(".partial-*")),
    }


def main(folder: Path, per_point: int, at_random: int) -> None:
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    # A killed process loses nothing that it wrote (only a power cut does), and thousands of fsyncs take minutes.
    os.fsync = lambda fd: None
    data = make_tiny_dataset(folder / "data", episodes=2, cameras=0)
    config = tiny_train_config(data, {"steps": STEPS, "checkpoint.every": 1, **SMALL})
    begin = time.perf_counter()
    train(config, folder / "reference", progress=False)
    reference = final_tensors(folder / "reference")
    whole = time.perf_counter() - begin
    rng = random.Random(0)
    plan = [(p, rng.randint(1, STEPS), 0.0) for p in POINTS for _ in range(per_point)]
    plan += [(None, 0, rng.uniform(0.05, 0.95) * whole) for _ in range(at_random)]
    for i, (point, occurrence, delay) in enumerate(plan):
        print(json.dumps(trial(config, folder / f"run{i}", reference, point, occurrence, delay)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
