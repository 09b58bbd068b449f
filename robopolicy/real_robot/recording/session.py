"""A session of recording: a device (and perhaps a policy) on one side, a dataset on the other.

Demonstrations (``alone``): the operator takes the arm with the device, gives ``begin``, shows the task, and judges it.
Corrections of a policy: ``each`` runs the policy; an episode begins when the arm begins to move, and whenever the human
holds the device the arm is his.  Neither waits for the other: everything happens in one loop that ``pace`` times.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from robopolicy.core.errors import RequestRefused
from robopolicy.real_robot.control.states import MOVING
from robopolicy.real_robot.driver.contract import Driver
from robopolicy.real_robot.limits import SafetyLimits
from robopolicy.real_robot.recording.recorder import Recorder
from robopolicy.real_robot.teleop.device import Reading, TeleopDevice
from robopolicy.real_robot.teleop.jog import Jog, JogConfig
from robopolicy.real_robot.teleop.operator import Teleoperator

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class SessionResult:
    """What became of a session: ``episodes`` closed in it, of which ``successes``; ``marks``: why others ended early;
    ``ended``: why all of it did, ``"all recorded"`` or ``"quit"`` if nothing went wrong."""

    episodes: int
    successes: int
    discarded: int
    marks: tuple[str, ...]
    ended: str


def record_session(
    driver: Driver,
    device: TeleopDevice,
    recorder: Recorder,
    *,
    task: str,
    episodes: int,
    limits: SafetyLimits,
    pace: Callable[[], None],
    alone: bool = True,
    seconds: float = 60.0,
    jog: JogConfig | None = None,
    each: Callable[[], None] = lambda: None,
    between: Callable[[int], dict[str, Any] | None] | None = None,
    say: Callable[[str], None] = LOG.info,
) -> SessionResult:
    """Record until ``episodes`` more are closed, the operator quits, the device is lost or recording ends.

    Args:
        driver: armed (``alone``), or armed or running with a policy; motion still needs the operator's hand or order.
        device: not entered yet.
        recorder: of the same driver; stays open.
        task: sentence of every frame.
        limits: those of the driver, which the jogging speed is a share of.
        pace: waits until the next step is due (50 Hz is good), or turns a lock-step world by one step.
        alone: demonstrations, without a policy; else corrections of one.
        seconds: longest episode; a longer one ends as a failure.
        jog: speed of the device.
        each: called at every step; where the policy runs (it submits through ``recorder.submit``).
        between: called with the number of the next episode while none is recorded and the arm is held, so that somebody
            can put the scene in order; what it returns goes into the sidecar. Without it the arm stays in the hand.
        say: told, in a line, what happens.
    """
    session = _Session(driver, recorder, task, alone, seconds, say)
    with device:
        human = Teleoperator(driver, device, Jog(limits, jog), alone)
        facts = between(0) if between is not None else None
        while not session.over and session.closed < episodes:
            reading = human.step()
            if human.wish is not None:
                recorder.wished(human.wish, human.wished_at)
            each()
            recorder.tick()
            if session.step(reading, facts or {}) and between is not None and not session.over:
                driver.pause("between two episodes")
                facts = between(session.closed)
            pace()
    if recorder.recording:
        recorder.discard()
    if driver.status().state in MOVING:
        driver.pause("the recording session is over")
    recorder.flush()
    ended = recorder.ended or session.over or "all recorded"
    marks = tuple(recorder.marks[session.first_mark :])
    return SessionResult(session.closed, session.successes, session.discarded, marks, ended)


class _Session:
    """Beginnings and ends of episodes."""

    def __init__(
        self, driver: Driver, recorder: Recorder, task: str, alone: bool, seconds: float, say: Callable[[str], None]
    ) -> None:
        self._driver, self._recorder, self._task, self._alone = driver, recorder, task, alone
        self._seconds, self._say = seconds, say
        self.closed = self.successes = self.discarded = 0
        self.over = ""
        self.first_mark = len(recorder.marks)
        self._marks, self._kept = self.first_mark, recorder.kept
        self._begun = 0.0

    def step(self, reading: Reading, facts: dict[str, Any]) -> bool:
        """Follow the operator; true when an episode is over and the next one not begun."""
        recorder = self._recorder
        self.over = recorder.ended or reading.lost or ("quit" if "quit" in reading.commands else "")
        if self._marked():
            return True
        if recorder.recording:
            return self._judged(reading)
        moving = self._driver.status().state in MOVING
        if "begin" in reading.commands or (moving and not self._alone):
            try:
                recorder.begin(self._task, **facts)
                self._begun = self._driver.clock.now()
                self._say(f"recording episode {self.closed + 1}")
            except RequestRefused as e:
                self._say(str(e))
        return False

    def _marked(self) -> bool:
        """Whether the recorder ended an episode by itself; one with nothing in it was not closed."""
        marks = self._recorder.marks
        if len(marks) == self._marks:
            return False
        self._marks = len(marks)
        self._count()
        self._say(f"episode ended early: {marks[-1]}")
        return True

    def _count(self) -> None:
        self.closed += self._recorder.kept > self._kept
        self._kept = self._recorder.kept

    def _judged(self, reading: Reading) -> bool:
        """End the episode if the operator, or the time, says so; whoever leaves in the middle throws it away."""
        judged = [c == "success" for c in reading.commands if c in ("success", "failure")]
        late = self._driver.clock.now() - self._begun > self._seconds
        thrown = "discard" in reading.commands
        if thrown or (self.over and not judged):
            self._recorder.discard()
            self.discarded += thrown
            self._say("episode thrown away")
            return True
        if not judged and not late:
            return False
        success = bool(judged and judged[-1])
        ended = self._recorder.end(success, "" if judged else f"longer than {self._seconds:g} s")
        if self._marked():  # by its last frames
            return True
        if ended:
            self._count()
            self.successes += success
            self._say(f"episode {self.closed}: {'success' if success else 'failure'}")
        return True
