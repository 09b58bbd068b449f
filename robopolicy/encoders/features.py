"""What encoders hand to heads: one vector a chunk, tokens, or both; computed once per observation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Features:
    """Encoded observations of ``B`` rows.

    ``vector`` ``(B, D)``; ``tokens`` ``(B, N, D)``; ``positions`` ``(B, N, 3)`` metres, for heads that attend in
    space.  Absent parts are ``None``.
    """

    vector: Tensor | None = None
    tokens: Tensor | None = None
    positions: Tensor | None = None

    @property
    def batch_size(self) -> int:
        """Number of rows ``B``."""
        part = next(p for p in (self.vector, self.tokens, self.positions) if p is not None)
        return len(part)

    def repeat_interleave(self, repeats: int) -> Features:
        """Every row ``repeats`` times in place: K samples of one observation are neighbours."""
        return self if repeats == 1 else self._map(lambda x: x.repeat_interleave(repeats, dim=0))

    def index_select(self, rows: Tensor) -> Features:
        """The given rows, in the given order."""
        return self._map(lambda x: x.index_select(0, rows))

    def _map(self, f: Callable[[Tensor], Tensor]) -> Features:
        parts = (self.vector, self.tokens, self.positions)
        return Features(*(None if p is None else f(p) for p in parts))
