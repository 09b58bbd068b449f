"""How long a policy takes to answer, in seconds and in action periods.

Source: inference delay in action periods as in real-time chunking (Black et al. 2025, arXiv 2506.07339, section 3).
"""

from __future__ import annotations

import math
from collections import deque

WINDOW = 100  # answers remembered
SHARE = 0.95  # of the answers that are no slower
LEAP = 2  # action periods by which the delay may change before it is told


def periods(seconds: float, dt: float) -> int:
    """Action periods of ``dt`` seconds that ``seconds`` last, rounded up."""
    # A latency of exactly two periods is two, whatever its last bit says.
    return math.ceil(seconds / dt - 1e-9)


class LatencyTracker:
    """Latencies of the last hundred answers, seconds."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=WINDOW)
        self._told: int | None = None

    def add(self, seconds: float, dt: float) -> str | None:
        """Remember one answer; returns a warning when the delay leapt since the last warning."""
        self._seconds.append(seconds)
        delay, told = self.delay(dt), self._told
        if told is None or abs(delay - told) > LEAP:
            self._told = delay
            return None if told is None else f"policy latency: {told} -> {delay} action periods of {1e3 * dt:.0f} ms"
        return None

    @property
    def usual(self) -> float | None:
        """95th percentile (nearest rank), seconds; ``None`` before the first answer."""
        if not self._seconds:
            return None
        ranked = sorted(self._seconds)
        return ranked[math.ceil(SHARE * len(ranked)) - 1]

    def delay(self, dt: float) -> int:
        """Action periods of ``dt`` seconds that an answer takes, rounded up; 0 before the first answer."""
        return periods(self.usual or 0.0, dt)
