"""The whole road on an embedded task, in under 15 minutes on two cores: collect scripted demonstrations into a
LeRobot v3 dataset, train Diffusion Policy, evaluate held-out episodes in parallel, write one page.

  robopolicy demo                          runs/demo, panda_lift
  robopolicy demo --run runs/stack --task panda_stack

Every stage that is already finished in the run directory is skipped, so the command can be run again after a stop.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from robopolicy.core.errors import ConfigError

if TYPE_CHECKING:
    from robopolicy.evaluation.record import EvaluationRecord

TASKS = ("panda_lift", "panda_push", "panda_stack")
TEST_SEED = 100_000  # demonstrations start at seed 0, so test starts are never among them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``robopolicy demo``."""
    parser.add_argument("--task", choices=TASKS, default="panda_lift", help="embedded task (panda_lift)")
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="run directory (runs/demo)")
    parser.add_argument("--demos", type=int, default=150, help="demonstrations to collect (150)")
    parser.add_argument("--steps", type=int, help="training steps (default: the preset's)")
    parser.add_argument("--episodes", type=int, default=100, help="held-out episodes to evaluate (100)")
    parser.add_argument("--videos", type=int, default=4, help="episodes to record as MP4 (4)")
    parser.add_argument("--workers", type=int, default=2, help="simulator processes (2)")


def run(args: argparse.Namespace) -> int:
    """Collect, train, evaluate, report; prints the page's path and the success rate."""
    if min(args.demos, args.episodes, args.workers) < 1:
        raise ConfigError("--demos, --episodes and --workers must be at least 1")
    began = time.monotonic()
    dataset = args.run.with_name(args.run.name + "-dataset")
    collect_stage(args, dataset)
    train_stage(args, dataset)
    record = evaluate_stage(args)
    page = report_stage(args.run)
    print(f"\n{args.task}: {record.summary()}")
    print(f"page: {page}")
    print(f"took {(time.monotonic() - began) / 60:.1f} minutes")
    return 0


def collect_stage(args: argparse.Namespace, dataset: Path) -> None:
    """Scripted demonstrations (state observations; one camera for the pictures) as a LeRobot v3 dataset."""
    from robopolicy.sim.collect import collect
    from robopolicy.sim.registry import EnvConfig

    print(f"[1/4] collecting {args.demos} demonstrations of {args.task} into {dataset}", flush=True)
    collect(EnvConfig(args.task, {"cameras": []}), dataset, episodes=args.demos, base_seed=0, workers=args.workers)


def train_stage(args: argparse.Namespace, dataset: Path) -> None:
    """Train the shipped preset, or continue where an earlier call stopped."""
    from robopolicy.cli.train import make_evaluator
    from robopolicy.training.config_load import load_config
    from robopolicy.training.loop import train
    from robopolicy.training.run_dir import resume_config

    resume = (args.run / "config.yaml").is_file()
    if resume:
        config = resume_config(args.run, {})
    else:
        overrides = {"dataset.path": str(dataset), "run_dir": str(args.run)}
        if args.steps:
            overrides["steps"] = str(args.steps)
        config = load_config(f"configs/{args.task}/diffusion.yaml", overrides)
    print(f"[2/4] training for {config.steps} steps in {args.run}", flush=True)
    train(config, args.run, resume, evaluator=make_evaluator(config, args.run))


def evaluate_stage(args: argparse.Namespace) -> EvaluationRecord:
    """Roll out the newest policy on starts that no demonstration had."""
    import robopolicy
    from robopolicy.evaluation.rollout import evaluate
    from robopolicy.sim.registry import EnvConfig

    print(f"[3/4] evaluating {args.episodes} held-out episodes on {args.workers} workers", flush=True)
    policy = robopolicy.load(args.run)
    env = EnvConfig(args.task, {"cameras": []})
    return evaluate(
        policy,
        env,
        episodes=args.episodes,
        base_seed=TEST_SEED,
        workers=args.workers,
        videos=args.videos,
        out=args.run / "eval" / "final",
    )


def report_stage(run: Path) -> Path:
    """One self-contained page."""
    from robopolicy.evaluation.report import write_report

    print("[4/4] writing the page", flush=True)
    return write_report(run)
