"""Tiny worlds for trainers of policies: a bandit of one decision and a point that must be brought to the origin.

No simulator, no disk: transitions are arrays in the form of ``rl.transitions``, so that a whole improvement fits into a
test of seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from robopolicy.core.specs import ACTION, STATE
from robopolicy.rl.transitions import NEXT

Rows = dict[str, np.ndarray]
Actor = Callable[[Rows, int], np.ndarray]


def bandit(actor: Actor, rows: int, seed: int, best: float = 0.5) -> Rows:
    """One decision each: the reward is ``-4 mean((a - best)^2)`` of the executed actions ``(rows, k, D)``."""
    state = np.random.default_rng(seed).uniform(-1, 1, (rows, 2, 3)).astype(np.float32)
    action = actor({STATE: state}, seed)
    reward = -4 * np.square(action - best).mean((1, 2))
    ended = np.ones(rows, bool)
    return {STATE: state, NEXT + STATE: state, **_numbers(action, reward, np.zeros(rows), ended, reward, reward > -3.0)}


class PointMass:
    """A point in the plane, moved by at most ``reach`` a step; the episode is won within ``radius`` of the origin.

    Observed twice (``n_obs_steps`` = 2) as ``observation.state`` ``(2,)``; ``k`` actions ``(2,)`` a decision, in
    [-1, 1]; -1 a step until it is won, at most ``decisions`` decisions.
    """

    def __init__(self, k: int = 2, decisions: int = 8, reach: float = 0.15, radius: float = 0.2, gamma: float = 0.95):
        self.k, self.decisions, self.reach, self.radius, self.gamma = k, decisions, reach, radius, gamma

    def run(self, actor: Actor, episodes: int, seed: int) -> tuple[Rows, float]:
        """Transitions of ``episodes`` episodes played side by side, and the share of them that were won."""
        place = np.random.default_rng(seed).uniform(-1, 1, (episodes, 2)).astype(np.float32)
        window = np.repeat(place[:, None], 2, 1)
        alive, won, parts = np.ones(episodes, bool), np.zeros(episodes, bool), []
        for decision in range(self.decisions):
            before, action = window.copy(), actor({STATE: window}, seed + 7919 * (decision + 1))
            reward, steps, done = np.zeros(episodes), np.zeros(episodes), np.zeros(episodes, bool)
            for i in range(self.k):
                moving = alive & ~done
                place = np.where(moving[:, None], place + self.reach * action[:, i].clip(-1, 1), place)
                window = np.stack([window[:, 1], place], 1)
                reached = moving & (np.linalg.norm(place, axis=1) < self.radius)
                reward -= np.where(moving & ~reached, self.gamma**i, 0.0)
                steps += moving
                done |= reached
            won |= done
            discount = np.where(done, 0.0, self.gamma**self.k)
            rows = {STATE: before, NEXT + STATE: window.copy()}
            rows |= _numbers(action, reward, discount, done, np.zeros(episodes), done, steps)
            parts.append(({key: value[alive] for key, value in rows.items()}, np.flatnonzero(alive)))
            alive &= ~done
        return self._joined(parts, won), float(won.mean())

    def _joined(self, parts: list[tuple[Rows, np.ndarray]], won: np.ndarray) -> Rows:
        """All transitions; returns from the end of each episode back, failures at the floor."""
        after = np.where(won, 0.0, -1 / (1 - self.gamma))
        for rows, index in reversed(parts):
            after[index] = rows["reward"] + self.gamma**self.k * np.where(rows["terminated"], 0.0, after[index])
            rows["mc_return"], rows["success"] = after[index].astype(np.float32), won[index]
        return joined([rows for rows, _ in parts])


def joined(parts: list[Rows]) -> Rows:
    """Transitions one after the other."""
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def drawn(rows: Rows, count: int, seed: int) -> Rows:
    """A batch of ``count`` rows, with replacement."""
    index = np.random.default_rng(seed).integers(0, len(rows[ACTION]), count)
    return {key: value[index] for key, value in rows.items()}


def _numbers(
    action: np.ndarray,
    reward: np.ndarray,
    discount: np.ndarray,
    ended: np.ndarray,
    mc_return: np.ndarray,
    success: np.ndarray,
    steps: np.ndarray | None = None,
) -> dict[str, Any]:
    count = np.full(len(action), action.shape[1]) if steps is None else steps
    return {
        ACTION: action.astype(np.float32),
        "reward": reward.astype(np.float32),
        "discount": discount.astype(np.float32),
        "mc_return": mc_return.astype(np.float32),
        "n": count.astype(np.int64),
        "terminated": ended,
        "truncated": ~ended,
        "success": success,
    }
