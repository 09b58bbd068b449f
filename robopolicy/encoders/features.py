"""What encoders hand to heads: one vector a chunk, tokens, or both; computed once per observation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor


@dataclass(frozen=True)
class Features:
    """Encoded observations of ``B`` rows.

    ``vector`` ``(B, D)``; ``tokens`` ``(B, N, D)``; ``positions`` ``(B, N, 3)`` metres, for heads that attend in
    space.  Absent parts are ``None``.  ``extras`` are further named parts ``(B, ...)``: ``goal`` ``(B, G, D)`` tokens
    of the goal, ``memory`` the state a temporal encoder carries to the next chunk.
    """

    vector: Tensor | None = None
    tokens: Tensor | None = None
    positions: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def batch_size(self) -> int:
        """Number of rows ``B``."""
        parts = (self.vector, self.tokens, self.positions, *self.extras.values())
        return len(next(p for p in parts if p is not None))

    def repeat_interleave(self, repeats: int) -> Features:
        """Every row ``repeats`` times in place: K samples of one observation are neighbours."""
        return self if repeats == 1 else self.map(lambda x: x.repeat_interleave(repeats, dim=0))

    def index_select(self, rows: Tensor) -> Features:
        """The given rows, in the given order."""
        return self.map(lambda x: x.index_select(0, rows))

    def map(self, f: Callable[[Tensor], Tensor]) -> Features:
        """``f`` of every part."""
        vector, tokens, positions = (None if p is None else f(p) for p in (self.vector, self.tokens, self.positions))
        return Features(vector, tokens, positions, {k: f(v) for k, v in self.extras.items()})

    def with_extras(self, **extras: Tensor) -> Features:
        """The same with further named parts."""
        return replace(self, extras={**self.extras, **extras})
