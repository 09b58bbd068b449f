"""Rollouts on PushT with the camera: our episode pool against LeRobot's evaluation loop (``lerobot_eval.rollout``).

Same nets (equal parameter counts, random weights, so that every episode runs its full 300 steps on both sides), same
DDIM-10 sampler, same number of episodes.  LeRobot steps all its environments in one process, its default; its other
mode, a process an environment, fails in 0.4.4 (its loop asks the vector environment for an attribute that only the
first kind has).  Ours uses two workers and renders only the frames it reads.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("SLURM_JOB_ID", "0")  # LeRobot hides its progress bar in batch jobs

import torch
from common import arguments, duel, finish
from pairs import SIZES, Pair, count, make_pair

from robopolicy.evaluation.rollout import evaluate
from robopolicy.sim.registry import EnvConfig


def their_envs(n: int) -> Any:
    """The vector environment that ``lerobot-eval`` makes."""
    import gym_pusht  # noqa: F401
    import gymnasium as gym

    def make() -> Any:
        return gym.make(
            "gym_pusht/PushT-v0", obs_type="pixels_agent_pos", render_mode="rgb_array", max_episode_steps=300
        )

    return gym.vector.SyncVectorEnv([make] * n)


def their_rollout(pair: Pair, env: Any, n: int) -> Callable[[], None]:
    """One batch of ``n`` episodes through LeRobot's loop."""
    from lerobot.processor import PolicyProcessorPipeline
    from lerobot.scripts import lerobot_eval

    identity = PolicyProcessorPipeline(steps=[])
    pair.theirs.policy.eval()

    def run() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            done = lerobot_eval.rollout(
                env, pair.theirs.policy, identity, identity, pair.theirs.pre, pair.theirs.post, list(range(n))
            )
        if done["action"].shape[1] != 300:
            raise SystemExit(f"expected 300 steps, LeRobot ran {done['action'].shape[1]}: the work is not equal")

    return run


def our_rollout(pair: Pair, n: int, slots: int) -> Callable[[], None]:
    """The same number of episodes through our pool."""
    keys = list(pair.ours.observation_spec.keys)

    def run() -> None:
        record = evaluate(pair.ours, EnvConfig("pusht"), n, workers=2, slots=slots, progress=False)
        steps = sum(e.length for e in record.episodes)
        if record.errors or steps != 300 * n:
            raise SystemExit(f"expected {300 * n} steps with {keys}, ran {steps} with {record.errors} errors")

    return run


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--episodes", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    n = 4 if args.quick else args.episodes
    pair = make_pair(SIZES["4M"], 10, images=True, crop=84)
    env = their_envs(n)
    try:
        row = duel(
            f"{n} image episodes of 300 steps",
            our_rollout(pair, n, slots=max(4, n - n % 2)),
            their_rollout(pair, env, n),
            rounds=1 if args.quick else 3,
            repeats=1,
            warmup=0 if args.quick else 1,
            goal=">= 2.5",
            parameters=count(pair.ours),
            their_parameters=pair.theirs.parameters(),
        )
    finally:
        env.close()
    finish([row], args.out)


if __name__ == "__main__":
    main()
