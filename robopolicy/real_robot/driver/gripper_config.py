"""Settings of the hand (read by the command line, so only light imports)."""

from __future__ import annotations

from typing import Literal

from robopolicy.core.configs import config_dataclass
from robopolicy.core.errors import ConfigError


@config_dataclass
class GripperConfig:
    """When a wish becomes a goal; speed and force are those of the safety limits, times those of ``Timeouts``."""

    threshold: float = 0.004
    """A wish this far from the last goal makes a new one, m."""
    interval: float = 0.2
    """Least time between two goals, s."""
    expect_object: bool = True
    """Closing means grasping. False: the fingers only go where they are told."""
    grasp_below: float = 0.07
    """Closing to this width or above is a move: a policy that keeps the hand open trembles by millimetres, m."""
    smallest: float = 0.002
    """Fingers nearer than this hold nothing, m."""
    slip: float = 0.004
    """An object is lost when the fingers come this much closer than they held it, m."""
    missed: Literal["hold", "go_on"] = "hold"
    """What an empty grasp is: a failure that holds the arm, or something that the policy is left to mend."""
    retries: int = 2
    """Times that an operator may have a failed goal tried again before it is a fault."""

    def __post_init__(self) -> None:
        for name, least, most in (
            ("threshold", 1e-4, 0.04),
            ("interval", 0.01, 10.0),
            ("grasp_below", 0.0, 0.08),
            ("smallest", 0.0, 0.04),
            ("slip", 1e-3, 0.04),
            ("retries", 0, 2),
        ):
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"gripper.{name}: expected {least:g} to {most:g}, got {getattr(self, name):g}")
