"""Whether the policy still works: one call at a time, and how long it may take."""

from __future__ import annotations

from robopolicy.core.latency import LatencyTracker
from robopolicy.real_robot.limits import Timeouts

SLOW = 3.0  # times the usual latency after which an unanswered call of a starved plan counts as hung


class PolicyWatch:
    """One call at a time: when it began, and what is wrong with it."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._t = timeouts
        self._began: float | None = None
        self._broken: str | None = None
        self.latency = LatencyTracker()
        self.lasted: float | None = None

    def began(self, now: float) -> None:
        """The policy was asked."""
        self._began = now

    def answered(self, now: float, dt: float) -> str | None:
        """It answered; returns a warning if its latency leapt.  ``lasted`` is then how long it took."""
        began, self._began = self._began, None
        self.lasted = now - began if began is not None else None
        return self.latency.add(self.lasted, dt) if self.lasted is not None else None

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
