"""A driver's core as the preflight looks at it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robopolicy.real_robot.control.clocks import Offset
from robopolicy.real_robot.driver.contract import Status

if TYPE_CHECKING:
    from robopolicy.real_robot.driver.core import DriverCore


class Inspection:
    """A core as the preflight looks at it (``preflight.Inspected``)."""

    def __init__(self, core: DriverCore) -> None:
        self._core = core
        self.client, self.config, self.clock = core.client, core.config, core.clock

    @property
    def offset(self) -> Offset | None:
        """To the robot's clock."""
        return self._core.sync.offset

    @property
    def commanding(self) -> bool:
        """Whether the command topic is advertised."""
        return self._core.commands.opened

    def status(self) -> Status:
        """The driver now."""
        return self._core.status()

    def pause(self, seconds: float) -> None:
        """Let time pass."""
        self._core.pass_time(seconds)
