"""Train a critic, which values a policy's next actions, on LeRobot datasets with rewards or success labels.

usage: robopolicy train-critic PRESET --data.paths PATH[,PATH...] [--critic.gamma 0.98] [--any.option VALUE ...]
       robopolicy train-critic --resume RUN

    robopolicy evaluate runs/lift --episodes 200 --record data/lift_rollouts
    robopolicy train-critic configs/critics/cal_ql.yaml --data.paths data/lift_rollouts,data/lift --run_dir runs/critic

PRESET is a YAML file, or the name of a shipped one (configs/critics/iql.yaml, configs/critics/cal_ql.yaml).  Every
option can be set on the command line; `--help all` lists them with types, defaults and meaning.

often set:
  --data.paths a,b                 LeRobot datasets: demonstrations, and rollouts, failed ones too
  --data.assume_all_success true   datasets without success labels hold successes only (demonstrations)
  --data.rewards recorded          next.reward as it is, instead of -1 a step until success
  --data.mixing balanced           the same number of transitions from every dataset
  --data.val_ratio 0.1             share of each dataset's episodes held out for the report
  --critic.type iql                or cal_ql
  --critic.n_action_steps 8        value chunks of as many steps as the policy executes; 1 values single actions
  --critic.observation_keys [observation.state]
  --run_dir DIR                    where everything goes (default runs/critics-<preset>-<time>)
  --steps 20000   --batch_size 256   --optimizer.lr 3e-4   --device cpu   --seed 42
  --checkpoint.every 1000          also --checkpoint.keep_last 2 --checkpoint.keep_best 2
  --validation.every 1000          the report on held-out episodes

a run directory:    config.yaml metrics.jsonl tensorboard/ checkpoints/ (robopolicy.load_critic takes any of them)
the report:         td_error, q_data beside mc_return, spearman of both, auc_start (does the first value tell success)
stop and go on:     Ctrl-C or SIGTERM finish the step and save; --resume RUN continues exactly there

exit codes: 0 done, 2 wrong input or failed (one line says why), 130 stopped by Ctrl-C, 143 by SIGTERM (both saved)
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from robopolicy.cli import train

TAKES_REST = True
OWN_HELP = True
TEXT = __doc__ or ""
VERB = "train-critic"


class Help(train.Help):
    """``--help`` prints the text above; ``--help all`` every option of the configuration."""

    text = TEXT

    @staticmethod
    def options() -> str:
        """Every option with its type, default and meaning."""
        from robopolicy.training.critic_config import CriticTrainConfig
        from robopolicy.training.describe import option_lines

        return "\n".join(option_lines(CriticTrainConfig))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the few arguments that are not configuration; the rest is read by ``run``."""
    train.add_arguments(parser, Help)


def run(args: argparse.Namespace) -> int:
    """Train; returns the exit code."""
    from robopolicy.training.critic_config import critic_config_from_dict, load_critic_config
    from robopolicy.training.run_dir import resume_config

    def resume(run: Path, overrides: dict[str, str]) -> Any:
        return resume_config(run, overrides, critic_config_from_dict)

    example = "train-critic configs/critics/cal_ql.yaml --data.paths PATH"
    config, run_dir = train.requested(args, example, load_critic_config, resume)

    from robopolicy.training.critic_setup import CRITIC_RUN
    from robopolicy.training.loop import train as train_run

    train.announce(run_dir)
    result = train_run(config, run_dir, args.resume is not None, progress=not args.quiet, kind=CRITIC_RUN)
    code = train.tell(result, run_dir, VERB)
    if code == 0 and train.is_main():
        _report(run_dir)
    return code


def _report(run_dir: Path) -> None:
    """The last report on held-out episodes, in words."""
    from robopolicy.training.metrics import NAME, read_metrics

    seen = [r for r in read_metrics(run_dir / NAME) if r["kind"] == "val"]
    if not seen:
        print("no report: no held-out episodes (--data.val_ratio) or --validation.every 0")
        return
    last = seen[-1]
    told = [
        f"TD error {last['td_error']:.4g}",
        f"value of the data's actions {last['q_data']:.4g} beside their return {last['mc_return']:.4g}",
        *([f"Spearman {last['spearman']:.3f}"] if "spearman" in last else ["returns are all alike: no Spearman"]),
        *([f"AUC at the start {last['auc_start']:.3f}"] if "auc_start" in last else ["one outcome only: no AUC"]),
    ]
    print(f"held-out episodes, step {last['step']}: {', '.join(told)}")
