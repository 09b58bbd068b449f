"""Train a policy on a LeRobot dataset.

usage: robopolicy train PRESET [--dataset.path PATH] [--policy.horizon 16] [--steps N] [--any.option VALUE ...]
       robopolicy train --resume RUN

PRESET is a YAML file, or the name of a shipped one (configs/pusht_state/diffusion.yaml).  Every option of the
preset can be set on the command line; `--help all` lists them with types, defaults and meaning.

often set:
  --dataset.path PATH          LeRobot dataset: a folder or a hub id
  --dataset.val_ratio 0.02     share of episodes held out for the open-loop action error
  --run_dir DIR                where everything goes (default runs/<preset>-<time>)
  --steps 20000                optimiser steps
  --batch_size 64              samples a step, over all processes
  --grad_accumulation 1        micro-batches a step is cut into: less memory, same result
  --optimizer.lr 1e-4          peak learning rate
  --precision bf16             autocast (weights stay fp32)
  --device cpu                 cpu, cuda or auto
  --env pusht                  environment for periodic rollouts, with --eval.every 5000 --eval.episodes 20
  --checkpoint.every 1000      also --checkpoint.keep_last 2 --checkpoint.keep_best 2
  --log.every 50               also --log.wandb true
  --seed 42

several processes:  accelerate launch --num_processes 2 -m robopolicy train PRESET ...   (same losses)
a run directory:    config.yaml metrics.jsonl tensorboard/ checkpoints/ eval/ videos/ report.html
stop and go on:     Ctrl-C or SIGTERM finish the step and save; --resume RUN continues exactly there

exit codes: 0 done, 2 wrong input or failed (one line says why), 130 stopped by Ctrl-C, 143 by SIGTERM (both saved)
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robopolicy.core.errors import ConfigError

if TYPE_CHECKING:
    from robopolicy.evaluation.record import EvaluationRecord
    from robopolicy.policies.base import Policy
    from robopolicy.training.config import TrainConfig
    from robopolicy.training.loop import Evaluator, TrainResult

TAKES_REST = True
OWN_HELP = True
TEXT = __doc__ or ""


class Help(argparse.Action):
    """``--help`` prints the text above; ``--help all`` every option of the configuration."""

    text = TEXT

    @staticmethod
    def options() -> str:
        """Every option with its type, default and meaning."""
        from robopolicy.training.describe import describe

        return describe()

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        print(self.options() if values == "all" else self.text.strip())
        parser.exit()


def add_arguments(parser: argparse.ArgumentParser, help_action: type[Help] = Help) -> None:
    """Declare the few arguments that are not configuration; the rest is read by ``run``."""
    parser.allow_abbrev = False
    parser.add_argument("-h", "--help", nargs="?", action=help_action, choices=["all"])
    parser.add_argument("--resume", metavar="RUN", help="continue a run exactly where it stopped")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Train; returns the exit code."""
    from robopolicy.training.config_load import load_config
    from robopolicy.training.run_dir import resume_config

    config, run_dir = requested(args, "train configs/pusht_state/diffusion.yaml", load_config, resume_config)
    return train_and_tell(config, run_dir, resume=args.resume is not None, progress=not args.quiet)


def requested(
    args: argparse.Namespace,
    example: str,
    load: Callable[[str, Mapping[str, str]], Any],
    resume: Callable[[Path, dict[str, str]], Any],
) -> tuple[Any, Path]:
    """The configuration and the run directory that a command line asks for: a preset, or a run to go on with.

    ``example`` is a command of the verb, for the message to somebody who named no preset.
    """
    from robopolicy.training.overrides import split_arguments
    from robopolicy.training.run_dir import default_run_dir

    words, overrides = split_arguments(args.rest)
    if args.resume is not None:
        if words:
            raise ConfigError(f"--resume takes everything from the run directory; leave out '{words[0]}'")
        return resume(Path(args.resume), overrides), Path(args.resume)
    if len(words) != 1:
        raise ConfigError(f"name one preset, e.g. robopolicy {example} (or --resume RUN)")
    config = load(words[0], overrides)
    return config, Path(config.run_dir) if config.run_dir else default_run_dir(words[0])


def train_and_tell(config: TrainConfig, run_dir: Path, resume: bool, progress: bool) -> int:
    """Train, saying where and how it ended; returns the exit code."""
    from robopolicy.training.loop import train

    if config.env is not None:
        from robopolicy.evaluation.checks import check_pictures
        from robopolicy.sim.registry import EnvConfig

        env = EnvConfig(config.env.name, dict(config.env.kwargs))
        check_pictures(Path(config.dataset.path), env, config.policy.observation_keys)
    announce(run_dir)
    result = train(config, run_dir, resume, evaluator=make_evaluator(config, run_dir), progress=progress)
    return tell(result, run_dir)


def is_main() -> bool:
    """Whether this process speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def announce(run_dir: Path) -> None:
    """Say where everything goes."""
    if is_main():
        print(f"run directory: {run_dir}", flush=True)


def tell(result: TrainResult, run_dir: Path, verb: str = "train") -> int:
    """Say how a training ended and how to go on; returns the exit code."""
    from robopolicy.training.signals import EXIT_CODES

    if not is_main():
        return EXIT_CODES.get(result.stopped or "", 0)
    if result.stopped is not None:
        print(f"stopped by {result.stopped} at step {result.step}; continue with: robopolicy {verb} --resume {run_dir}")
        return EXIT_CODES.get(result.stopped, 0)
    print(f"done: {result.step} steps; newest checkpoint {result.checkpoint}")
    return 0


def make_evaluator(config: TrainConfig, run_dir: Path) -> Evaluator | None:
    """Periodic rollouts in ``config.env``, as a function of the policy and the step; ``None`` without them."""
    if config.env is None or not config.eval.every:
        return None
    from robopolicy.evaluation.rollout import evaluate
    from robopolicy.sim.registry import EnvConfig

    env = EnvConfig(config.env.name, dict(config.env.kwargs))
    options = config.eval

    def evaluator(policy: Policy, step: int) -> Mapping[str, float]:
        record = evaluate(
            policy,
            env,
            episodes=options.episodes,
            base_seed=options.base_seed,
            workers=options.workers,
            slots=options.slots,
            videos=options.videos,
            out=run_dir / "eval" / f"step_{step:06d}",
            progress=False,
            step=step,
        )
        return rollout_scalars(record)

    return evaluator


def rollout_scalars(record: EvaluationRecord) -> dict[str, float]:
    """What a run logs of an evaluation."""
    return {
        "success_rate": record.success.rate,
        "success_low": record.success.low,
        "success_high": record.success.high,
        "mean_max_reward": record.max_reward.mean,
        "episodes": float(record.success.n),
        "errors": float(record.errors),
    }
