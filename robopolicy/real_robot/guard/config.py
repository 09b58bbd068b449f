"""Limits of the guard: a second statement of the caps, on purpose independent of ``robopolicy.real_robot.limits``."""

from __future__ import annotations

import math
from dataclasses import dataclass

from robopolicy.core.errors import ConfigError

CAP_LOW, CAP_HIGH = (0.20, -0.60, 0.00), (0.80, 0.60, 0.90)
# name -> least and largest value that a guard may be started with
RANGES = {
    "speed": (0.01, 0.25),
    "turn_speed": (0.05, 0.6),
    "lead": (0.01, 0.11),
    "turn_lead": (0.05, 0.45),
    "age": (0.02, 0.15),
    "ahead": (0.0, 0.05),
    "lease": (0.10, 0.20),
    "measured_age": (0.02, 0.30),
    "stop_time": (0.0, 0.2),
}


@dataclass(frozen=True)
class GuardConfig:
    """What the guard lets through; ``ConfigError`` with one line for a value outside its range.

    The driver's own limits are tighter by a little: its measured pose is some milliseconds older or newer than ours.
    """

    frame_id: str = "panda_link0"
    """Frame of targets; any other is refused."""
    box_low: tuple[float, float, float] = (0.25, -0.40, 0.02)
    """Corner of the workspace with the smallest x, y, z, m."""
    box_high: tuple[float, float, float] = (0.75, 0.40, 0.70)
    """Corner with the largest."""
    speed: float = 0.25
    """Speed above which a step from one target to the next is refused, m/s."""
    turn_speed: float = 0.6
    """The same for rotation, rad/s."""
    lead: float = 0.06
    """How far a target may be from the measured pose, m."""
    turn_lead: float = 0.30
    """The same for rotation, rad."""
    age: float = 0.15
    """Age of a target's stamp above which it is refused, s."""
    ahead: float = 0.02
    """How far a stamp may lie in the future, s."""
    lease: float = 0.15
    """Seconds without a lease, or without a target that passes, after which the arm is stopped."""
    measured_age: float = 0.25
    """Age of the measured pose above which no target passes, s."""
    stop_time: float = 0.1
    """The stop target lies ahead of the measured pose by what the tool moves in this time, s."""

    def __post_init__(self) -> None:
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and least <= value <= most):
                raise ConfigError(f"{name}: expected {least:g} to {most:g}, got {value}")
        if not self.frame_id or not isinstance(self.frame_id, str):
            raise ConfigError("frame_id: expected the name of the base's frame, such as panda_link0")
        for axis in range(3):
            low, high = self.box_low[axis], self.box_high[axis]
            fits = math.isfinite(low) and math.isfinite(high) and low < high
            if not (fits and low >= CAP_LOW[axis] and high <= CAP_HIGH[axis]):
                raise ConfigError(
                    f"box, {'xyz'[axis]}: expected low < high within {CAP_LOW[axis]:g} to {CAP_HIGH[axis]:g} m, "
                    f"got {low:g} and {high:g}"
                )

    @staticmethod
    def first_run(frame_id: str = "panda_link0") -> GuardConfig:
        """For the first hours on a new set-up."""
        return GuardConfig(frame_id, (0.35, -0.25, 0.05), (0.60, 0.25, 0.50), lead=0.04, turn_lead=0.20)
