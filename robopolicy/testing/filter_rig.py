"""A safety filter with a simple arm behind it, stepped by hand: for tests of what one stage does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from robopolicy.real_robot.frames import Pose, downward
from robopolicy.real_robot.limits import SafetyLimits
from robopolicy.real_robot.safety.filter import SafetyFilter
from robopolicy.real_robot.safety.types import Emitted, Link, Measured, Setpoint
from robopolicy.testing.safety import FirstOrderArm

DOWN = downward(0.0)
START = Pose(np.array((0.45, 0.0, 0.3)), DOWN)
LIMITS = SafetyLimits()
TICK = 0.01


class FilterRig:
    """A filter, an arm, and time.

    Args:
        without: stages that are left out.
        start: where it stands.
        limits: of the filter.
        ramp: seconds of the slow beginning.
        lag: of the arm, s.

    ``seen``: every pose that was emitted, the first one included.
    """

    def __init__(
        self,
        without: Sequence[str] = ("joints",),
        start: Pose = START,
        limits: SafetyLimits = LIMITS,
        ramp: float = 0.0,
        lag: float = 0.2,
    ) -> None:
        self.filter = SafetyFilter(limits)
        for stage in without:
            self.filter = self.filter.without(stage)
        self.arm, self.now, self.width = FirstOrderArm(start, lag), 0.0, 0.0
        self.filter.stand(start)
        self.filter.go(0.0, ramp)
        self.seen = [start]

    def tick(
        self, wish: Setpoint | None, measured: Measured | None = None, dt: float = TICK, link: Link | None = None
    ) -> Emitted:
        """One step; the arm follows what is emitted."""
        self.now += dt
        m = measured if measured is not None else self.arm.measured(self.now, self.width)
        e = self.filter.step(wish, m, dt, self.now, link or Link(0))
        if e.pose is not None:
            self.arm.follow(e.pose, dt)
            self.seen.append(e.pose)
        return e

    def to(self, position: ArrayLike, quaternion: ArrayLike = DOWN, ticks: int = 1, **more: Any) -> Emitted:
        """So many steps towards one pose; ``more``: of its ``Setpoint``."""
        for _ in range(ticks):
            e = self.tick(Setpoint(np.asarray(position, float), np.asarray(quaternion, float), **more))
        return e

    def positions(self) -> np.ndarray:
        """``(n, 3)`` of ``seen``."""
        return np.array([p.position for p in self.seen])


def action(x: float, number: int, steps: int = 1) -> dict[str, Any]:
    """What a ``Setpoint`` says of the policy's action behind it: one at ``x`` m, the ``number``-th of a run."""
    return {"action": Pose(np.array((x, 0, 0.3)), DOWN), "action_number": number, "action_steps": steps}
