"""What a log, a recorder or a dashboard may listen to: the driver calls these, under its lock and in their order.

A tap gets everything that ``ControlLoop`` gets, in the order in which it gets it, so that a run can be repeated.  It
must neither block nor raise; a driver that holds one calls it right after the thing happened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from robopolicy.real_robot.control.loop import Inputs, TickRecord
from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.control.watchdogs import Health

ANSWERED = "policy answered"  # a note of the driver, with "seconds" since the policy was asked


@dataclass(frozen=True)
class Call:
    """One call of a method of ``StateMachine``, whoever made it.

    ``name``: of the method (``ask_to_arm``, ``confirm_arming``, ``start``, ``pause``, ``intervene``, ``release``,
    ``resume``, ``estop``, ``recover``, ``shut_down``).  ``at``: the ``now`` that it was given.  ``arguments``: the
    others, by name (``operator``, ``why``).  ``refused``: the message of ``RequestRefused``, if it was.  ``why``: of
    the event that the call added to ``machine.events``, empty if it added none.  ``TappedLoop.call`` makes these.
    """

    name: str
    at: float
    arguments: Mapping[str, str] = field(default_factory=dict)
    refused: str | None = None
    why: str = ""


@runtime_checkable
class Tap(Protocol):
    """Listener to one control loop."""

    def ticked(self, inputs: Inputs, record: TickRecord) -> None:
        """``ControlLoop.tick(record.at, inputs)`` returned ``record``."""
        ...

    def submitted(self, chunk: Waypoints, taken: bool, at: float) -> None:
        """``ControlLoop.submit(chunk)`` returned ``taken``, at local ``at``."""
        ...

    def called(self, call: Call) -> None:
        """An operator's, or the driver's own, call of the state machine was made (or refused)."""
        ...

    def looked(self, at: float, health: Health) -> None:
        """``StateMachine.tick(at, health)`` was called outside ``ControlLoop.tick`` (link closed, mode changed)."""
        ...

    def noted(self, name: str, at: float, **facts: Any) -> None:
        """Something for whoever reads the log that the loop does not depend on: a preflight, a new clock offset, a
        reconnect, a gripper's answer.  ``facts`` are plain data (JSON)."""
        ...
