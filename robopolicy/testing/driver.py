"""A driver for tests of commands: it keeps the contract's states, moves nothing, and remembers what it was asked."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np

from robopolicy.core.errors import RequestRefused
from robopolicy.real_robot.clock import VirtualClock
from robopolicy.real_robot.control.observations import NoSnapshot
from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.driver.contract import Check, Report, Status
from robopolicy.real_robot.frames import Pose, downward
from robopolicy.real_robot.limits import SafetyLimits, Timeouts
from robopolicy.real_robot.report.dashboard import Dashboard
from robopolicy.real_robot.safety.types import SafetyFlag, Setpoint

FINE = (Check("link", True, "up"),)
HERE = Pose(np.array((0.45, 0.0, 0.3)), downward(0.0))


class FakeDriver:
    """Every call is in ``calls``; ``at``: what to do once the clock has reached a time."""

    def __init__(
        self, state: State = State.READY, why: str = "preflight green", checks: tuple[Check, ...] = FINE
    ) -> None:
        self.clock, self.state, self.why, self.checks = VirtualClock(10.0), state, why, checks
        self.calls: list[str] = []
        self.chunks: list[Waypoints] = []
        self.at: dict[float, Callable[[], None]] = {}
        self.wishes: list[tuple[float, Setpoint]] = []
        self.epoch = 0
        self.ages = {"state": 0.01, "gripper": 0.05}

    def sleep(self, seconds: float) -> None:
        """Let time pass, and do what is due then."""
        self.clock.advance(seconds)
        for when in [t for t in self.at if t <= self.clock.now()]:
            self.at.pop(when)()

    def be(self, state: State, why: str) -> None:
        """Change the state."""
        if self.state in (State.RUNNING, State.HUMAN):
            self.epoch += 1
        self.state, self.why = state, why

    def status(self) -> Status:
        """See ``Driver``."""
        return Status(
            *(self.clock.now(), self.state, self.why, self.epoch, True, None, 0.0, HERE, (0.0,) * 7, 0.08, 0.0),
            *(HERE, 0.08, SafetyFlag.NONE, 2, (), dict(self.ages), {}, 0.0, 0.0, 0.0, {}),
        )

    def _ask(self, name: str, needs: tuple[State, ...], after: State, why: str) -> None:
        self.calls.append(name)
        if self.state not in needs:
            raise RequestRefused(f"{name}: not in state {self.state.value}")
        self.be(after, why)

    def connect(self, monitor_only: bool = True) -> None:
        """See ``Driver``."""
        self.calls.append(f"connect monitor_only={monitor_only}")

    def preflight(self) -> Report:
        """See ``Driver``."""
        self.calls.append("preflight")
        return Report(self.checks)

    def ask_to_arm(self, operator: str) -> None:
        """See ``Driver``."""
        self._ask(f"ask {operator}", (State.READY,), State.READY, self.why)

    def confirm_arming(self, operator: str) -> None:
        """See ``Driver``."""
        self._ask(f"confirm {operator}", (State.READY,), State.ARMED, f"armed by {operator}")

    def start(self) -> None:
        """See ``Driver``."""
        self._ask("start", (State.ARMED,), State.RUNNING, "started")

    def resume(self) -> None:
        """See ``Driver``."""
        self._ask("resume", (State.HOLD,), State.RUNNING, "resumed")

    def pause(self, why: str = "paused by the operator") -> None:
        """See ``Driver``."""
        self.calls.append(f"pause {why}")
        if self.state in (State.RUNNING, State.HUMAN, State.ARMED):
            self.be(State.HOLD, why)

    def intervene(self) -> None:
        """See ``Driver``."""
        self._ask("intervene", (State.RUNNING,), State.HUMAN, "a human took over")

    def release(self) -> None:
        """See ``Driver``."""
        self._ask("release", (State.HUMAN,), State.HOLD, "the human let go")

    def estop(self) -> None:
        """See ``Driver``."""
        self.calls.append("estop")
        self.be(State.ESTOP, "stopped by the program")

    def recover(self, operator: str) -> None:
        """See ``Driver``."""
        self._ask(f"recover {operator}", (State.FAULT, State.ESTOP), State.READY, "recovered")

    def heartbeat(self) -> None:
        """See ``Driver``."""
        self.calls.append("heartbeat")

    def teleop(self, wish: Setpoint) -> None:
        """See ``Driver``."""
        self.wishes.append((self.clock.now(), wish))

    def submit(self, chunk: Waypoints) -> bool:
        """See ``Driver``."""
        self.chunks.append(chunk)
        return self.state is State.RUNNING and chunk.epoch == self.epoch

    def snapshot(self, steps: int = 1, dt: float = 0.1) -> NoSnapshot:
        """See ``Driver``."""
        self.clock.advance(0.5)  # who waits for one is not kept waiting
        return NoSnapshot("a fake sees nothing")

    def disconnect(self) -> None:
        """See ``Driver``."""
        self.calls.append("disconnect")


def plain_board() -> tuple[Dashboard, io.StringIO]:
    """A dashboard that prints plain lines into a buffer."""
    out = io.StringIO()
    return Dashboard("test", SafetyLimits(), Timeouts(), out=out), out
