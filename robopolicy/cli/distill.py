"""Turn a trained flow or diffusion policy into one that needs one network query a chunk.

usage: robopolicy distill PATH --out RUN [--steps 2000] [--dataset PATH] [--any.option VALUE ...]
       robopolicy distill --resume RUN

    robopolicy distill runs/pusht_state-flow --out runs/pusht_one_step --steps 10000
    robopolicy evaluate runs/pusht_one_step --episodes 100

PATH is a run, a checkpoint or a policy directory.  The student is a flow policy with `one_step: true` that keeps the
teacher's encoder and normalisation and starts from its network.  It learns where the teacher's solver would arrive;
half of the time from pure noise, otherwise from states on the way, so that --sampler.num_inference_steps 2 works too.

often set (besides every option of `robopolicy train --help all`):
  --out RUN             where everything goes (= --run_dir)
  --dataset PATH        demonstrations whose observations are shown (default: those of the teacher's run, same split)
  --steps 2000          optimiser steps          --batch_size 64       windows a step
  --lr 3e-4             peak learning rate (= --optimizer.lr)
  --levels 10           levels of the teacher's solver (= --distill.levels); --distill.solver heun asks twice a level
  --aim end             or neighbour: consistency of neighbouring levels, cheaper a step, far slower to converge
  --queries 1           network queries of the student a chunk (= --policy.num_inference_steps)
  --device cpu          --seed 42

a run directory as in `robopolicy train`: config.yaml metrics.jsonl tensorboard/ checkpoints/; Ctrl-C saves, --resume
RUN continues exactly there.  Validation is on the held-out episodes: teacher_distance (RMS, normalised units, equal
noise; step 0 is the student before training), to be read beside teacher_spread, how far two chunks of the teacher are
apart.  The checkpoint with the smallest distance counts as the best.  Wrappers that need scores (guidance, composition)
refuse the student; sampling, ranking and noise steering work.

exit codes: 0 done, 2 wrong input or failed (one line says why), 130 stopped by Ctrl-C, 143 by SIGTERM (both saved)
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from robopolicy.core.errors import ConfigError

if TYPE_CHECKING:
    from robopolicy.training.config import TrainConfig

TAKES_REST = True

# Short names of often-set options.
SHORT = {
    "out": "run_dir",
    "dataset": "dataset.path",
    "lr": "optimizer.lr",
    "levels": "distill.levels",
    "aim": "distill.aim",
    "queries": "policy.num_inference_steps",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the few arguments that are not configuration; the rest is read by ``run``."""
    parser.allow_abbrev = False
    parser.add_argument("path", metavar="PATH", nargs="?", help="teacher: run, checkpoint or policy directory")
    parser.add_argument("--resume", metavar="RUN", help="continue a distillation exactly where it stopped")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Distil; returns the exit code."""
    from robopolicy.cli.train import train_and_tell
    from robopolicy.training.overrides import split_arguments
    from robopolicy.training.run_dir import resume_config

    words, flags = split_arguments(args.rest)
    if words:
        raise ConfigError(f"one teacher at a time; leave out '{words[0]}'")
    overrides = _long_names(flags)
    if args.resume is not None:
        if args.path is not None:
            raise ConfigError(f"--resume takes everything from the run directory; leave out '{args.path}'")
        run_dir = Path(args.resume)
        config = resume_config(run_dir, overrides)
        if config.distill is None:
            raise ConfigError(f"{run_dir} is no distillation; continue it with robopolicy train --resume {run_dir}")
    elif args.path is None:
        raise ConfigError("name the teacher, e.g. robopolicy distill runs/NAME --out runs/NAME_one_step")
    else:
        config = _new(args.path, overrides)
        run_dir = Path(config.run_dir or "")
    code = train_and_tell(config, run_dir, resume=args.resume is not None, progress=not args.quiet)
    if code == 0:
        _tell(run_dir)
    return code


def _long_names(flags: dict[str, str]) -> dict[str, str]:
    overrides: dict[str, str] = {}
    for name, text in flags.items():
        long = SHORT.get(name, name)
        if long in overrides:
            raise ConfigError(f"--{long} is given twice (--{name} is short for it)")
        overrides[long] = text
    return overrides


def _new(path: str, overrides: dict[str, str]) -> TrainConfig:
    from robopolicy.api import resolve_policy_dir
    from robopolicy.cli.evaluate import run_of
    from robopolicy.policies.io import verified_directory
    from robopolicy.training.distill_config import distill_config

    directory = verified_directory(resolve_policy_dir(path))
    place = {"run_dir": f"runs/{Path(path).resolve().name}-one_step-{time.strftime('%Y%m%d-%H%M%S')}"}
    return distill_config(directory, run_of(directory), place | overrides)


def _tell(run_dir: Path) -> None:
    """The distances of the first and the last validation."""
    from robopolicy.training.metrics import NAME, read_metrics

    seen = [r for r in read_metrics(run_dir / NAME) if "teacher_distance" in r]
    if not seen:
        print("no distance to the teacher: no held-out episodes (--dataset.val_ratio) or --validation.every 0")
        return
    first, last = seen[0], seen[-1]
    print(
        f"distance to the teacher's chunks, held-out episodes: {last['teacher_distance']:.4f} (step {first['step']}: "
        f"{first['teacher_distance']:.4f}; two chunks of the teacher differ by {last['teacher_spread']:.4f})"
    )
