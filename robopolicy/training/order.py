"""Data order as a pure function of (seed, step): the stream of samples is one permutation an epoch, end to end.

Nothing is dropped: a batch may end one epoch and begin the next, and may be larger than the data.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from robopolicy.core.errors import ConfigError, DatasetError
from robopolicy.core.seeding import generator


class SampleOrder:
    """Which of ``size`` samples make up the global batch of each step."""

    def __init__(self, size: int, batch_size: int, seed: int) -> None:
        if size < 1:
            raise DatasetError("no training windows: every episode is shorter than a window; lower policy.horizon")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self._permutation = lru_cache(maxsize=2)(self._draw)

    def _draw(self, epoch: int) -> np.ndarray:
        return generator("shuffle", self.seed, epoch).permutation(self.size)

    def indices(self, step: int) -> np.ndarray:
        """``(batch_size,)`` int64 sample indices of step ``step`` (from 0)."""
        at, left, parts = step * self.batch_size, self.batch_size, []
        while left:
            epoch, offset = divmod(at, self.size)
            take = min(left, self.size - offset)
            parts.append(self._permutation(epoch)[offset : offset + take])
            at, left = at + take, left - take
        return np.concatenate(parts)

    def epoch(self, step: int) -> float:
        """Passes over the data completed before step ``step``."""
        return step * self.batch_size / self.size


def share_of(rank: int, world: int, parts: int, batch_size: int) -> list[slice]:
    """Slices of the global batch that ``rank`` of ``world`` processes handles, one per micro-batch.

    All processes get the same number of micro-batches (``parts``), none empty.
    """
    if batch_size < world * parts:
        raise ConfigError(
            f"batch_size={batch_size} is less than {world} processes x grad_accumulation={parts}; raise batch_size"
        )
    edges = [batch_size * i // (world * parts) for i in range(world * parts + 1)]
    mine = range(rank * parts, (rank + 1) * parts)
    return [slice(edges[i], edges[i + 1]) for i in mine]
