"""A teleoperation device for a session, where one reader of the terminal serves both the session's keys and the hand's.

``keyboard``: the keys that are no session's are the hand's while a human has the arm.  ``gamepad``: its own buttons;
the keyboard stays the session's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from robopolicy.core.errors import ConfigError, did_you_mean
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.teleop.device import Reading, gone
from robopolicy.real_robot.teleop.jog import Jog
from robopolicy.real_robot.teleop.keyboard import GRIPS, MOVES, Keys
from robopolicy.real_robot.teleop.operator import Teleoperator

if TYPE_CHECKING:
    from robopolicy.cli._keyboard import Keyboard
    from robopolicy.real_robot.driver.contract import Driver
    from robopolicy.real_robot.limits import SafetyLimits
    from robopolicy.real_robot.teleop.device import TeleopDevice

DEVICES = ("keyboard", "gamepad")


class FedKeys:
    """Keys that somebody else reads from the terminal, as a ``TeleopDevice``."""

    def __init__(self) -> None:
        self.keys = Keys()
        self.source: Keyboard | None = None

    def __enter__(self) -> FedKeys:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Nothing was taken."""

    def read(self, now: float) -> Reading:
        """See ``TeleopDevice``; a terminal that is gone is a hand that is gone."""
        if self.source is not None and self.source.lost:
            self.keys.let_go()
            return gone(self.source.lost)
        return self.keys.reading(now)


class Hand:
    """A human's hand on the arm in a session: the device, and who has the arm."""

    def __init__(self, driver: Driver, device: TeleopDevice, limits: SafetyLimits, alone: bool = False) -> None:
        self.driver, self.device = driver, device
        # The session's keyboard is the dead-man: only that one knows of a terminal that is gone.
        self.operator = Teleoperator(driver, device, Jog(limits), alone, beats=False)
        self.fed = device if isinstance(device, FedKeys) else None

    def toggle(self) -> None:
        """Take the arm, or give it back."""
        if self.fed is not None:
            self.fed.keys.feed(b" ", self.driver.clock.now())
        elif self.driver.status().state is State.HUMAN:
            self.driver.release()
        else:
            self.driver.intervene()

    def takes(self, key: str) -> bool:
        """Whether a key of the terminal is the hand's: one that moves, while a human has the arm."""
        if self.fed is None or key not in (*MOVES, *GRIPS) or self.driver.status().state is not State.HUMAN:
            return False
        self.fed.keys.feed(key.encode(), self.driver.clock.now())
        return True

    def step(self) -> Reading:
        """Read the device once and do what it says."""
        return self.operator.step()


@contextlib.contextmanager
def opened_hand(name: str | None, driver: Driver, limits: SafetyLimits, alone: bool = False) -> Iterator[Hand | None]:
    """The device called ``name``; ``None`` without one.  Raises ``ConfigError`` if there is no such device."""
    if name is None:
        yield None
        return
    if name not in DEVICES:
        raise ConfigError(f"--teleop {name}: expected {' or '.join(DEVICES)}" + did_you_mean(name, DEVICES))
    device: TeleopDevice = FedKeys()
    if name == "gamepad":
        from robopolicy.real_robot.teleop.gamepad import Gamepad

        device = Gamepad()
    with device:
        yield Hand(driver, device, limits, alone)
