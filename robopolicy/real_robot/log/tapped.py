"""A control loop that tells its tap everything: for drivers, so that no call can be made that the log does not have."""

from __future__ import annotations

from dataclasses import dataclass

from robopolicy.core.errors import RequestRefused
from robopolicy.real_robot.control.loop import ControlLoop, Inputs, TickRecord
from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.control.watchdogs import Health
from robopolicy.real_robot.log.tap import Call, Tap


@dataclass
class TappedLoop:
    """``loop`` with a ``tap``, or none.  Not thread-safe, as the loop is not: its owner's lock serialises all of it."""

    loop: ControlLoop
    tap: Tap | None = None

    def tick(self, now: float, inputs: Inputs) -> TickRecord:
        """``ControlLoop.tick``."""
        record = self.loop.tick(now, inputs)
        if self.tap is not None:
            self.tap.ticked(inputs, record)
        return record

    def submit(self, chunk: Waypoints, now: float) -> bool:
        """``ControlLoop.submit`` at local ``now``."""
        taken = self.loop.submit(chunk)
        if self.tap is not None:
            self.tap.submitted(chunk, taken, now)
        return taken

    def look(self, now: float, health: Health) -> None:
        """``StateMachine.tick`` between two ticks."""
        self.loop.machine.tick(now, health)
        if self.tap is not None:
            self.tap.looked(now, health)

    def call(self, name: str, now: float, **arguments: str) -> None:
        """The method ``name`` of ``StateMachine`` at local ``now``, with its other arguments by name; raises
        ``RequestRefused`` as that does."""
        machine, refused = self.loop.machine, None
        count = len(machine.events)
        try:
            getattr(machine, name)(now=now, **arguments)
        except RequestRefused as e:
            refused = str(e)
            raise
        finally:
            if self.tap is not None:
                why = machine.events[-1].why if len(machine.events) > count else ""
                self.tap.called(Call(name, now, arguments, refused, why))
