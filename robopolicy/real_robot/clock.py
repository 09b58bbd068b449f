"""Time as a parameter: nothing in this room reads a clock of its own, so tests run on a clock they turn by hand."""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable


@runtime_checkable
class Clock(Protocol):
    """Two readings: one that only goes forward, for ages and time-outs, and the time of day, for stamps."""

    def now(self) -> float:
        """Monotonic seconds; only differences mean anything."""
        ...

    def wall(self) -> float:
        """Seconds since 1970 (UTC), as ROS stamps count them."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> float:
        """Monotonic seconds of this machine."""
        return time.monotonic()

    def wall(self) -> float:
        """Seconds since 1970 of this machine."""
        return time.time()


class VirtualClock:
    """A clock that stands still until ``advance`` is called; for tests and for the twin's lock-step mode."""

    def __init__(self, now: float = 0.0, wall: float = 1_700_000_000.0) -> None:
        # Kept as a difference: millions of small steps added to so large a number would drift.
        self._now, self._ahead = float(now), float(wall) - float(now)

    def now(self) -> float:
        """Monotonic seconds so far."""
        return self._now

    def wall(self) -> float:
        """Seconds since 1970."""
        return self._now + self._ahead

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` (>= 0) pass on both readings."""
        if seconds < 0:
            raise ValueError(f"time goes forward: advance({seconds})")
        self._now += seconds

    def step_wall(self, seconds: float) -> None:
        """Set the time of day forward or back, as a clock daemon does; the monotonic reading is untouched."""
        self._ahead += seconds
