"""From a hand's deltas to a setpoint.

Source: speed-scaled Cartesian jogging, as with a space mouse in Diffusion Policy and UMI.  Differs: it begins at the
last *emitted* setpoint, not at the measured pose (the arm lags, so that would be a step back by lag times speed), and
the wish is ahead of what the safety filter lets through by little, and only where the hand goes: who pushes against a
wall and then turns back moves at once, and who stops stops.
"""

from __future__ import annotations

import numpy as np

from robopolicy.core.configs import config_dataclass
from robopolicy.core.errors import ConfigError
from robopolicy.real_robot.frames import Pose, difference, turned
from robopolicy.real_robot.limits import SafetyLimits
from robopolicy.real_robot.safety.limiter import CRUISE
from robopolicy.real_robot.safety.types import WIDTH_MOST, Setpoint
from robopolicy.real_robot.teleop.device import Reading

LONGEST = 0.05  # s between two readings that are believed: a hand that was not read for longer is not caught up
AHEAD = 0.03  # s of the hand's own speed by which the wish may be ahead of what is emitted
STEP = 1.25  # by which "faster" and "slower" change the speed


@config_dataclass
class JogConfig:
    """How fast a full stick is."""

    speed: float = 0.8
    """Share of the speed limits, above 0 to 1."""
    axes: tuple[float, float, float] = (0.0, 0.0, 1.0)
    """Shares of the turning about the base's x, y and z: by default only yaw, a tool that points down stays so."""

    def __post_init__(self) -> None:
        if not 0 < self.speed <= 1:
            raise ConfigError(f"speed: expected a share above 0 and not above 1, got {self.speed:g}")
        if not all(0 <= a <= 1 for a in self.axes):
            raise ConfigError(f"axes: expected shares of 0 to 1, got {self.axes}")


class Jog:
    """A setpoint that a hand moves; ``anchor`` first."""

    def __init__(self, limits: SafetyLimits, config: JogConfig | None = None) -> None:
        self.limits, self.config = limits, config or JogConfig()
        self.speed = self.config.speed
        self._pose: Pose | None = None
        self._width: float | None = None
        self._at = 0.0

    def anchor(self, emitted: Pose, now: float) -> None:
        """Begin at the last emitted setpoint, with the hand as wide as it is."""
        self._pose, self._width, self._at = emitted, None, now

    def drop(self) -> None:
        """Let go: nothing is wished until the next ``anchor``."""
        self._pose = None

    @property
    def anchored(self) -> bool:
        """Whether there is a setpoint to move."""
        return self._pose is not None

    def change_speed(self, faster: bool) -> None:
        """One step up or down, never above the limits."""
        self.speed = min(1.0, max(0.05, self.speed * (STEP if faster else 1 / STEP)))

    def step(self, reading: Reading, emitted: Pose | None, now: float) -> Setpoint:
        """The setpoint at ``now``; ``emitted``: what was sent last.  Raises ``ConfigError`` before ``anchor``."""
        if self._pose is None:
            raise ConfigError("jog: step() before anchor(); there is no setpoint to move")
        dt, self._at = min(max(0.0, now - self._at), LONGEST), max(now, self._at)
        straight = CRUISE * self.speed * self.limits.speed * _unit(reading.move)
        turning = CRUISE * self.speed * self.limits.turn_speed * _unit(reading.turn) * np.array(self.config.axes)
        position = self._pose.position + dt * straight
        quaternion = turned(self._pose.quaternion, dt * turning)
        if emitted is not None:
            position = emitted.position + _ahead(position - emitted.position, straight)
            ahead = difference(emitted.quaternion, quaternion)
            quaternion = turned(emitted.quaternion, _ahead(ahead, turning))
        self._pose = Pose(position, quaternion / np.linalg.norm(quaternion))
        if reading.gripper is not None:
            self._width = WIDTH_MOST * min(max(reading.gripper, 0.0), 1.0)
        rate = np.concatenate((straight, turning))
        left, turn_left = (np.inf if np.any(v) else 0.0 for v in (straight, turning))
        return Setpoint(self._pose.position, self._pose.quaternion, self._width, rate, left, turn_left)


def _unit(share: tuple[float, float, float]) -> np.ndarray:
    """The shares, their length at most 1: a diagonal is no faster."""
    return _within(np.nan_to_num(np.array(share, np.float64)), 1.0)


def _ahead(way: np.ndarray, hand: np.ndarray) -> np.ndarray:
    """The part of ``way`` that goes where the hand goes, at most ``AHEAD`` seconds of it: what the setpoint still does
    of itself, as it brakes, is not pulled back, and a hand that turns round has nothing to make up for."""
    speed = float(np.linalg.norm(hand))
    if speed == 0:
        return np.zeros(3)
    direction = hand / speed
    return direction * min(max(0.0, float(way @ direction)), AHEAD * speed)


def _within(vector: np.ndarray, most: float) -> np.ndarray:
    size = float(np.linalg.norm(vector))
    return vector * (most / size) if size > most else vector
