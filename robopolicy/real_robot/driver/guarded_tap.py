"""A tap that may raise: the first time it does it is let go, and the arm is not."""

from __future__ import annotations

import logging
from typing import Any

from robopolicy.real_robot.control.loop import Inputs, TickRecord
from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.control.watchdogs import Health
from robopolicy.real_robot.log.tap import Call, Tap

LOG = logging.getLogger(__name__)


class GuardedTap:
    """Passes everything on to ``tap``, if there is one; ``ended`` says why it no longer does."""

    def __init__(self) -> None:
        self.tap: Tap | None = None
        self.ended = ""

    def ticked(self, inputs: Inputs, record: TickRecord) -> None:
        """See ``Tap``."""
        self._tell("ticked", inputs, record)

    def submitted(self, chunk: Waypoints, taken: bool, at: float) -> None:
        """See ``Tap``."""
        self._tell("submitted", chunk, taken, at)

    def called(self, call: Call) -> None:
        """See ``Tap``."""
        self._tell("called", call)

    def looked(self, at: float, health: Health) -> None:
        """See ``Tap``."""
        self._tell("looked", at, health)

    def noted(self, name: str, at: float, **facts: Any) -> None:
        """See ``Tap``."""
        self._tell("noted", name, at, **facts)

    def _tell(self, what: str, *given: Any, **facts: Any) -> None:
        if self.tap is None:
            return
        try:
            getattr(self.tap, what)(*given, **facts)
        except Exception as e:
            LOG.exception("the tap raised and is let go")
            self.tap, self.ended = None, f"ended: {type(e).__name__}: {e}"
