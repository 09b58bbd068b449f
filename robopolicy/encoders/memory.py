"""The state that a temporal encoder carries from one chunk to the next; its size does not grow with time."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Memory:
    """``state`` ``(B, ...)``: what was carried; ``fresh`` ``(B,)`` bool: rows whose episode begins (state ignored)."""

    state: Tensor
    fresh: Tensor


class EpisodeMemories:
    """The newest state of each running episode, by any hashable name of the episode."""

    def __init__(self) -> None:
        self._states: dict[Hashable, Tensor] = {}

    def __len__(self) -> int:
        return len(self._states)

    def gather(self, episodes: Sequence[Hashable], blank: Tensor) -> Memory:
        """States of the rows' episodes; unknown episodes are fresh and hold ``blank`` ``(...)`` meanwhile."""
        states = [self._states.get(e) for e in episodes]
        fresh = torch.tensor([s is None for s in states], device=blank.device)
        return Memory(torch.stack([blank if s is None else s.to(blank) for s in states]), fresh)

    def commit(self, episodes: Sequence[Hashable], state: Tensor) -> None:
        """Keep ``state`` ``(B, ...)`` for the next call, once a chunk."""
        for episode, row in zip(episodes, state.detach().unbind(0), strict=True):
            self._states[episode] = row.clone()

    def forget(self, episodes: Sequence[Hashable] | None = None) -> None:
        """Drop the given episodes, or all."""
        for episode in list(self._states) if episodes is None else episodes:
            self._states.pop(episode, None)
