"""A device that a function plays: for tests and for demonstrations by a program on the twin."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from robopolicy.real_robot.teleop.device import Reading, gone


class ScriptedDevice:
    """``script(now)`` is asked for every reading; ``None`` from it means that the device is gone."""

    def __init__(self, script: Callable[[float], Reading | None]) -> None:
        self.script = script

    def __enter__(self) -> ScriptedDevice:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        return

    def read(self, now: float) -> Reading:
        """See ``TeleopDevice``."""
        return self.script(now) or gone("the script has ended")
