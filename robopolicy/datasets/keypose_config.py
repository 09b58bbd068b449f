"""Which frames of a demonstration count as key poses (read by the command line, so only light imports)."""

from __future__ import annotations

from typing import Literal

from robopolicy.core.configs import config_dataclass
from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import STATE


@config_dataclass
class KeyposeConfig:
    """How key poses are found, for policies that predict the next one (see ``keyposes`` for the rules)."""

    rule: Literal["stops", "accelerations"] = "stops"
    """stops (RLBench): where the arm stands still or the gripper changes. accelerations (CALVIN): where the tool
    accelerates most, and around changes of the gripper."""
    gripper: tuple[str, ...] | None = None
    """Action channels that open and close grippers; null = those whose name contains gripper, () = there is none."""
    motion_key: str = STATE
    """Recorded vector whose channels show how the arm moves."""
    motion: tuple[str, ...] | None = None
    """Its channels. Null: for stops the velocities (names with vel) or else all without gripper in the name, for
    accelerations the tool's x, y and z."""
    still: float = 0.1
    """A channel stands still below this: recorded velocities (names with vel) in their own unit, others, which are
    differentiated, as a share of the speed that they exceed in 1 % of all frames."""
    stop_gap: int = 4
    """Least frames from one stop to the next."""
    peak_share: float = 0.2
    """accelerations: only peaks among this share of an episode's largest values count."""
    peak_gap: int = 5
    """accelerations: least frames from one peak to the next; the larger one stays."""

    def __post_init__(self) -> None:
        if not self.still > 0 or not 0 < self.peak_share <= 1:
            raise ConfigError(f"expected still > 0 and 0 < peak_share <= 1, got {self.still} and {self.peak_share}")
        if min(self.stop_gap, self.peak_gap) < 1:
            raise ConfigError(f"stop_gap and peak_gap must be >= 1, got {self.stop_gap} and {self.peak_gap}")
