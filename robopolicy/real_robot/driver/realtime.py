"""A loop that keeps its beat in Python: a grid of deadlines, priority, and a collector that waits for a rest.

Source: what was measured for this project (docs/benchmarks.md, "The control tick"): a 100 Hz loop beside a network that
computes is late by tens of milliseconds as a thread, by ten as a process, by a fraction of one with a real-time
priority.  Nothing here is needed for safety: a late tick is counted and, above 0.1 s, holds the arm.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

PRIORITY = 20  # of SCHED_RR
NICE = -10
SWITCH = 0.0005  # s for which one thread may keep the interpreter from another; Python's own 5 ms is half a tick
REST = 5.0  # s between full collections while nothing moves
BREATH = 1.0  # s between collections of what is young while something does
SLACK = 0.004  # s that must be left of a period for one of those
LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def one_thread(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which numerical libraries use one thread: helpers of theirs would fight over the cores."""
    return {**environment, **dict.fromkeys(LIBRARIES, "1")}


def claim_priority(wanted: int = PRIORITY) -> tuple[str, str | None]:
    """Ask for SCHED_RR for this thread and those it starts later: ``(what it is now, warning or None)``.

    Call it before any other thread is started: one that holds the interpreter at a low priority would stop the loop.
    """
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(wanted))
        return f"SCHED_RR {wanted}", None
    with contextlib.suppress(AttributeError, OSError):
        os.nice(NICE - os.nice(0))
    now = f"nice {os.nice(0)}" if hasattr(os, "nice") else "normal"
    return now, (
        f"control process: no real-time priority (running as {now}); ticks may come late under load: allow it with "
        f"'rtprio {wanted}' for your user in /etc/security/limits.conf, or CAP_SYS_NICE"
    )


@dataclass
class Grid:
    """Deadlines ``period`` seconds apart, counted from the first.

    A loop that was held up takes up the beat where time is by then: missed deadlines are counted in ``skipped``, never
    made up for, so that no burst of setpoints follows a pause; and no tick begins within half a period of the last.
    """

    period: float
    skipped: int = field(default=0, init=False)
    _origin: float | None = field(default=None, init=False)
    _beat: int = field(default=0, init=False)

    def next(self, now: float, began: float) -> float:
        """The next deadline at ``now``, after a tick that began at ``began``; it may have passed by less than half a
        period.  The first call sets the beat."""
        if self._origin is None:
            self._origin = now
            return now
        half = 0.5 * self.period
        earliest = max(now - half, began + half)
        due = self._beat + 1
        # The least beat from the earliest on; a last bit of rounding makes no beat.
        self._beat = max(due, math.ceil((earliest - self._origin) / self.period - 1e-6))
        self.skipped += self._beat - due
        return self._origin + self._beat * self.period


@dataclass
class Lateness:
    """How late the loop woke, seconds: the last thousand, and the worst of all."""

    worst: float = 0.0
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=1000), init=False)

    def add(self, seconds: float) -> None:
        """One tick's."""
        self._recent.append(seconds)
        self.worst = max(self.worst, seconds)

    def percentiles(self) -> tuple[float, float]:
        """Median and 99th percentile (nearest rank) of the last thousand; zeros before the first."""
        ordered = sorted(self._recent) or [0.0]
        return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]

    def summary(self) -> dict[str, float]:
        """Of the last thousand: ``p50``, ``p99``, ``max`` (s), ``over_5ms`` (share) and ``n``."""
        p50, p99 = self.percentiles()
        n = len(self._recent)
        over = sum(late > 0.005 for late in self._recent) / max(n, 1)
        return {"p50": p50, "p99": p99, "max": max(self._recent, default=0.0), "over_5ms": over, "n": n}


class Housekeeping:
    """Garbage collection when nothing moves; while something does only of what is young, in the rest of a period."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._last = clock, 0.0
        self.collections, self.longest = 0, 0.0

    def begin(self) -> None:
        """Take what is there out of the collector's sight, and stop it from coming by itself."""
        gc.collect()
        gc.freeze()
        gc.disable()
        sys.setswitchinterval(SWITCH)

    def between(self, now: float, slack: float, moving: bool) -> None:
        """Between two ticks, with ``slack`` seconds until the next."""
        if now - self._last < (BREATH if moving else REST) or (moving and slack < SLACK):
            return
        self._last = now
        began = self._clock()
        gc.collect(0 if moving else 2)
        self.collections += 1
        if moving:
            self.longest = max(self.longest, self._clock() - began)

    def facts(self) -> dict[str, Any]:
        """For the status: whether the collector is off, what is frozen, collections made, the longest while moving."""
        return {
            "automatic": gc.isenabled(),
            "frozen": gc.get_freeze_count(),
            "collections": self.collections,
            "longest_moving": self.longest,
        }
