"""Improve a trained policy by trying: DSRL steers its noise, PA-RL optimises its actions and distils them.

usage: robopolicy finetune PRESET --base PATH [--env panda_lift] [--max-env-steps N] [--any.option VALUE ...]
       robopolicy finetune --resume RUN

    robopolicy finetune configs/finetune/dsrl.yaml --base runs/lift --max-env-steps 50000 --run_dir runs/lift_dsrl
    robopolicy finetune configs/finetune/pa_rl.yaml --base runs/lift --offline.paths data/lift_rollouts,data/lift
    robopolicy evaluate runs/lift_dsrl --episodes 200

PRESET is a YAML file, or the name of a shipped one.  `type` is the one line that changes the method, `base` the one
that changes the policy.  Rounds: collect episodes, learn from all there are, evaluate on fixed seeds, save.

often set (`--help all` lists every option with type, default and meaning):
  --base PATH                  run, checkpoint, policy directory, YAML of a nesting, lerobot:PATH_OR_HUB_ID
  --type dsrl                  or pa_rl; options are --dsrl.NAME and --pa_rl.NAME
  --max-env-steps N            budget of environment steps, never exceeded;  --rounds N  budget of rounds
  --env NAME                   default: that of the base's run; --env.kwargs.NAME VALUE sets its options
  --offline.paths a,b          datasets from before; also --offline.assume_all_success true for demonstrations
  --collect.episodes 10        a round; --collect.warmup_episodes 20 by the base alone; --collect.slots 8 at a time
  --simulate.workers 2         simulator processes; --simulate.ray auto puts them on a Ray cluster
  --eval.every_rounds 5        with --eval.episodes 50, on the same seeds in every run
  --run_dir DIR   --seed 42   --device cpu   --checkpoint.every_rounds 1   --log.wandb true

a run directory:    config.yaml base/ replay/ checkpoints/ policy.yaml eval/ metrics.jsonl tensorboard/ (over env steps)
stop and go on:     Ctrl-C or SIGTERM save; --resume RUN continues exactly there, after kill -9 too (finished episodes
                    stay); --max-env-steps and --rounds may be raised, --base may name where the base lies now

on a real robot:    --collect.slots 1 --max-env-steps N; success usually dips when learning begins, so mix in the base
                    (--safety.mix_base 0.2), stop after failures in a row (--safety.max_failures 5), let the bound of
                    the latents grow (--safety.bound_start 0.5).  The limits of the arm and somebody at the emergency
                    stop are not replaced by any of this: docs/finetuning.md has the list.

exit codes: 0 done, 1 stopped by --safety.max_failures, 2 wrong input or failed (one line says why), 130 stopped by
            Ctrl-C, 143 by SIGTERM (all three stops saved)
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robopolicy.cli import train

if TYPE_CHECKING:
    from robopolicy.training.finetune import Evaluator, FinetuneResult
    from robopolicy.training.finetune_config import FinetuneConfig

TAKES_REST = True
OWN_HELP = True
TEXT = __doc__ or ""
SAFETY_STOP = 1


class Help(train.Help):
    """``--help`` prints the text above; ``--help all`` every option of the configuration."""

    text = TEXT

    @staticmethod
    def options() -> str:
        """Every option with its type, default and meaning, each method's in its section."""
        from robopolicy.rl.improvers import IMPROVERS
        from robopolicy.training.describe import option_lines
        from robopolicy.training.finetune_config import FinetuneConfig

        sections = {name: IMPROVERS.get(name).config_class for name in IMPROVERS}
        return "\n".join(option_lines(FinetuneConfig, sections={"method": sections}))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the few arguments that are not configuration; the rest is read by ``run``."""
    train.add_arguments(parser, Help)


def run(args: argparse.Namespace) -> int:
    """Fine-tune; returns the exit code."""
    from robopolicy.training.finetune_config import CHANGEABLE, finetune_config_from_dict, load_finetune_config
    from robopolicy.training.run_dir import resume_config

    def resume(run: Path, overrides: dict[str, str]) -> Any:
        return resume_config(run, overrides, finetune_config_from_dict, CHANGEABLE)

    example = "finetune configs/finetune/dsrl.yaml --base PATH"
    config, run_dir = train.requested(args, example, load_finetune_config, resume)
    return finetune_and_tell(config, run_dir, resume=args.resume is not None, progress=not args.quiet)


def finetune_and_tell(config: FinetuneConfig, run_dir: Path, resume: bool, progress: bool) -> int:
    """Fine-tune, saying where and how it ended; returns the exit code."""
    from robopolicy.evaluation.checks import check_fits
    from robopolicy.training.finetune import finetune
    from robopolicy.training.finetune_setup import with_env

    config = config if resume else with_env(config)
    print(f"run directory: {run_dir}", flush=True)
    result = finetune(
        config, run_dir, resume, evaluator=make_evaluator(config, run_dir), check=check_fits, progress=progress
    )
    return tell(result)


def tell(result: FinetuneResult) -> int:
    """Say how a run ended and how to go on; returns the exit code."""
    from robopolicy.training.signals import EXIT_CODES

    where = f"{result.rounds} rounds, {result.env_steps} environment steps"
    again = f"robopolicy finetune --resume {result.run_dir}"
    if result.stopped == "safety":
        print(f"stopped by the safety rule after {where}: too many failures in a row; look at the robot, then {again}")
        return SAFETY_STOP
    if result.stopped is not None:
        print(f"stopped by {result.stopped} after {where}; continue with: {again}")
        return EXIT_CODES.get(result.stopped, 0)
    print(f"done: {where}; newest checkpoint {result.checkpoint}")
    for line in _curve(result.run_dir):
        print(line)
    print(f"deploy {result.run_dir / 'policy.yaml'}: robopolicy evaluate {result.run_dir}")
    return 0


def _curve(run_dir: Path) -> list[str]:
    """The first and the last evaluation of every candidate, in words."""
    from robopolicy.training.metrics import NAME, read_metrics

    seen = [r for r in read_metrics(run_dir / NAME) if r["kind"] == "eval"]
    names = dict.fromkeys(k.removesuffix(".success_rate") for r in seen for k in r if k.endswith(".success_rate"))
    lines = []
    for name in names:
        mine = [r for r in seen if f"{name}.success_rate" in r]
        for record in (mine[0], mine[-1])[: len(mine)]:
            rate, low, high, n = (
                record[f"{name}.{key}"] for key in ("success_rate", "success_low", "success_high", "episodes")
            )
            lines.append(f"{name} at {record['env_steps']:.0f} steps: {rate:.3f} [{low:.3f}, {high:.3f}], n = {n:.0f}")
    return lines


def make_evaluator(config: FinetuneConfig, run_dir: Path) -> Evaluator | None:
    """Rollouts of several policies on the configured seeds; ``None`` without them."""
    if not config.eval.every_rounds or config.env is None:
        return None
    from robopolicy.evaluation.rollout import evaluate
    from robopolicy.sim.registry import EnvConfig

    env, options, simulate = EnvConfig(config.env.name, dict(config.env.kwargs)), config.eval, config.simulate

    def evaluator(policies: Mapping[str, Any], label: str) -> Mapping[str, Mapping[str, float]]:
        return {
            name: train.rollout_scalars(
                evaluate(
                    policy,
                    env,
                    episodes=options.episodes,
                    base_seed=options.base_seed,
                    workers=simulate.workers,
                    slots=options.slots,
                    videos=options.videos,
                    out=run_dir / "eval" / f"{label}_{name}",
                    progress=False,
                    timeout_s=simulate.timeout_s,
                    ray=simulate.ray,
                )
            )
            for name, policy in policies.items()
        }

    return evaluator
