"""What the steps of collected episodes are worth: from what the simulator said to rewards, discounts and returns.

Source: the project's notes on DSRL, 4.1 (chunks), and on PA-RL, 6 (failures).  The replay keeps what happened; this
rule is applied when it is read, so rewards can change without collecting again.  Differs from both published codes:
chunks are discounted by the steps really executed, time limits bootstrap, and every failure of a sparse task returns
the floor, online too.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from robopolicy.core.configs import config_dataclass
from robopolicy.core.errors import ConfigError
from robopolicy.rl.returns import StepRewards, monte_carlo, recorded, relabel
from robopolicy.rl.transitions import ChunkTransitions


@config_dataclass
class RewardRule:
    """What a step of a collected episode is worth."""

    rewards: Literal["success", "recorded"] = "success"
    """success: -1 a step until the task is solved, which is worth 0 and ends the episode, whatever the environment's
    reward says; recorded: the environment's reward."""
    scale: Annotated[float, Field(gt=0)] = 1.0
    """Recorded rewards are multiplied by this..."""
    bias: float = 0.0
    """... and this is added (-1 makes 0/1 rewards -1/0)."""
    push_failures: bool = True
    """Monte-Carlo returns of sparse episodes that never succeed are those of failing for ever, -1 / (1 - gamma), also
    after a time limit; false adds up only what was seen, which calls a failure nearly as good as a success."""
    legacy_discount: bool = False
    """As the published DSRL code for gym and robomimic: a chunk's rewards are added up undiscounted, gamma discounts a
    chunk instead of a step, and a time limit ends the future.  For reproduction only."""

    def __post_init__(self) -> None:
        if self.rewards == "success" and (self.scale, self.bias) != (1.0, 0.0):
            raise ConfigError("scale and bias change recorded rewards; set rewards to recorded, or leave them out")

    def step_rewards(self, rewards: np.ndarray, successes: np.ndarray, terminated: bool, gamma: float) -> StepRewards:
        """Rewards and masks of the ``L`` steps of an episode, from what the simulator said of each."""
        if self.rewards == "success":
            success = bool(np.any(successes))
            first = int(np.argmax(successes)) if success else None
            steps = relabel(len(rewards), success, gamma, positive_steps=1, first_success=first)
        else:
            steps = recorded(np.asarray(rewards, np.float64) * self.scale + self.bias, terminated, gamma)
        return steps if self.push_failures else dataclasses.replace(steps, tail=0.0)

    def transitions(
        self, rewards: np.ndarray, successes: np.ndarray, terminated: bool, truncated: bool, gamma: float, k: int
    ) -> ChunkTransitions:
        """Numbers of the decisions of an episode, each of ``k`` actions, from ``(L,)`` rewards and success flags."""
        steps = self.step_rewards(rewards, successes, terminated, gamma)
        made = ChunkTransitions.of(steps, gamma, k, bool(np.any(successes)), truncated, stride=k)
        return _legacy(made, steps, gamma, k) if self.legacy_discount else made


def _legacy(made: ChunkTransitions, steps: StepRewards, gamma: float, k: int) -> ChunkTransitions:
    """Undiscounted sums, ``gamma`` a chunk, and an end is an end, whoever brought it."""
    starts = np.arange(len(made)) * k
    total = np.array([steps.reward[s : s + n].sum() for s, n in zip(starts, made.n, strict=True)])
    ended = made.terminated.copy()
    ended[-1] = True
    mask = np.where(ended, 0.0, 1.0)
    return dataclasses.replace(
        made,
        reward=total.astype(np.float32),
        discount=(gamma * mask).astype(np.float32),
        mc_return=monte_carlo(StepRewards(total, mask, steps.tail), gamma).astype(np.float32),
        terminated=ended,
    )
