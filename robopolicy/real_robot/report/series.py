"""A recorded run as arrays over time: what page, Rerun recording and calibration figures are made of.

``series_of`` reads the log's rows (``log.format``); everything that draws sees ``RunSeries`` only, so that a change of
the log's format ends here.  Times count from the first tick, in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.frames import difference
from robopolicy.real_robot.limits import SafetyLimits, Timeouts
from robopolicy.real_robot.log.format import STATES, Has
from robopolicy.real_robot.log.reader import LoggedRun
from robopolicy.real_robot.log.tap import ANSWERED
from robopolicy.real_robot.report.words import flag_words

AGES = ("state", "loopback", "camera", "operator")


@dataclass(frozen=True, eq=False)
class Track:
    """``position (T, 3)`` m and ``quaternion (T, 4)``, NaN where there was none."""

    position: np.ndarray
    quaternion: np.ndarray


@dataclass(frozen=True, eq=False)
class RunSeries:
    """T ticks of a run; arrays are ``(T,)`` unless they say otherwise, NaN where there was nothing.

    ``plan``: what the filter was asked for.  ``emitted``: what it answered; ``published`` tells whether that was sent.
    ``rate (T, 6)``: of the emitted pose, m/s and rad/s.  ``late``: seconds since the tick before.  ``ages``: by source,
    s.  ``latency``: seconds from each asking of the policy to its chunk, if the log has it.  ``events``: (time, text).
    """

    name: str
    time: np.ndarray
    state: np.ndarray
    plan: Track
    emitted: Track
    measured: Track
    published: np.ndarray
    rate: np.ndarray
    width_plan: np.ndarray
    width_emitted: np.ndarray
    width_measured: np.ndarray
    force: np.ndarray
    flags: np.ndarray
    ages: Mapping[str, np.ndarray]
    period: np.ndarray
    limits: SafetyLimits = field(default_factory=SafetyLimits)
    timeouts: Timeouts = field(default_factory=Timeouts)
    latency: np.ndarray = field(default_factory=lambda: np.zeros(0))
    events: Sequence[tuple[float, str]] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Length of the run."""
        return float(self.time[-1]) if len(self.time) else 0.0

    @property
    def lead(self) -> np.ndarray:
        """Metres from the measured to the emitted pose."""
        return np.asarray(np.linalg.norm(self.emitted.position - self.measured.position, axis=-1))

    @property
    def speed(self) -> np.ndarray:
        """Of the emitted pose, m/s."""
        return np.asarray(np.linalg.norm(self.rate[:, :3], axis=-1))

    @property
    def acceleration(self) -> np.ndarray:
        """Of the emitted pose, m/s2, from tick to tick, ``(T,)``; NaN at the first tick of each stretch."""
        change = np.diff(self.rate[:, :3], axis=0, prepend=np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.linalg.norm(change, axis=-1) / np.where(self.period > 0, self.period, np.nan)
        return np.asarray(found)

    @property
    def measured_speed(self) -> np.ndarray:
        """Of the measured pose, m/s, over windows of 0.1 s."""
        return windowed_speed(self.time, self.measured.position)

    def turn(self, track: Track) -> np.ndarray:
        """``(T, 3)`` rad: rotation vectors from the first known measured rotation to ``track``'s."""
        known = np.nonzero(np.isfinite(self.measured.quaternion).all(axis=-1))[0]
        if not len(known):
            return np.full((len(self.time), 3), np.nan)
        return difference(self.measured.quaternion[known[0]], track.quaternion)

    def state_spans(self) -> list[tuple[State, float, float]]:
        """(state, from, to) of the run, in order."""
        if not len(self.time):
            return []
        changes: list[int] = (np.nonzero(np.diff(self.state))[0] + 1).tolist()
        edges = [0, *changes, len(self.time)]
        times: list[float] = [*self.time.tolist(), self.seconds]
        return [(STATES[int(self.state[a])], times[a], times[b]) for a, b in pairwise(edges)]

    def flag_spans(self) -> dict[str, list[tuple[float, float]]]:
        """When each flag of the safety filter was up; flags that never were are left out."""
        found: dict[str, list[tuple[float, float]]] = {}
        for bit in range(int(self.flags.max(initial=0)).bit_length()):
            up = (self.flags >> bit & 1).astype(bool)
            if up.any():
                found[flag_words(1 << bit)[0]] = spans(up, self.time)
        return found


def spans(up: np.ndarray, time: np.ndarray) -> list[tuple[float, float]]:
    """Stretches of time in which ``up (T,)`` is true, from its first tick to the next that is not."""
    edges = np.diff(np.concatenate(([0], up.astype(np.int8), [0])))
    begins, ends = np.nonzero(edges == 1)[0], np.minimum(np.nonzero(edges == -1)[0], len(time) - 1)
    return [(float(a), float(b)) for a, b in zip(time[begins], time[ends], strict=True)]


def windowed_speed(time: np.ndarray, position: np.ndarray, window: float = 0.1) -> np.ndarray:
    """Speed ``(T,)`` of ``position (T, 3)`` between half a window before and after each instant."""
    if len(time) < 2:
        return np.full(len(time), np.nan)
    back = np.interp(time - window / 2, time, np.arange(len(time))).astype(int)
    ahead = np.ceil(np.interp(time + window / 2, time, np.arange(len(time)))).astype(int)
    span = time[ahead] - time[back]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.linalg.norm(position[ahead] - position[back], axis=-1) / span)


def series_of(run: LoggedRun) -> RunSeries:
    """The series of a run as read back from its log."""
    origin = float(run.rows["at"][0]) if len(run.rows) else 0.0
    told = sorted(_told(run), key=lambda pair: pair[0])
    facts = {key: str(value) for key, value in run.facts.items() if isinstance(value, str | int | float)}
    if run.why or not run.whole:
        facts["log"] = run.why if run.whole else f"not whole: {run.why}"
    chunks = run.chunks()
    merges = run.rows[(run.rows["has"] & Has.MERGED) > 0]
    return of_rows(
        run.rows,
        run.folder.name,
        limits=run.settings.limits,
        timeouts=run.settings.timeouts,
        events=[(at - origin, text) for at, text in told],
        facts=facts,
        latency=np.array([float(n.facts["seconds"]) for n in run.notes if n.name == ANSWERED and "seconds" in n.facts]),
        counts={
            "chunks": len(chunks),
            "chunks ignored": sum(not c.taken for c in chunks),
            "chunks over budget": int(((merges["has"] & Has.OVER_BUDGET) > 0).sum()),
            "chunks refused": int((merges["merge_text"] >= 0).sum()),
            "actions late": int(merges["merge"][:, 1].sum()),
            "jumps": int((merges["merge"][:, 2] >= 0).sum()),
        },
    )


def _told(run: LoggedRun) -> Iterator[tuple[float, str]]:
    """Changes of state, the operator's calls, and what the driver noted: (local time, text)."""
    for note in run.notes:
        if note.name == "change":
            yield note.at, f"{note.facts.get('from')} → {note.facts.get('to')}: {note.facts.get('why')}"
        elif note.name != ANSWERED:
            more = ", ".join(f"{k} {v}" for k, v in note.facts.items())
            yield note.at, f"{note.name}: {more}" if more else note.name
    for call in run.calls():
        done = f"{call.name}: {call.why}" if call.why else call.name
        yield call.at, f"refused: {call.refused}" if call.refused is not None else done


def of_rows(rows: np.ndarray, name: str, **more: object) -> RunSeries:
    """From rows of ``ticks.bin`` (a structured array of ``log.format.ROW``); ``more``: further fields of the series."""
    has = rows["has"].astype(np.int64)
    there = lambda bit: (has & int(bit)) != 0
    masked = lambda values, mask: np.where(mask if values.ndim == 1 else mask[:, None], values, np.nan)
    emitted, wish = there(Has.EMITTED_POSE), there(Has.WISH)
    known = np.isfinite(rows["measured_at"])  # before the first state of the robot there is nothing
    ages = dict(zip(AGES, rows["health_age"].T, strict=True))
    for source, bit in (("loopback", Has.LOOPBACK_AGE), ("camera", Has.CAMERA_AGE), ("operator", Has.OPERATOR_AGE)):
        ages[source] = np.where(there(bit), ages[source], np.nan)
    at = rows["at"]
    return RunSeries(
        name=name,
        time=at - at[0] if len(at) else at,
        state=rows["state"].astype(int),
        plan=Track(masked(rows["wish_position"], wish), masked(rows["wish_quaternion"], wish)),
        emitted=Track(masked(rows["emitted_position"], emitted), masked(rows["emitted_quaternion"], emitted)),
        measured=Track(masked(rows["measured_position"], known), masked(rows["measured_quaternion"], known)),
        published=there(Has.PUBLISHED),
        rate=masked(rows["emitted_rate"], there(Has.EMITTED)),
        width_plan=masked(rows["wish_width"], there(Has.WISH_GRIPPER)),
        width_emitted=masked(rows["emitted_width"], there(Has.EMITTED_GRIPPER)),
        width_measured=masked(rows["measured_width"], known),
        force=masked(np.linalg.norm(rows["measured_force"], axis=-1), known),
        flags=rows["flags"].astype(np.int64),
        ages={k: v for k, v in ages.items() if np.isfinite(v).any()},
        period=np.diff(at, prepend=at[:1]),
        **more,  # type: ignore[arg-type]
    )
