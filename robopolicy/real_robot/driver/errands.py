"""What the driver has to ask the bridge now and then, and must wait for: the time, the graph, a preflight after a loss.

A helper thread runs it in real time; in lock-step it is run by call, between ticks.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from robopolicy.core.errors import BridgeError, RequestRefused
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.wire.client import LinkState

if TYPE_CHECKING:
    from robopolicy.real_robot.driver.core import DriverCore

LOG = logging.getLogger(__name__)
GRAPH_PERIOD = 0.5  # s between two looks for other publishers
AGAIN = 1.0  # s between two attempts at a preflight after a reconnect
PAUSE = 0.02  # s between two looks of the helper thread


class Errands:
    """One set a driver; ``run_due`` does whatever is due at ``now`` and returns."""

    def __init__(self, core: DriverCore) -> None:
        self._core = core
        self._graph = self._again = -float("inf")

    def run_due(self, now: float) -> None:
        """May wait for answers; never raises."""
        core = self._core
        if core.client.state is not LinkState.UP:
            return
        if core.sync.due(now):
            core.sync.probe()
        if core.commands.opened and core.machine.state is not State.LINKED and now - self._graph >= GRAPH_PERIOD:
            self._graph = now
            core.commands.look_for_rivals()
        if core.preflight_wanted and now - self._again >= AGAIN:
            self._again = now
            try:
                core.preflight()
            except (BridgeError, RequestRefused) as e:
                LOG.info("driver: preflight not possible now: %s", e)

    def run(self, stop: threading.Event) -> None:
        """Until ``stop``; for a helper thread."""
        while not stop.wait(PAUSE):
            try:
                self.run_due(self._core.clock.now())
            except Exception:
                LOG.exception("an errand of the driver failed")
