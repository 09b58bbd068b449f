"""What signals do to a program that moves an arm: hold first, then end; never stop in the middle."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from robopolicy.core.errors import RobopolicyError

if TYPE_CHECKING:
    from robopolicy.real_robot.driver.contract import Driver

ENDING = ("SIGINT", "SIGTERM", "SIGHUP")


@contextlib.contextmanager
def holding_signals(driver: Driver) -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP end the block after a hold, by ``KeyboardInterrupt`` or ``SystemExit`` (143, 129);
    Ctrl-Z holds and does not suspend.

    The hold comes before anything is unwound: a dashboard or a terminal that is taken down may block.

    In another thread than the main one, where no signal arrives, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}

    def end(number: int, frame: Any) -> None:
        with contextlib.suppress(RobopolicyError):
            driver.pause(f"signal {signal.Signals(number).name}")
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    def hold(number: int, frame: Any) -> None:
        with contextlib.suppress(RobopolicyError):
            driver.pause("Ctrl-Z: the arm holds; q leaves")

    for name in ENDING:
        if (number := getattr(signal, name, None)) is not None:
            before[number] = signal.signal(number, end)
    if (number := getattr(signal, "SIGTSTP", None)) is not None:
        before[number] = signal.signal(number, hold)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
