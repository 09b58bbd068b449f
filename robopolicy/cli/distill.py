"""Turn a trained flow or diffusion policy into one that needs one network query a chunk (consistency distillation).

    robopolicy distill runs/pusht_state-flow --out policies_out/pusht_one_step --steps 10000
    robopolicy distill POLICY_DIR --dataset lerobot/pusht --out DIR --levels 40 --queries 2
    robopolicy evaluate policies_out/pusht_one_step --env pusht --episodes 100

PATH is a run, a checkpoint or a policy directory.  Observations come from --dataset (default: the run's own), noise
levels from the teacher's solver: at neighbouring levels of its trajectories the student must name the same end.  The
student is a flow policy with `one_step: true`, keeps the teacher's encoder and normalisation, and starts from the
teacher's network.  At the end stands the distance between its chunks and the teacher's from the same noise (RMS,
normalised units), on one more batch of the same data: watch it while you raise --steps.

what to expect: a flow teacher distils in fewer steps than a diffusion teacher (its network speaks velocities already);
--levels 20 suits chunks of 16, finer levels follow the teacher more closely and need more steps.  Wrappers that need
scores (guidance, composition) refuse the student; sampling, ranking and noise steering work.

exit codes: 0 done, 2 wrong input (one line says which)
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from robopolicy.core.errors import ConfigError

if TYPE_CHECKING:
    from robopolicy.training.config import DatasetConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("path", metavar="PATH", help="teacher: run, checkpoint or policy directory")
    parser.add_argument("--out", type=Path, required=True, help="folder of the student; appears when it is complete")
    parser.add_argument("--dataset", help="LeRobot dataset, folder or hub id (default: that of the run)")
    parser.add_argument("--steps", type=int, default=5000, help="optimiser steps (5000)")
    parser.add_argument("--batch-size", type=int, default=64, help="windows a step (64)")
    parser.add_argument("--lr", type=float, default=3e-4, help="peak learning rate (3e-4)")
    parser.add_argument("--levels", type=int, default=20, help="levels of the teacher's solver (20)")
    parser.add_argument("--queries", type=int, default=1, help="network queries of the student a chunk (1)")
    parser.add_argument("--seed", type=int, default=42, help="data order and noise (42)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto takes a GPU if any")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Distil with a progress bar; returns the exit code."""
    import torch

    from robopolicy.api import load, resolve_policy_dir
    from robopolicy.policies.io import save_policy
    from robopolicy.training.data import Demonstrations
    from robopolicy.training.distill import DistillConfig, distill
    from robopolicy.training.threads import apply_threads

    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise ConfigError(f"{args.out} exists already; choose another --out")
    config = DistillConfig(
        steps=args.steps,
        batch_size=args.batch_size,
        lr=args.lr,
        levels=args.levels,
        queries=args.queries,
        seed=args.seed,
        device=args.device,
    )
    directory = resolve_policy_dir(args.path)
    dataset = dataset_of(directory, args.dataset)
    apply_threads()
    device = "cuda" if args.device == "cuda" or (args.device == "auto" and torch.cuda.is_available()) else "cpu"
    teacher = load(directory, device=device)
    demos = Demonstrations.open(dataset)
    windows = demos.windows(teacher.observation_spec, teacher.action_spec, demos.training)
    result = distill(teacher, windows, config, progress=not args.quiet)
    save_policy(result.student, args.out)
    calls = result.student.denoiser_calls
    print(f"distance to the teacher's chunks: {result.after:.4f} (before: {result.before:.4f}), RMS, normalised")
    print(f"student: {args.out}, {calls} network {'query' if calls == 1 else 'queries'} a chunk")
    return 0


def dataset_of(policy_dir: Path, named: str | None) -> DatasetConfig:
    """The run's dataset section, with the path of the command line where one was given."""
    import dataclasses

    from robopolicy.cli.evaluate import run_of
    from robopolicy.training.config import DatasetConfig
    from robopolicy.training.run_dir import resume_config

    run_dir = run_of(policy_dir)
    if run_dir is None or not (run_dir / "config.yaml").is_file():
        if named is None:
            raise ConfigError("name the demonstrations: --dataset PATH (the policy does not lie in a run that knows)")
        return DatasetConfig(path=named)
    dataset: DatasetConfig = resume_config(run_dir).dataset
    return dataset if named is None else dataclasses.replace(dataset, path=named)
