"""What this project lets the arm do, and how long anything may take; hardware limits are in ``hardware``.

Source: our own, below every limit that the maker publishes.  ``SafetyLimits()`` is for daily work on a known set-up,
``SafetyLimits.first_run()`` is slower, for a new one.  A value above its cap is refused, never lowered silently.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from robopolicy.core.configs import build_config, config_dataclass
from robopolicy.core.errors import ConfigError, did_you_mean
from robopolicy.real_robot.hardware import RobotLimits, Three, read_yaml, robot_limits

__all__ = [
    "CAP_BOX",
    "HARD_CAPS",
    "HARD_FLOORS",
    "TIMEOUT_CAPS",
    "Box",
    "RobotLimits",
    "SafetyLimits",
    "Timeouts",
    "robot_limits",
    "safety_limits",
]


@config_dataclass
class Box:
    """An upright box in the base frame."""

    low: Three
    """Corner with the smallest x, y, z, m."""
    high: Three
    """Corner with the largest x, y, z, m."""

    def __post_init__(self) -> None:
        if not all(math.isfinite(a) and math.isfinite(b) and a < b for a, b in zip(self.low, self.high, strict=True)):
            raise ConfigError(f"box: expected finite corners with low < high on every axis, got {self.low} {self.high}")


@config_dataclass
class SafetyLimits:
    """Limits of the safety filter; the defaults are for daily work on a known set-up.

    Every value must be finite, above zero where it is a limit, and not above ``HARD_CAPS`` (margins: not below).
    """

    speed: float = 0.10
    """Tool speed, m/s."""
    turn_speed: float = 0.4
    """Rotation speed of the tool, rad/s."""
    acceleration: float = 1.0
    """Tool acceleration, m/s2."""
    turn_acceleration: float = 3.0
    """Rotational acceleration, rad/s2."""
    lead: float = 0.05
    """How far a setpoint may be ahead of the measured pose, m. The strongest limit: it bounds what any jump can do."""
    turn_lead: float = 0.25
    """The same for rotation, rad."""
    jump: float = 0.03
    """Largest step between consecutive actions of a policy, m."""
    turn_jump: float = 0.15
    """The same for rotation, rad."""
    workspace: Box = Box((0.25, -0.40, 0.02), (0.75, 0.40, 0.70))
    """Where the tool centre point may be, m."""
    radius_min: float = 0.25
    """Least distance of the tool from the base's axis, m."""
    radius_max: float = 0.80
    """Largest distance of the tool from the base's axis, m."""
    floor: float = 0.0
    """Height of the table in the base frame, m; no part of the fingers may go below it."""
    keep_out: tuple[Box, ...] = ()
    """Boxes that the tool may not enter."""
    joint_stop: float = 0.10
    """Distance from a joint's end at which motion towards it stops, rad."""
    joint_slow: float = 0.20
    """Distance from a joint's end at which motion begins to slow down, rad."""
    joint_speed: float = 0.5
    """Share of the joint speed limits that may be used."""
    force_slow: float = 12.0
    """External force above which the speed is halved, N."""
    force_hold: float = 20.0
    """External force above which the arm holds, N."""
    gripper_speed: float = 0.10
    """Finger speed, m/s."""
    gripper_force: float = 20.0
    """Grasping force, N."""
    jerk_time: float = 0.05
    """Time over which the acceleration limiter smooths, s."""

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"{field.name}: expected a finite number, got {value}")
            if isinstance(value, float) and field.name != "floor" and value <= 0:
                raise ConfigError(f"{field.name}: expected a number above 0, got {value:g}")
        for name, cap in HARD_CAPS.items():
            if (value := getattr(self, name)) > cap:
                raise ConfigError(f"{name}={value:g} is above its hard cap {cap:g}; lower {name}, the cap cannot move")
        for name, least in HARD_FLOORS.items():
            if (value := getattr(self, name)) < least:
                raise ConfigError(
                    f"{name}={value:g} is below its hard cap {least:g}; raise {name}, the cap cannot move"
                )
        self._check_box()
        for low, high in (("joint_stop", "joint_slow"), ("force_slow", "force_hold"), ("radius_min", "radius_max")):
            if not getattr(self, low) < getattr(self, high):
                raise ConfigError(
                    f"expected {low} < {high}, got {getattr(self, low):g} and {getattr(self, high):g}; change one"
                )

    def _check_box(self) -> None:
        pairs = (
            *(("low", a, cap, a < cap) for a, cap in zip(self.workspace.low, CAP_BOX.low, strict=True)),
            *(("high", a, cap, a > cap) for a, cap in zip(self.workspace.high, CAP_BOX.high, strict=True)),
        )
        for i, (side, value, cap, wrong) in enumerate(pairs):
            if wrong:
                axis = "xyz"[i % 3]
                raise ConfigError(
                    f"workspace.{side} {axis}={value:g} is outside its hard cap {cap:g}; bring it inside, the cap "
                    "cannot move"
                )

    @staticmethod
    def first_run() -> SafetyLimits:
        """The slow limits for the first hours on a new set-up."""
        return SafetyLimits(
            speed=0.05,
            turn_speed=0.2,
            acceleration=0.5,
            turn_acceleration=1.5,
            lead=0.03,
            turn_lead=0.15,
            jump=0.02,
            workspace=Box((0.35, -0.25, 0.05), (0.60, 0.25, 0.50)),
            radius_min=0.30,
            radius_max=0.70,
            joint_stop=0.15,
            joint_slow=0.30,
            joint_speed=0.25,
            force_slow=8.0,
            force_hold=15.0,
            gripper_speed=0.05,
            gripper_force=10.0,
        )


HARD_CAPS: Mapping[str, float] = {
    "speed": 0.25,
    "turn_speed": 0.6,
    "acceleration": 2.0,
    "turn_acceleration": 6.0,
    "lead": 0.10,
    "turn_lead": 0.4,
    "jump": 0.05,
    "turn_jump": 0.3,
    "radius_max": 0.85,
    "joint_speed": 0.75,
    "force_slow": 20.0,
    "force_hold": 30.0,
    "gripper_speed": 0.20,
    "gripper_force": 60.0,
}
"""Largest value of each limit that a configuration may ask for."""
HARD_FLOORS: Mapping[str, float] = {"joint_stop": 0.05, "joint_slow": 0.05, "radius_min": 0.20}
"""Least value of each margin."""
CAP_BOX = Box((0.20, -0.60, 0.00), (0.80, 0.60, 0.90))
"""The workspace may not reach beyond this."""


def safety_limits(name: str = "default") -> SafetyLimits:
    """``default``, ``first-run``, or a YAML file whose keys replace those of the default."""
    if name == "default":
        return SafetyLimits()
    if name in ("first-run", "first_run"):
        return SafetyLimits.first_run()
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"no safety limits called '{name}'" + did_you_mean(name, ("default", "first-run")))
    return build_config(SafetyLimits, read_yaml(path), str(path))


@config_dataclass
class Timeouts:
    """How long the driver waits before it acts; seconds of its monotonic clock."""

    tick: float = 0.010
    """Period of the control loop."""
    tick_late: float = 0.020
    """A tick later than this is counted."""
    tick_hold: float = 0.100
    """A tick later than this holds the arm."""
    ping_interval: float = 0.25
    """Between pings of the link."""
    ping_timeout: float = 0.25
    """Without an answer for this long the link is down."""
    state_soft: float = 0.10
    """Age of the state above which nothing new is planned."""
    state_hard: float = 0.25
    """Age of the state above which the arm holds."""
    loopback_soft: float = 0.15
    """Age of the last of our commands seen to come back, above which a warning is given."""
    loopback_hard: float = 0.30
    """The same, above which the socket is dropped and the arm holds."""
    camera_soft: float = 0.15
    """Age of a picture above which no inference is started."""
    camera_hard: float = 0.50
    """Age of a picture above which the arm holds."""
    skew: float = 0.050
    """Largest difference in time between pictures, or between picture and state, of one observation."""
    dead_man: float = 0.30
    """Without the operator's heartbeat for this long the arm holds."""
    starvation: float = 1.0
    """Time after the end of a plan, without a new one, until the state becomes HOLD."""
    policy_slack: float = 0.050
    """A policy must answer this long before the plan ends."""
    policy_hard: float = 5.0
    """A policy that has not answered after this long is a fault."""
    service: float = 1.0
    """For the answer of a service."""
    accept: float = 0.5
    """For a goal to be accepted."""
    gripper: float = 4.0
    """For a move or grasp to end."""
    gripper_reading: float = 0.50
    """Age of the hand's reading above which the arm holds; it is read ten times a second."""
    homing: float = 15.0
    """For homing to end."""
    recovery: float = 5.0
    """For an error recovery to end."""
    lease: float = 0.15
    """Age of the driver's lease at which the robot-side guard stops the arm (0.10 to 0.20)."""

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            if not (math.isfinite(value := getattr(self, field.name)) and value > 0):
                raise ConfigError(f"{field.name}: expected a time above 0 s, got {value}")
            if value > (cap := TIMEOUT_CAPS[field.name]):
                raise ConfigError(
                    f"{field.name}={value:g} s is above its hard cap {cap:g} s; lower it, the cap cannot move"
                )
        for soft, hard in (
            *(("tick", "tick_late"), ("tick_late", "tick_hold"), ("state_soft", "state_hard")),
            *(("loopback_soft", "loopback_hard"), ("camera_soft", "camera_hard")),
        ):
            if not getattr(self, soft) < getattr(self, hard):
                raise ConfigError(
                    f"expected {soft} < {hard}, got {getattr(self, soft):g} s and {getattr(self, hard):g} s; change one"
                )
        if not 0.10 <= self.lease <= 0.20:
            raise ConfigError(f"lease: expected 0.10 to 0.20 s, got {self.lease:g}")

    @staticmethod
    def for_state_rate(rate: float) -> Timeouts:
        """Timeouts that fit a state published at ``rate`` Hz: a 30 Hz publisher is given a little longer."""
        return Timeouts() if rate >= 50 else Timeouts(state_soft=0.12, state_hard=0.30)


TIMEOUT_CAPS: Mapping[str, float] = {
    **{"tick": 0.020, "tick_late": 0.040, "tick_hold": 0.20},
    **{"ping_interval": 1.0, "ping_timeout": 1.0},
    **{"state_soft": 0.25, "state_hard": 0.50, "loopback_soft": 0.30, "loopback_hard": 0.60},
    **{"camera_soft": 0.50, "camera_hard": 1.0, "skew": 0.10, "gripper_reading": 2.0},
    **{"dead_man": 0.50, "starvation": 2.0, "policy_slack": 1.0, "policy_hard": 30.0},
    **{"service": 5.0, "accept": 5.0, "gripper": 30.0, "homing": 60.0, "recovery": 30.0, "lease": 0.20},
}
"""Longest that each time-out may be set to: a watchdog that waits for ever is none."""
