"""SIGTERM and SIGINT end a run after the current step, with a checkpoint; a second signal ends it at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

# Exit codes of `robopolicy train`, as shells report death by these signals (128 + number).
EXIT_CODES = {"SIGTERM": 143, "SIGINT": 130}


class StopSignals:
    """Context manager; ``requested`` is the name of the signal received, or ``None``."""

    def __init__(self) -> None:
        self.requested: str | None = None
        self._previous: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.requested is not None:
            raise KeyboardInterrupt(name)
        self.requested = name
