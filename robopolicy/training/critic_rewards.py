"""What recorded episodes were worth: labels, rewards, ends and returns of every step of a dataset.

Source: the project's notes on V-GPS, 4.1.  Success labels are ``next.success`` (a frame each) or ``success`` of the
episode table; recorded rewards are ``next.reward``.  Demonstrations without either need ``assume_all_success``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from robopolicy.core.critic import RewardKind
from robopolicy.core.errors import ConfigError, DatasetError, MissingRewards
from robopolicy.datasets.episode_meta import episode_meta
from robopolicy.datasets.reader import Reader
from robopolicy.datasets.reader_types import Episode
from robopolicy.rl import returns
from robopolicy.rl.returns import StepRewards
from robopolicy.rl.transitions import ChunkTransitions
from robopolicy.training.critic_config import CriticDataConfig

SUCCESS, REWARD, DONE, TRUNCATED = "next.success", "next.reward", "next.done", "next.truncated"
ENDS = ("success", "terminated", "truncated")
Source = Literal["success", "recorded"]


@dataclass(frozen=True)
class Outcome:
    """How one episode ended; ``first_success`` is the step after which the goal was first reached, where known."""

    success: bool
    terminated: bool
    truncated: bool
    first_success: int | None = None


class Labels:
    """What a dataset says about its episodes."""

    def __init__(self, reader: Reader, assume_all_success: bool) -> None:
        self.reader, self.assumed = reader, assume_all_success
        self._meta = episode_meta(reader, ENDS)
        self._frames = SUCCESS in reader.columns

    @property
    def labelled(self) -> bool:
        """Whether every episode is known to be a success or a failure."""
        return self._frames or all("success" in m for m in self._meta.values())

    @property
    def rewarded(self) -> bool:
        """Whether the frames carry rewards."""
        return REWARD in self.reader.columns

    def outcome(self, episode: Episode) -> Outcome:
        """How ``episode`` ended.  A failure is a time limit unless the data say otherwise: it terminates nothing."""
        meta, rows = self._meta[episode.index], slice(episode.start, episode.stop)
        flags = self._column(SUCCESS, rows).astype(bool) if self._frames else None
        if flags is not None:
            success = bool(flags.any())
        else:
            success = bool(meta.get("success", self.assumed))
        first = int(flags.argmax()) if flags is not None and success else None
        return Outcome(success, *self._ended(meta, rows, success), first)

    def _ended(self, meta: dict[str, Any], rows: slice, success: bool) -> tuple[bool, bool]:
        """Terminated and truncated."""
        columns = self.reader.columns
        if "terminated" in meta or "truncated" in meta:
            truncated = bool(meta.get("truncated", not meta.get("terminated", False)))
            return bool(meta.get("terminated", not truncated)), truncated
        if TRUNCATED in columns:
            truncated = bool(self._column(TRUNCATED, rows)[-1])
        elif self.labelled or self.assumed:
            truncated = not success
        else:
            truncated = DONE in columns and not bool(self._column(DONE, rows)[-1])
        return not truncated, truncated

    def rewards(self, episode: Episode) -> np.ndarray:
        """Recorded rewards ``(L,)`` of the steps of ``episode``."""
        values = self._column(REWARD, slice(episode.start, episode.stop)).astype(np.float64)
        if not np.isfinite(values).all():
            step = int(np.flatnonzero(~np.isfinite(values))[0])
            raise DatasetError(f"{self.reader.root}: '{REWARD}' is not finite in episode {episode.index}, frame {step}")
        return values

    def _column(self, key: str, rows: slice) -> np.ndarray:
        values = self.reader.columns[key][rows]
        if values.reshape(len(values), -1).shape[1] != 1:
            raise DatasetError(f"{self.reader.root}: '{key}' has shape {values.shape[1:]} a frame, expected one number")
        return values.reshape(-1)


def choose_source(labels: Sequence[Labels], config: CriticDataConfig) -> Source:
    """Where the rewards come from, the same for all datasets; ``MissingRewards`` where one has nothing to offer."""
    labelled = all(x.labelled or x.assumed for x in labels)
    rewarded = all(x.rewarded for x in labels)
    if config.rewards == "recorded" or (config.rewards == "auto" and not labelled and rewarded):
        if not rewarded:
            bare = next(x for x in labels if not x.rewarded)
            raise MissingRewards(f"{bare.reader.root}: no '{REWARD}'; set data.rewards to success, or record rewards")
        return "recorded"
    if not labelled:
        bare = next(x for x in labels if not (x.labelled or x.assumed))
        raise MissingRewards(
            f"{bare.reader.root}: neither '{SUCCESS}', nor 'success' of the episodes, nor '{REWARD}' in every dataset; "
            "if all its episodes succeed, say --data.assume_all_success true"
        )
    return "success"


def transitions_of(
    labels: Labels, episodes: Sequence[Episode], source: Source, config: CriticDataConfig, gamma: float, k: int
) -> ChunkTransitions:
    """Numbers of the transitions that begin at every frame of ``episodes``, in their order."""
    parts = []
    for episode in episodes:
        outcome = labels.outcome(episode)
        steps = _steps(labels, episode, outcome, source, config, gamma)
        parts.append(ChunkTransitions.of(steps, gamma, k, outcome.success, outcome.truncated))
    return ChunkTransitions.joined(parts)


def _steps(
    labels: Labels, episode: Episode, outcome: Outcome, source: Source, config: CriticDataConfig, gamma: float
) -> StepRewards:
    if source == "success":
        return returns.relabel(episode.length, outcome.success, gamma, config.positive_steps, outcome.first_success)
    rewards = labels.rewards(episode) * config.reward_scale + config.reward_bias
    return returns.recorded(rewards, outcome.terminated, gamma)


def reward_kind(labels: Sequence[Labels], source: Source, config: CriticDataConfig) -> RewardKind:
    """What the rewards look like, for whoever reads the critic's values."""
    if source == "success":
        return "neg1_0"
    kinds: dict[frozenset[float], RewardKind] = {frozenset((-1.0, 0.0)): "neg1_0", frozenset((0.0, 1.0)): "zero_1"}
    seen: set[float] = set()
    for x in labels:
        seen |= set(np.unique(x.reader.columns[REWARD]) * config.reward_scale + config.reward_bias)
    return next((kind for values, kind in kinds.items() if seen <= values), "dense")


def check_bins(gamma: float, returns_seen: np.ndarray, low: float, high: float) -> None:
    """Refuse bins that do not hold the returns; ``ConfigError`` says which they should."""
    least, most = float(returns_seen.min()), float(returns_seen.max())
    slack = 1e-3 * (high - low)
    if least < low - slack or most > high + slack:
        raise ConfigError(
            f"critic.hl_gauss covers {low:g}..{high:g}, but returns at gamma={gamma:g} reach {least:.4g}..{most:.4g}; "
            "set critic.hl_gauss.low and high"
        )
