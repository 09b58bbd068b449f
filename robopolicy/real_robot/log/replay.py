"""Run a logged run again: the same loop, given the same things at the same ticks, must decide the same, bit for bit.

Use it to show that nothing but the logged inputs decided what the arm was told, and to ask what a changed filter would
have done with a real run (``settings``).  Floating-point sums may differ between machines and versions of NumPy; the
log names both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robopolicy.core.errors import DatasetError, RequestRefused
from robopolicy.real_robot.control.loop import ControlLoop, Inputs, TickRecord
from robopolicy.real_robot.log.format import ROW, pack
from robopolicy.real_robot.log.reader import LoggedRun, Looked, Numbered, Submitted, read_log
from robopolicy.real_robot.log.settings import LoopSettings
from robopolicy.real_robot.log.tap import Call
from robopolicy.real_robot.log.unpack import inputs_of

FAILED = "recovery failed: "  # how the state machine begins to tell what the robot answered
CALLS = (
    *("ask_to_arm", "confirm_arming", "start", "pause", "intervene", "release", "resume", "estop"),
    *("recover", "shut_down"),
)
"""Methods of ``StateMachine`` that a log may name."""


@dataclass(frozen=True)
class Difference:
    """The first thing that came out otherwise: ``field`` of the row, or the call; as recorded and as replayed."""

    tick: int
    at: float
    field: str
    recorded: str
    replayed: str

    def __str__(self) -> str:
        return f"tick {self.tick} at {self.at:.3f} s: {self.field} was {self.recorded}, replayed {self.replayed}"


@dataclass(frozen=True)
class ReplayResult:
    """``ticks``: of the log that were run again; ``setpoints``: poses published among them; ``difference``: the first,
    ``None`` if every bit was the same."""

    ticks: int
    setpoints: int
    difference: Difference | None

    @property
    def identical(self) -> bool:
        """Whether every decision of every tick was the same, bit for bit."""
        return self.difference is None


def replay(folder: str | Path | LoggedRun, settings: LoopSettings | None = None) -> ReplayResult:
    """Run the log in ``folder`` again, up to the first difference.

    ``settings``: other than the logged ones, to see where a run would have gone another way.
    Raises ``DatasetError`` for what is no log, or one without a tick.
    """
    run = folder if isinstance(folder, LoggedRun) else read_log(folder)
    if not len(run.rows):
        raise DatasetError(f"{run.folder}: no whole tick in this log ({run.why})")
    difference = None
    steps = 0
    numbers = {text: i for i, text in enumerate(run.texts)}
    for i, again in enumerate(_decisions(run, settings or run.settings)):
        steps = i + 1
        if isinstance(again, Difference):
            difference = again
            break
        inputs, record = again
        row = run.rows[i]
        packed = pack(i, int(row["before"]), inputs, record, lambda t: -1 if t is None else numbers.get(t, -2))
        if packed != row.tobytes():
            difference = _first(run, row, np.frombuffer(packed, ROW)[0])
            break
    return ReplayResult(steps, len(run.published()[0]), difference)


def _decisions(run: LoggedRun, settings: LoopSettings) -> Iterator[tuple[Inputs, TickRecord] | Difference]:
    """What the loop was given and decides, tick by tick; ends with a difference if a call ends otherwise."""
    answer: list[str] = []

    def recovery() -> None:
        if answer:
            raise RuntimeError(answer.pop())

    loop = settings.build(recovery)
    waiting = iter(run.between)
    coming = next(waiting, None)
    for i, row in enumerate(run.rows):
        while coming is not None and coming[0] <= i:
            outcome = _repeat(loop, coming[1], answer)
            if outcome is not None:
                yield Difference(i, float(row["at"]), *outcome)
                return
            coming = next(waiting, None)
        inputs = inputs_of(row, run.text)
        yield inputs, loop.tick(float(row["at"]), inputs)


def _repeat(loop: ControlLoop, item: Numbered, answer: list[str]) -> tuple[str, str, str] | None:
    """Do again what was done between two ticks; what differs, as (what, recorded, replayed)."""
    if isinstance(item, Submitted):
        taken = loop.submit(item.chunk)
        return None if taken == item.taken else ("submit", str(item.taken), str(taken))
    if isinstance(item, Looked):
        loop.machine.tick(item.at, item.health)
        return None
    refused = _call_again(loop, item, answer)
    return None if refused == item.refused else (item.name, str(item.refused), str(refused))


def _call_again(loop: ControlLoop, call: Call, answer: list[str]) -> str | None:
    if call.name not in CALLS:
        raise DatasetError(f"the log names a call '{call.name}' that is none of {', '.join(CALLS)}")
    if call.name == "recover" and call.refused is None and call.why.startswith(FAILED):
        answer.append(call.why.removeprefix(FAILED))
    try:
        getattr(loop.machine, call.name)(now=call.at, **call.arguments)
    except RequestRefused as e:
        return str(e)
    return None


def _first(run: LoggedRun, was: np.void, now: np.void) -> Difference:
    """The first field in which two rows differ; the check sum differs last."""
    name = next(n for n in ROW.names or () if was[n].tobytes() != now[n].tobytes())
    told = [str(row[name].tolist()) for row in (was, now)]
    if name.endswith("_text") and was[name].ndim == 0:
        told = [repr(run.text(int(was[name]))), repr(run.text(int(now[name]))) if now[name] != -2 else "another"]
    return Difference(int(was["index"]), float(was["at"]), name, *told)
