"""The keyboard of a terminal as a teleoperation device.

A terminal tells of keys that are pressed, and of their repetition, and never of a release.  So a key counts as held for
a quarter of a second after it was last heard: a terminal that hangs, or a connection that is cut, stops the arm within
that time and ``TELEOP_AGE`` (0.35 s together).  The price: the first press moves for a quarter of a second, then the
arm waits until the terminal begins to repeat (usually after half a second).  Only one key repeats at a time.

Space takes the arm and lets go of it.  With ``strict`` it is a dead-man as well: without any key for a quarter of a
second the arm is let go.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from types import TracebackType

from robopolicy.core.errors import ConfigError
from robopolicy.real_robot.teleop.device import STILL, Command, Reading, Three, gone

RELEASE = 0.25  # s after its last repetition that a key counts as released
CHUNK = 256  # bytes a reading
MOVES: dict[str, tuple[int, int]] = {
    **{"w": (0, 1), "s": (0, -1), "a": (1, 1), "d": (1, -1), "r": (2, 1), "f": (2, -1)},
    **{"u": (3, 1), "j": (3, -1), "i": (4, 1), "k": (4, -1), "q": (5, 1), "e": (5, -1)},
}
"""Key -> axis (0 to 2 along, 3 to 5 about x, y, z) and direction."""
GRIPS = {"o": 1.0, "p": 0.0}
ORDERS: dict[str, Command] = {
    **{"\n": "begin", "\r": "begin", "y": "success", "n": "failure", "x": "discard", "c": "resume"},
    **{"b": "pause", "\x1b": "pause", "!": "estop", "+": "faster", "-": "slower", "\x04": "quit", "Q": "quit"},
}
HELP = """space: take the arm / let go    w s: forward, back    a d: left, right    r f: up, down
q e: turn about z    u j: about x    i k: about y    o p: open, close    + -: faster, slower
enter: begin an episode    y n: end it, success or failure    x: throw it away
b or escape: hold    c: go on    !: stop    Q: quit"""


class Keys:
    """Which keys are down, from what a terminal sends; knows no terminal."""

    def __init__(self, release: float = RELEASE, strict: bool = False) -> None:
        self.release, self.strict = release, strict
        self._heard: dict[str, float] = {}
        self._last: float | None = None
        self._held = False
        self._grip: float | None = None
        self._orders: list[Command] = []
        self._rest = b""

    def feed(self, data: bytes, now: float) -> None:
        """Take what the terminal sent."""
        data, self._rest = self._rest + data, b""
        at = 0
        while at < len(data):
            if data[at : at + 2] in (b"\x1b[", b"\x1bO"):  # arrows and the like: to the final byte, and ignored
                end = at + 2
                while end < len(data) and not 0x40 <= data[end] <= 0x7E:
                    end += 1
                if end == len(data):
                    self._rest = data[at:]
                    return
                at = end + 1
                continue
            self._key(chr(data[at]), now)
            at += 1

    def _key(self, key: str, now: float) -> None:
        self._last = now
        if key == " ":
            # A space bar that is kept down repeats: that is one press.
            if now - self._heard.get(key, -1e9) > self.release:
                self._held = not self._held
            self._heard[key] = now
        elif key in MOVES:
            self._heard[key] = now
        elif key in GRIPS:
            self._grip = GRIPS[key]
        elif key in ORDERS:
            self._orders.append(ORDERS[key])

    def reading(self, now: float) -> Reading:
        """What the keys say at ``now``."""
        heard = self._last is not None and now - self._last <= self.release
        if self.strict and not heard:
            self._held = False
        axes = [0.0] * 6
        for key, when in self._heard.items():
            if key in MOVES and 0 <= now - when <= self.release:
                axis, way = MOVES[key]
                axes[axis] += way
        move, turn = _three(axes[:3]), _three(axes[3:])
        orders, self._orders = tuple(self._orders), []
        attended = heard or not self.strict
        if not self._held:
            self._grip = None  # an order of the last time is none when the arm is taken again
            return Reading(attended=attended, commands=orders)
        return Reading(move, turn, self._grip, True, attended, orders)

    def let_go(self) -> None:
        """The terminal is gone: so is the hand."""
        self._held = False
        self._heard.clear()


def _three(values: list[float]) -> Three:
    return (values[0], values[1], values[2]) if any(values) else STILL


class Keyboard:
    """The terminal of this program, or another file descriptor; see the module.

    Entering sets the terminal to single keys without echo (Ctrl-C still interrupts); leaving, by whatever exception,
    sets it back.  Raises ``ConfigError`` where there is no terminal.
    """

    def __init__(self, strict: bool = False, fd: int | None = None) -> None:
        self.keys = Keys(strict=strict)
        self._fd = fd
        self._lost = ""
        self._restore: Callable[[], None] = lambda: None

    def __enter__(self) -> Keyboard:
        try:
            import termios
            import tty
        except ImportError as e:
            raise ConfigError("keyboard: needs a POSIX terminal; use a gamepad on this system") from e
        fd = sys.stdin.fileno() if self._fd is None else self._fd
        if not os.isatty(fd):
            raise ConfigError("keyboard: the standard input is no terminal; run in one, or use a gamepad")
        before = termios.tcgetattr(fd)

        def restore() -> None:
            try:
                termios.tcsetattr(fd, termios.TCSADRAIN, before)
            except termios.error:  # the terminal is gone
                return

        self._fd, self._restore = fd, restore
        tty.setcbreak(fd)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._restore()
        self._restore = lambda: None

    def read(self, now: float) -> Reading:
        """See ``TeleopDevice``."""
        if self._lost or self._fd is None:
            return gone(self._lost or "the keyboard was not opened")
        try:
            while select.select([self._fd], [], [], 0)[0]:
                data = os.read(self._fd, CHUNK)
                if not data:
                    raise OSError("end of input")
                self.keys.feed(data, now)
        except (OSError, ValueError) as e:
            self.keys.let_go()
            self._lost = f"the terminal is gone ({e})"
            return gone(self._lost)
        return self.keys.reading(now)
