"""Keys of the operator's terminal, and the sign that the operator is there.

A thread of its own reads the keys and acts on them at once, whatever the rest of the program is busy with.  It also
gives the dead-man's heartbeat, for as long as the terminal is open and this program is in its foreground: a closed
terminal or a program put into the background ends it, and the driver holds.  An ssh session that merely hangs does not:
its terminal stays open until the server gives the client up.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from robopolicy.core.errors import RobopolicyError

LOG = logging.getLogger(__name__)
PERIOD = 0.05  # s between two looks, and between two heartbeats


class Keyboard:
    """``with Keyboard(on_key, beat): ...``; ``on_key`` gets single characters.

    ``fd``: the terminal, by default that of standard input.  Without a terminal there are no keys, and the heartbeat
    tells only that this program runs (which is what ``--yes-i-hold-the-stop`` answers for).
    ``lost``: why the operator counts as gone.
    """

    def __init__(
        self, on_key: Callable[[str], None], beat: Callable[[], None] | None = None, fd: int | None = None
    ) -> None:
        self._on_key, self._beat = on_key, beat
        self._fd = _standard_input() if fd is None else fd
        self.terminal = self._fd is not None and os.isatty(self._fd)
        self.lost = ""
        self._stop = threading.Event()
        self._paused = threading.Event()
        self._saved: Any = None
        self._thread = threading.Thread(target=self._run, name="keyboard", daemon=True)

    def __enter__(self) -> Keyboard:
        self._raw()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join(2)
        self._cooked()

    @contextlib.contextmanager
    def lines(self) -> Iterator[None]:
        """Lines can be typed (``input``) inside this block; heartbeats go on."""
        self._paused.set()
        self._cooked()
        try:
            yield
        finally:
            self._raw()
            self._paused.clear()

    def _raw(self) -> None:
        """Keys come one by one and are not shown; Ctrl-C still interrupts."""
        if not self.terminal or self._fd is None:
            return
        import termios
        import tty

        with contextlib.suppress(termios.error):
            self._saved = self._saved or termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd, termios.TCSANOW)

    def _cooked(self) -> None:
        if self._saved is None or self._fd is None:
            return
        import termios

        with contextlib.suppress(termios.error):
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)

    def _run(self) -> None:
        try:
            while not self._stop.is_set() and not self.lost:
                self._look()
                if self._beat is not None and not self.lost:
                    self._beat()
        except RobopolicyError as e:  # the driver is gone: nobody is left to tell
            self.lost = str(e)
        except Exception as e:  # whoever asks whether the operator is there must learn that the keys are dead
            LOG.exception("the keyboard's thread has ended")
            self.lost = f"the keys are dead ({type(e).__name__}: {e})"

    def _look(self) -> None:
        if not self.terminal or self._paused.is_set():
            self._stop.wait(PERIOD)
        if not self.terminal:
            return
        assert self._fd is not None
        try:
            if os.tcgetpgrp(self._fd) != os.getpgrp():
                self._stop.wait(PERIOD)
                self.lost = "this program is not in the terminal's foreground"
                return
            if self._paused.is_set() or not select.select([self._fd], [], [], PERIOD)[0]:
                return
            data = os.read(self._fd, 64)
        except OSError as e:
            self.lost = f"the terminal is gone ({e.strerror})"
            return
        if not data:
            self.lost = "the terminal is closed"
            return
        for key in data.decode(errors="ignore"):
            self._on_key(key)


def _standard_input() -> int | None:
    try:
        return sys.stdin.fileno()
    except (OSError, ValueError, AttributeError):  # closed, or replaced by something that is no file
        return None
