"""A tap that may be as slow as it likes: a bounded queue before it, a thread of its own, and never a wait in the loop.

When the queue is full the recording ends and says so; what is controlled goes on.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from robopolicy.real_robot.control.loop import Inputs, TickRecord
from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.control.watchdogs import Health
from robopolicy.real_robot.log.tap import Call, Tap

DEPTH = 2000  # things waiting: twenty seconds of ticks
NAP = 0.02  # s between looks at the queue; nobody is woken from within a tick


class QueuedTap:
    """Passes everything on to ``tap`` in its order, from a thread of its own.

    ``ended`` says why it no longer does; empty while all is well.  ``tap`` may raise: that ends it as well.
    """

    def __init__(self, tap: Tap, depth: int = DEPTH) -> None:
        self.tap, self.depth, self.ended = tap, depth, ""
        self._waiting: deque[Callable[[], None]] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tap", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Things not passed on yet."""
        return len(self._waiting)

    def close(self, wait: float = 5.0) -> bool:
        """Pass on what waits and stop; false if that took longer than ``wait`` seconds."""
        self._stop.set()
        self._thread.join(wait)
        return not self._thread.is_alive()

    # -- the tap -------------------------------------------------------------------------------------------------------

    def ticked(self, inputs: Inputs, record: TickRecord) -> None:
        """See ``Tap``."""
        self._put(lambda: self.tap.ticked(inputs, record))

    def submitted(self, chunk: Waypoints, taken: bool, at: float) -> None:
        """See ``Tap``."""
        self._put(lambda: self.tap.submitted(chunk, taken, at))

    def called(self, call: Call) -> None:
        """See ``Tap``."""
        self._put(lambda: self.tap.called(call))

    def looked(self, at: float, health: Health) -> None:
        """See ``Tap``."""
        self._put(lambda: self.tap.looked(at, health))

    def noted(self, name: str, at: float, **facts: Any) -> None:
        """See ``Tap``."""
        self._put(lambda: self.tap.noted(name, at, **facts))

    def _put(self, step: Callable[[], None]) -> None:
        if self.ended:
            return
        if len(self._waiting) >= self.depth:
            self._end(f"the recorder is too slow: {self.depth} ticks and calls were waiting for it")
            return
        self._waiting.append(step)

    def _end(self, why: str) -> None:
        self.ended = self.ended or why
        self._waiting.clear()

    def _run(self) -> None:
        last = False
        while not last:
            last = self._stop.wait(NAP)
            with contextlib.suppress(IndexError):  # empty, or emptied meanwhile
                while not self.ended:
                    self._pass_on(self._waiting.popleft())

    def _pass_on(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as e:
            self._end(f"the recorder failed: {type(e).__name__}: {e}")
