"""What is left of the old chunk, as the new one shall continue it: values, weights, frozen steps (no torch here)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from robopolicy.core.errors import ConfigError, InvalidChunk

Schedule = Literal["zeros", "linear", "exp", "ones"]


def falling_weights(schedule: Schedule, start: int, end: int, total: int) -> np.ndarray:
    """How strongly each of ``total`` steps is held to the old chunk, ``(total,)`` float32 in [0, 1], never rising.

    1 before ``start`` (the delay in steps), 0 from ``end`` on (where the old chunk ends, or earlier), and between them:
    nothing (``zeros``), everything (``ones``), a line that touches neither 1 nor 0 (``linear``), or
    ``l (e^l - 1) / (e - 1)`` of that line ``l`` (``exp``).  A ``start`` beyond ``end`` counts as ``end``.
    Raises ``ConfigError`` for an unknown schedule or places outside ``0..total``.
    """
    if not (0 <= start <= total and 0 <= end <= total):
        raise ConfigError(f"start and end must be steps within 0..{total}, got {start} and {end}")
    start = min(start, end)
    step = np.arange(total, dtype=np.float64)
    line = np.clip((end - step) / (end - start + 1), 0, 1)
    line[:start] = 1
    shapes = {
        "zeros": (step < start).astype(np.float64),
        "linear": line,
        "exp": line * np.expm1(line) / (math.e - 1),
        "ones": (step < end).astype(np.float64),
    }
    if schedule not in shapes:
        raise ConfigError(f"schedule must be one of {', '.join(get_args(Schedule))}, got {schedule!r}")
    return shapes[schedule].astype(np.float32)


@dataclass(frozen=True, eq=False)
class Guide:
    """The old chunk on the new chunk's grid.

    ``previous`` ``(horizon, D)`` float32, physical; ``weights`` ``(horizon,)`` in [0, 1], 0 where the old chunk says
    nothing; ``delay``: steps from the newest observation on that will have been executed when the answer is there.
    """

    previous: np.ndarray
    weights: np.ndarray
    delay: int = 0

    def __post_init__(self) -> None:
        if self.previous.ndim != 2 or self.weights.shape != self.previous.shape[:1]:
            raise InvalidChunk(
                f"guide: expected previous (horizon, D) and weights (horizon,), got {self.previous.shape} and "
                f"{self.weights.shape}"
            )
        if not (np.isfinite(self.previous).all() and (self.weights >= 0).all() and (self.weights <= 1).all()):
            raise InvalidChunk("guide: expected finite actions and weights within [0, 1]")

    @property
    def empty(self) -> bool:
        """Whether nothing is held."""
        return not self.weights.any()


def whole_guide(actions: np.ndarray) -> Guide:
    """All of a chunk ``(horizon, D)`` held: the most that a policy can be asked to continue, for timing it."""
    return Guide(np.asarray(actions, np.float32), np.ones(len(actions), np.float32))
