"""What everybody who uses a driver may count on, whether it runs in this process or in one of its own.

``LocalDriver`` (in this process, ticked by its caller: tests, lock-step, replays) and ``FrankaBridgeRobot`` (a control
process of its own: the arm) both keep this contract; policies, recorders, dashboards and commands see nothing else.
All times are local monotonic seconds (one clock for all processes of a machine) unless they say ``wall``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from robopolicy.real_robot.clock import Clock
from robopolicy.real_robot.control.observations import NoSnapshot, Snapshot
from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.safety.types import SafetyFlag, Setpoint


@dataclass(frozen=True)
class Check:
    """One item of the preflight: what was looked at, what was found, what was expected, and how to mend it."""

    name: str
    passed: bool
    found: str
    expected: str = ""
    cure: str = ""
    warning: bool = False
    """Not passed, but no reason to refuse."""


@dataclass(frozen=True)
class Report:
    """All items of a preflight."""

    checks: tuple[Check, ...] = ()

    @property
    def green(self) -> bool:
        """Whether nothing speaks against arming."""
        return bool(self.checks) and all(c.passed or c.warning for c in self.checks)

    def failures(self) -> list[str]:
        """One line each."""
        return [
            f"{c.name}: {c.found}" + (f", expected {c.expected}" if c.expected else "") + (f"; {c.cure}" * bool(c.cure))
            for c in self.checks
            if not c.passed and not c.warning
        ]


@dataclass(frozen=True, eq=False)
class Status:
    """The driver at one instant; cheap to take, never older than one tick."""

    now: float
    """When this was so."""
    state: State
    why: str
    """Reason of the last change of state."""
    epoch: int
    link: bool
    plan_end: float | None
    """When the plan in force ends; ``None`` without one."""
    starved: float
    """Seconds since it ended."""
    measured: Pose | None
    """Tool in the base frame."""
    q: tuple[float, ...]
    width: float | None
    force: float
    """External force at the tool, N."""
    emitted: Pose | None
    """Last published setpoint."""
    emitted_gripper: float | None
    flags: SafetyFlag
    mode: int
    errors: tuple[str, ...]
    ages: Mapping[str, float]
    """Seconds: ``state``, ``loopback``, ``operator``, ``gripper``, ``camera.NAME``; missing where there is none."""
    rates: Mapping[str, float]
    """Hz measured: ``state``, ``camera.NAME``."""
    clock_offset: float | None
    """Robot's wall clock minus this machine's, s."""
    late_p50: float
    late_p99: float
    """Lateness of the last control ticks, s."""
    counters: Mapping[str, int]
    """Ticks, late ticks, starved, over budget, refused, stale chunks, jumps, dropped frames, reconnects..."""
    preflight: Report | None = None
    recording: str = ""
    """Folder of the log in progress, empty if none; or ``"ended: why"``."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    """Why what is told here, or asked for, is not to be relied on; empty while all is well."""


@runtime_checkable
class Driver(Protocol):
    """See the module; every method may be called from any thread of the process that holds the driver.

    What the present state does not allow raises ``RequestRefused`` with the reason.
    """

    clock: Clock

    def connect(self, monitor_only: bool = True) -> None:
        """Open the link; with ``monitor_only`` no command topic is ever advertised and arming is refused."""
        ...

    def preflight(self) -> Report:
        """Look at everything again; with a green report the state becomes READY."""
        ...

    def ask_to_arm(self, operator: str) -> None:
        """First step of arming."""
        ...

    def confirm_arming(self, operator: str) -> None:
        """Second step: ARMED, where the arm stands."""
        ...

    def start(self) -> None:
        """ARMED to RUNNING."""
        ...

    def pause(self, why: str = "paused by the operator") -> None:
        """To HOLD, at once."""
        ...

    def resume(self) -> None:
        """HOLD to RUNNING, if the cause is gone."""
        ...

    def intervene(self) -> None:
        """RUNNING to HUMAN."""
        ...

    def release(self) -> None:
        """HUMAN to HOLD."""
        ...

    def estop(self) -> None:
        """Latched stop by the program (not safety-rated)."""
        ...

    def recover(self, operator: str) -> None:
        """Ask the robot, once, to clear its errors."""
        ...

    def heartbeat(self) -> None:
        """The operator is there (dead-man, at least 10 Hz where one is configured)."""
        ...

    def teleop(self, wish: Setpoint) -> None:
        """Where the human wants the tool now; counts in HUMAN only."""
        ...

    def snapshot(self, steps: int = 1, dt: float = 0.1) -> Snapshot | NoSnapshot:
        """The observation of the newest instant that every source covers, with ``steps`` instants ``dt`` s apart."""
        ...

    def submit(self, chunk: Waypoints) -> bool:
        """Leave a chunk for the next tick; false if it is of an old epoch or nothing runs."""
        ...

    def policy_began(self) -> None:
        """The policy was asked: its watchdog runs."""
        ...

    def policy_answered(self) -> None:
        """It answered."""
        ...

    def policy_failed(self, why: str) -> None:
        """It raised or died: FAULT."""
        ...

    def gripper_home(self) -> None:
        """Homing; only from READY."""
        ...

    def status(self) -> Status:
        """The driver now."""
        ...

    def disconnect(self) -> None:
        """Hold, send the stop target, un-advertise, close; safe to call twice and from a signal handler's thread."""
        ...
