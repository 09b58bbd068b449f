"""What critics are drawn to: reductions over an ensemble, the best of several next actions, one-step targets.

Sources: RLPD (Ball et al. 2023, arXiv 2302.02948): minimum over a random subset of a large ensemble; CQL's and Cal-QL's
maximum over next actions.  Differs: the subset is an argument, so that a step is a function of its inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robopolicy.core.errors import ConfigError, MissingLogProb

Reduce = Literal["min", "mean", "lcb"]


def reduce_members(values: Tensor, how: Reduce = "min") -> Tensor:
    """``(E, ...)`` to ``(...)``: the least member, the mean, or the mean less one (population) deviation."""
    if how == "min":
        return values.min(0).values
    if how == "mean":
        return values.mean(0)
    if how == "lcb":
        return values.mean(0) - values.std(0, correction=0)
    raise ConfigError(f"reduce must be min, mean or lcb, got {how!r}")


@dataclass(frozen=True)
class CriticTarget:
    """How an ensemble's values become one target; ``subset`` members are drawn without replacement, once an update."""

    ensemble: int = 2
    subset: int | None = None
    reduce: Literal["min", "mean"] = "min"

    def __post_init__(self) -> None:
        if self.subset is not None and not 1 <= self.subset <= self.ensemble:
            raise ConfigError(f"subset must be 1..{self.ensemble} members, got {self.subset}")

    @property
    def size(self) -> int:
        """Members that enter one target."""
        return self.ensemble if self.subset is None else self.subset

    def draw(self, generator: torch.Generator | None = None) -> Tensor:
        """Which members ``(size,)`` int64 the next target uses."""
        if self.size == self.ensemble:
            return torch.arange(self.ensemble)
        return torch.randperm(self.ensemble, generator=generator)[: self.size]

    def __call__(self, values: Tensor, members: Tensor | None = None) -> Tensor:
        """``(E, ...)`` to ``(...)`` over ``members`` (all without)."""
        if members is not None and len(members) != self.ensemble:
            values = values.index_select(0, members)
        return reduce_members(values, self.reduce)


def best_of(values: Tensor, max_backup: bool = True) -> Tensor:
    """Value ``(B,)`` of the best (or just the first) of several next actions ``(B, N)``."""
    return values.max(-1).values if max_backup else values[..., 0]


def bellman(reward: Tensor, discount: Tensor, value: Tensor) -> Tensor:
    """``y = R + discount * value`` ``(B,)``: ``R`` the discounted rewards of a chunk, ``discount`` ``gamma^n`` or 0."""
    return reward + discount * value


def with_entropy(value: Tensor, alpha: float | Tensor, log_prob: Tensor | None) -> Tensor:
    """``value - alpha * log pi``: the bonus of soft critics; ``MissingLogProb`` where a policy has no density."""
    if alpha == 0:
        return value
    if log_prob is None:
        raise MissingLogProb("an entropy bonus needs log pi of the next actions, which this policy does not give")
    return value - alpha * log_prob
