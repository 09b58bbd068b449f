"""How long the policy takes, and whether it still works.

Source: inference delay in action periods as in real-time chunking (arXiv 2506.07339, section 3).
"""

from __future__ import annotations

import math
from collections import deque

from robopolicy.real_robot.limits import Timeouts

WINDOW = 100  # answers remembered
SHARE = 0.95  # of the answers that are no slower
LEAP = 2  # action periods by which the delay may change before it is told
SLOW = 3.0  # times the usual latency after which an unanswered call of a starved plan counts as hung


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
        # A latency of exactly two periods is two, whatever its last bit says.
        return math.ceil((self.usual or 0.0) / dt - 1e-9)


class PolicyWatch:
    """One call at a time: when it began, and what is wrong with it."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._t = timeouts
        self._began: float | None = None
        self._broken: str | None = None
        self.latency = LatencyTracker()

    def began(self, now: float) -> None:
        """The policy was asked."""
        self._began = now

    def answered(self, now: float, dt: float) -> str | None:
        """It answered; returns a warning if its latency leapt."""
        began, self._began = self._began, None
        return self.latency.add(now - began, dt) if began is not None else None

    def failed(self, why: str) -> None:
        """It raised, or its process is gone; stays until ``restart``."""
        self._broken = why

    def restart(self) -> None:
        """Forget the pending call and the failure: a new run begins."""
        self._began = self._broken = None

    def deadline(self, plan_end: float) -> float:
        """When an answer must be there to be merged before the plan ends."""
        return plan_end - self._t.policy_slack

    def problem(self, now: float, starved: float) -> str | None:
        """Why the policy counts as broken, or ``None``; ``starved``: seconds since the plan ended.

        A call is hung after 5 s; or once the plan has been over for almost a second and the call has lasted three times
        what is usual, and a second at least.  A merely slow policy is only held for.
        """
        if self._broken is not None:
            return self._broken
        if self._began is None:
            return None
        lasted = now - self._began
        if lasted > self._t.policy_hard:
            return f"no answer for {lasted:.1f} s, limit {self._t.policy_hard:g} s"
        patience = max(self._t.starvation, SLOW * (self.latency.usual or 0.0))
        if starved > self._t.starvation - self._t.policy_slack and lasted > patience:
            return f"no answer for {lasted:.1f} s, usually {self.latency.usual or 0.0:.1f} s, and the plan is over"
        return None
