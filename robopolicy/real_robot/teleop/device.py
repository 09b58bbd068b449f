"""What a teleoperation device says, and what is asked of one.

A device is read, it never calls: ``read`` returns at once with what the human does now.  A reading that cannot be had
(terminal closed, gamepad unplugged) is a reading too: ``lost`` says why, nothing is held and nothing moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol

Three = tuple[float, float, float]
Command = Literal["begin", "success", "failure", "discard", "resume", "pause", "estop", "faster", "slower", "quit"]
COMMANDS: tuple[Command, ...] = (
    *("begin", "success", "failure", "discard", "resume", "pause", "estop", "faster", "slower", "quit"),
)
"""begin an episode, end it (success or failure) or throw it away, go on, hold, stop, change the speed, end it all."""
STILL: Three = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Reading:
    """What the human does now.

    ``move``, ``turn``: shares -1..1 of the speeds, along and about the base's x (forward), y (left), z (up).
    ``gripper``: wanted opening, 0 closed to 1 open, ``None`` for as it is.  ``held``: the human has the arm.
    ``attended``: somebody is there (the dead-man's heartbeat).  ``commands``: given since the last reading.
    ``lost``: why the device is gone, empty while it is there.
    """

    move: Three = STILL
    turn: Three = STILL
    gripper: float | None = None
    held: bool = False
    attended: bool = True
    commands: tuple[Command, ...] = ()
    lost: str = ""


def gone(why: str) -> Reading:
    """The reading of a device that is no longer there."""
    return Reading(attended=False, lost=why)


class TeleopDevice(Protocol):
    """A device; a context manager that gives back what it took (the terminal's mode, the gamepad)."""

    def read(self, now: float) -> Reading:
        """What is done at local monotonic ``now``; never waits."""
        ...

    def __enter__(self) -> TeleopDevice:
        """Take the device; raises ``ConfigError`` if there is none."""
        ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Give it back."""
        ...
