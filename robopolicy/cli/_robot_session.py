"""One armed stretch of time: two steps to arm, keys, dashboard, and whatever moves the arm, until it ends.

Knows neither policies nor motions: a ``Performer`` is called while the driver runs.  Keys act in the keyboard's own
thread, so that a hold never waits for a policy that is thinking.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from robopolicy.cli._robot_driver import NotArmed
from robopolicy.core.errors import RequestRefused, RobopolicyError
from robopolicy.real_robot.control.states import MOVING, State

if TYPE_CHECKING:
    from robopolicy.cli._robot_teleop import Hand
    from robopolicy.real_robot.driver.contract import Check, Driver, Status
    from robopolicy.real_robot.motions import Player
    from robopolicy.real_robot.report.dashboard import Dashboard

PERIOD = 0.02  # s between two looks
DRAW = 0.1  # s between two pictures of the dashboard
PATIENCE = 2.0  # s for which a hold or a fault lasts before a run that nobody can resume ends
READY_WITHIN = 3.0  # s from a green preflight to READY
HEARD_WITHIN = 2.0  # s from the first heartbeat of the operator to its being heard
KEYS = "space hold   r run/resume   q quit   e stop   c clear errors   a then y arm again"
BY_OPERATOR = "paused by the operator"


class Performer(Protocol):
    """What moves the arm."""

    def prepare(self) -> list[Check]:
        """Called once, when the driver sees the robot and before anything is armed; findings, or an error."""
        ...

    def step(self, now: float, status: Status) -> None:
        """Called about every 20 ms while the driver is RUNNING; must return soon."""
        ...

    def pause(self, now: float) -> None:
        """The driver is not RUNNING."""
        ...

    def done(self, now: float) -> bool:
        """Whether there is nothing left to do."""
        ...

    def lines(self) -> Mapping[str, str]:
        """For the dashboard, by name."""
        ...

    def close(self) -> None:
        """The end."""
        ...


@dataclass
class MotionPerformer:
    """Plays a built-in motion; ``make`` builds it from the status at the start, where the arm stands."""

    driver: Driver
    make: Callable[[Status], Player]
    player: Player | None = None
    began: Status | None = None
    drift: float = 0.0

    def prepare(self) -> list[Check]:
        """Nothing to be found: a motion fits where it begins or is refused there."""
        self.make(self.driver.status())
        return []

    def step(self, now: float, status: Status) -> None:
        """Leave the next chunk, if it is due."""
        if self.player is None:
            self.player, self.began = self.make(status), status
        if self.began is not None and self.began.measured is not None and status.measured is not None:
            self.drift = max(self.drift, math.dist(status.measured.position, self.began.measured.position))
        if (chunk := self.player.chunk(now, status.epoch)) is not None:
            self.driver.submit(chunk)

    def pause(self, now: float) -> None:
        """The motion's time stands still."""
        if self.player is not None:
            self.player.pause(now)

    def done(self, now: float) -> bool:
        """Whether the motion is over."""
        return self.player is not None and self.player.done(now)

    def lines(self) -> Mapping[str, str]:
        """How far the tool has been from where it began."""
        return {"farthest from the start": f"{1e3 * self.drift:.1f} mm"}

    def close(self) -> None:
        """Nothing is kept open."""


@dataclass
class Session:
    """``run`` returns the exit code.  ``interactive``: somebody can press keys.  ``duration``: seconds in motion.

    ``hand``: of a human who may take over, ``None`` where no device is there.
    """

    driver: Driver
    performer: Performer
    board: Dashboard
    operator: str
    interactive: bool
    duration: float | None = None
    hand: Hand | None = None
    sleep: Callable[[float], None] = time.sleep
    elapsed: float = field(default=0.0, init=False)
    quit: bool = field(default=False, init=False)
    why: str = field(default="", init=False)

    # -- keys (in the keyboard's thread) -------------------------------------------------------------------------------

    def on_key(self, key: str) -> None:
        """Do what a key asks for; what the state does not allow is noted, never raised."""
        try:
            if self.hand is None or not self.hand.takes(key):
                self._do(key)
        except RobopolicyError as e:
            self.board.note(str(e))

    def _do(self, key: str) -> None:
        driver = self.driver
        if key == " ":
            driver.pause(BY_OPERATOR)
        elif key in ("q", "\x04"):
            driver.pause(BY_OPERATOR)
            self.quit = True
        elif key == "r":
            driver.start() if driver.status().state is State.ARMED else driver.resume()
        elif key == "e":
            driver.estop()
        elif key == "h":
            if self.hand is None:
                raise RequestRefused("h: no teleoperation device; name one with --teleop")
            self.hand.toggle()
        elif key == "c":
            driver.recover(self.operator)
            self.board.note("the robot was asked to clear its errors; a then y arms again")
        elif key == "a":
            driver.ask_to_arm(self.operator)
            self.board.note("arm again? y within ten seconds: the stop device is in your hand")
        elif key == "y":
            driver.confirm_arming(self.operator)
            self.board.note("armed; r runs")

    # -- the run (in the main thread) ----------------------------------------------------------------------------------

    def run(self) -> int:
        """Look and perform until the time is over, the motion is, the operator leaves, or nobody can go on."""
        clock, before, drawn, stopped = self.driver.clock, self.driver.clock.now(), -1.0, None
        while True:
            status = self.driver.status()
            now = clock.now()
            if status.state in MOVING:
                self.elapsed += now - before
                stopped = None
            else:
                stopped = now if stopped is None else stopped
            before = now
            if now - drawn >= DRAW:
                drawn = now
                self.board.show(status, self._lines())
            if (code := self._ended(now, status, stopped)) is not None:
                self.board.show(self.driver.status(), self._lines())
                return code
            self._perform(now, status)
            self.sleep(PERIOD)

    def _perform(self, now: float, status: Status) -> None:
        if self.hand is not None:
            self.hand.step()
        if status.state is State.RUNNING:
            self.performer.step(now, status)
        else:
            self.performer.pause(now)

    def _ended(self, now: float, status: Status, stopped: float | None) -> int | None:
        """The exit code, or ``None`` to go on."""
        if self.quit:
            self.why = status.why
            return 0 if status.state in (*MOVING, State.ARMED) or status.why == BY_OPERATOR else 1
        over = self.duration is not None and self.elapsed >= self.duration
        if status.state is State.RUNNING and (over or self.performer.done(now)):
            self.driver.pause("the time is over" if over else "done")
            self.why = "done"
            return 0
        if stopped is not None and not self.interactive and now - stopped > PATIENCE:
            self.why = f"{status.state.value}: {status.why}"
            return 1
        return None

    def _lines(self) -> Mapping[str, str]:
        left = {} if self.duration is None else {"time left": f"{max(0.0, self.duration - self.elapsed):.0f} s"}
        return {**left, **self.performer.lines()}


def preflight(driver: Driver, performer: Performer | None = None) -> None:
    """Look at everything; raises ``NotArmed`` with what speaks against arming."""
    from robopolicy.cli.robot_doctor import print_report
    from robopolicy.real_robot.driver.contract import Report

    found = driver.preflight().checks
    report = Report((*found, *(performer.prepare() if performer is not None else ())))
    if not report.green:
        print_report(report)
        raise NotArmed("preflight speaks against arming; `robopolicy robot doctor` shows the same with cures")
    end = driver.clock.now() + READY_WITHIN
    while driver.status().state is not State.READY:
        if driver.clock.now() > end:
            status = driver.status()
            raise NotArmed(f"preflight was green, but the driver is {status.state.value}: {status.why}")
        time.sleep(PERIOD)


def arm(
    driver: Driver,
    operator: str,
    ask: Callable[[str], str] | None,
    what: str,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Both steps of arming, then ARMED.  ``ask``: asks the operator for a line; ``None`` where that was done before.

    Raises ``NotArmed`` unless both words come; the second within ten seconds of the first.
    """
    # The first sign of the operator takes a moment to get there; arming says itself what is wrong if it never does.
    end = driver.clock.now() + HEARD_WITHIN
    while driver.status().ages.get("operator", 0.0) == math.inf and driver.clock.now() < end:
        sleep(PERIOD)
    if ask is not None:
        print(what)
        if ask("The arm will move. Type arm to arm it, anything else to leave: ").strip().lower() != "arm":
            raise NotArmed("not confirmed; nothing was armed")
    driver.ask_to_arm(operator)
    if ask is not None:
        question = f"{operator}: stop device in your hand, nobody within reach? Type yes within ten seconds: "
        if ask(question).strip().lower() != "yes":
            raise NotArmed("not confirmed; nothing was armed")
    driver.confirm_arming(operator)
