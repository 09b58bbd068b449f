"""A gamepad as a teleoperation device, through ``evdev`` (Linux) or ``pygame``, whichever is installed.

Layout of an Xbox pad: the right shoulder button has the arm for as long as it is held; left stick forward and left,
right stick up and yaw; A closes, B opens; Start begins an episode, Y and X end it (success, failure), Back throws it
away; cross up and down change the speed; cross right goes on; the guide button stops.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol

from robopolicy.core.errors import ConfigError
from robopolicy.real_robot.teleop.device import Command, Reading, gone

DEAD_ZONE = 0.12  # share of a stick's way about its middle that counts as the middle
KEY, ABS = 1, 3  # kinds of Linux input events
AXES = {0: "left_x", 1: "left_y", 3: "right_x", 4: "right_y", 16: "cross_x", 17: "cross_y"}
BUTTONS = {
    **{304: "a", 305: "b", 307: "x", 308: "y", 310: "left", 311: "right"},
    **{314: "back", 315: "start", 316: "guide"},
}
PYGAME_AXES = {"left_x": 0, "left_y": 1, "right_x": 3, "right_y": 4}
PYGAME_BUTTONS = {"a": 0, "b": 1, "x": 2, "y": 3, "left": 4, "right": 5, "back": 6, "start": 7, "guide": 8}
ORDERS: dict[str, Command] = {"start": "begin", "y": "success", "x": "failure", "back": "discard", "guide": "estop"}
CROSS: dict[tuple[str, int], Command] = {
    **{("cross_y", -1): "faster", ("cross_y", 1): "slower"},
    **{("cross_x", 1): "resume", ("cross_x", -1): "pause"},
}


class Pad:
    """Sticks and buttons as they are now; knows no library."""

    def __init__(self) -> None:
        self._axes: dict[str, float] = {}
        self._down: set[str] = set()
        self._grip: float | None = None
        self._orders: list[Command] = []

    def axis(self, name: str, share: float) -> None:
        """A stick or the cross moved: -1..1."""
        before, share = self._axes.get(name, 0.0), max(-1.0, min(1.0, share))
        self._axes[name] = share
        pressed = (name, round(share))
        if pressed in CROSS and round(before) != round(share):
            self._orders.append(CROSS[pressed])

    def button(self, name: str, down: bool) -> None:
        """A button was pressed or let go."""
        fresh = down and name not in self._down
        (self._down.add if down else self._down.discard)(name)
        if not fresh:
            return
        if name in ORDERS:
            self._orders.append(ORDERS[name])
        elif name in ("a", "b"):
            self._grip = 0.0 if name == "a" else 1.0

    def event(self, kind: int, code: int, value: float, ranges: Mapping[int, tuple[float, float]]) -> None:
        """A Linux input event; ``ranges``: least and largest value of every axis."""
        if kind == ABS and code in AXES:
            low, high = ranges.get(code, (-1.0, 1.0))
            middle, half = 0.5 * (low + high), 0.5 * (high - low)
            self.axis(AXES[code], (value - middle) / half if half > 0 else 0.0)
        elif kind == KEY and code in BUTTONS and value in (0, 1):  # 2 is a repetition
            self.button(BUTTONS[code], value == 1)

    def _stick(self, name: str) -> float:
        share = self._axes.get(name, 0.0)
        if abs(share) <= DEAD_ZONE:
            return 0.0
        # From zero at the edge of the dead zone, so that slow motion is possible.
        return (abs(share) - DEAD_ZONE) / (1 - DEAD_ZONE) * (1 if share > 0 else -1)

    def reading(self) -> Reading:
        """What sticks and buttons say."""
        orders, self._orders = tuple(self._orders), []
        if "right" not in self._down:
            self._grip = None  # an order of the last time is none when the arm is taken again
            return Reading(commands=orders)
        move = (-self._stick("left_y"), -self._stick("left_x"), -self._stick("right_y"))
        return Reading(move, (0.0, 0.0, -self._stick("right_x")), self._grip, True, True, orders)


class _Source(Protocol):
    def poll(self, pad: Pad) -> None:
        """Bring the pad to now; raises ``OSError`` when the gamepad is gone."""
        ...

    def close(self) -> None:
        """Give it back."""
        ...


class Gamepad:
    """The first gamepad of this machine; entering raises ``ConfigError`` if there is none, or nothing to read it
    with."""

    def __init__(self, source: _Source | None = None) -> None:
        self.pad, self._source, self._lost = Pad(), source, ""

    def __enter__(self) -> Gamepad:
        self._source = self._source or _open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._source is not None:
            self._source.close()

    def read(self, now: float) -> Reading:
        """See ``TeleopDevice``."""
        if self._lost or self._source is None:
            return gone(self._lost or "the gamepad was not opened")
        try:
            self._source.poll(self.pad)
        except OSError as e:
            self._lost = f"the gamepad is gone ({e})"
            return gone(self._lost)
        return self.pad.reading()


def _open() -> _Source:
    for source in (_Evdev, _Pygame):
        try:
            return source()
        except ImportError:
            continue
    raise ConfigError("gamepad: neither evdev nor pygame is installed; run: pip install evdev (Linux) or pygame")


class _Evdev:
    def __init__(self) -> None:
        import evdev  # type: ignore[import-not-found, unused-ignore]

        found = [evdev.InputDevice(path) for path in evdev.list_devices()]
        pads = [d for d in found if 304 in d.capabilities().get(KEY, []) and ABS in d.capabilities()]
        if not pads:
            raise ConfigError("gamepad: none found; plug one in, and see that you may read /dev/input/event*")
        self._device: Any = pads[0]
        self._ranges = {code: (info.min, info.max) for code, info in self._device.capabilities()[ABS]}

    def poll(self, pad: Pad) -> None:
        while (event := self._device.read_one()) is not None:
            pad.event(event.type, event.code, event.value, self._ranges)

    def close(self) -> None:
        self._device.close()


class _Pygame:
    def __init__(self) -> None:
        import pygame  # type: ignore[import-not-found, unused-ignore]

        self._pygame: Any = pygame
        pygame.init()
        if not pygame.joystick.get_count():
            raise ConfigError("gamepad: none found; plug one in")
        self._stick = pygame.joystick.Joystick(0)

    def poll(self, pad: Pad) -> None:
        self._pygame.event.pump()
        if not self._pygame.joystick.get_count():
            raise OSError("unplugged")
        for name, number in PYGAME_AXES.items():
            pad.axis(name, self._stick.get_axis(number))
        for name, number in PYGAME_BUTTONS.items():
            if number < self._stick.get_numbuttons():
                pad.button(name, bool(self._stick.get_button(number)))
        if self._stick.get_numhats():
            x, y = self._stick.get_hat(0)
            pad.axis("cross_x", x)
            pad.axis("cross_y", -y)

    def close(self) -> None:
        self._pygame.quit()
