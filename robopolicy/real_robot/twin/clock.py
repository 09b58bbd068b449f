"""The robot computer's clock: it may run apart from ours, and in lock-step it stands still."""

from __future__ import annotations

from robopolicy.real_robot.clock import Clock, SystemClock, VirtualClock


class RobotClock:
    """``base`` with ``skew`` seconds added to the time of day; ages and time-outs do not see the skew."""

    def __init__(self, base: Clock | None = None) -> None:
        self.base: Clock = base or SystemClock()
        self.skew = 0.0

    def now(self) -> float:
        """Monotonic seconds."""
        return self.base.now()

    def wall(self) -> float:
        """Time of day on the robot's computer, as its stamps show it."""
        return self.base.wall() + self.skew

    def advance(self, seconds: float) -> None:
        """In lock-step: let time pass."""
        if isinstance(self.base, VirtualClock):
            self.base.advance(seconds)
