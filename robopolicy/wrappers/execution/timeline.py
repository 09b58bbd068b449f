"""Dated actions in force: what was executed lately and what lies ahead, as chunks replaced one another."""

from __future__ import annotations

import numpy as np


class Timeline:
    """Actions ``(n, D)`` with rising ``stamps`` ``(n,)`` (s) and the number of the chunk each is of; ``dt`` s apart."""

    def __init__(self, dim: int, dt: float, kept: int) -> None:
        """``kept``: how many past actions are remembered."""
        self._dt, self._kept = dt, kept
        self.stamps, self.actions = np.zeros(0), np.zeros((0, dim), np.float32)
        self.chunks = np.zeros(0, np.int64)

    @property
    def end(self) -> float | None:
        """When the last action's period ends; ``None`` without any."""
        return float(self.stamps[-1]) + self._dt if len(self.stamps) else None

    def merge(self, stamps: np.ndarray, actions: np.ndarray, now: float, chunk: int = 0) -> int:
        """Put the actions due at ``now`` or later in the place of all that lay ahead; returns how many were late.

        Where all are late nothing changes.
        """
        edge = now - 0.5 * self._dt
        fresh = stamps >= edge
        late = int((~fresh).sum())
        if late == len(stamps):
            return late
        old = np.flatnonzero(self.stamps < edge)[-self._kept :]
        self.stamps = np.concatenate((self.stamps[old], stamps[fresh]))
        self.actions = np.concatenate((self.actions[old], actions[fresh]))
        self.chunks = np.concatenate((self.chunks[old], np.full(len(stamps) - late, chunk)))
        return late

    def at(self, time: float) -> int | None:
        """Which action is due at ``time``, to the nearest; ``None`` where there is none within half a period."""
        if not len(self.stamps):
            return None
        nearest = int(np.abs(self.stamps - time).argmin())
        return nearest if abs(self.stamps[nearest] - time) <= 0.5 * self._dt else None
