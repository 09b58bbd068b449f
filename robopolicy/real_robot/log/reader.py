"""A log from its folder: as much of it as is whole, and what is known of its end."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.core.errors import DatasetError
from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.control.watchdogs import Health
from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.log.format import HEADER, MAGIC, ROW, STATES, VERSION, Has
from robopolicy.real_robot.log.lines import CHUNKS, EVENTS, TICKS, call_of, chunk_of, health_of
from robopolicy.real_robot.log.runlog import FORMAT, RUN
from robopolicy.real_robot.log.settings import LoopSettings
from robopolicy.real_robot.log.tap import Call
from robopolicy.real_robot.log.writer import END


@dataclass(frozen=True, eq=False)
class Submitted:
    """A chunk as it was submitted, at local ``at``; ``taken``: whether it was left for the next tick."""

    chunk: Waypoints
    taken: bool
    at: float


@dataclass(frozen=True, eq=False)
class Looked:
    """A look of the watchdogs between two ticks."""

    at: float
    health: Health


@dataclass(frozen=True)
class Note:
    """A change of state (``name`` "change") or anything else that the log tells its reader; ``tick``: the tick during
    which, or before which, it happened."""

    name: str
    tick: int
    at: float
    facts: Mapping[str, Any]


Numbered = Submitted | Call | Looked


@dataclass(frozen=True, eq=False)
class LoggedRun:
    """A run as read back.

    ``rows``: structured array of ``format.ROW``, one a tick.  ``between``: tick index and what happened before that
    tick, in order.  ``whole``: whether the log was closed in good order; ``why``: why not, or how it was closed.
    ``started``: ``monotonic`` and ``wall`` seconds of one instant.  ``facts``: what the caller gave to ``RunLog``.
    """

    folder: Path
    settings: LoopSettings
    started: Mapping[str, float]
    versions: Mapping[str, str]
    facts: Mapping[str, Any]
    rows: np.ndarray
    between: tuple[tuple[int, Numbered], ...]
    notes: tuple[Note, ...]
    texts: tuple[str, ...]
    whole: bool
    why: str

    def text(self, number: int) -> str | None:
        """A text by its number, ``None`` for -1."""
        return self.texts[number] if number >= 0 else None

    def wall(self, at: float) -> float:
        """Seconds since 1970 of a local time of the log."""
        return self.started["wall"] + at - self.started["monotonic"]

    def states(self) -> list[State]:
        """State after every tick."""
        return [STATES[i] for i in self.rows["state"].tolist()]

    def published(self) -> tuple[np.ndarray, Pose]:
        """Times ``(N,)`` s and poses of everything that was to be sent."""
        rows = self.rows[(self.rows["has"] & Has.PUBLISHED) > 0]
        return rows["at"].copy(), Pose(rows["emitted_position"], rows["emitted_quaternion"])

    def chunks(self) -> list[Submitted]:
        """Every chunk, in order."""
        return [item for _, item in self.between if isinstance(item, Submitted)]

    def calls(self) -> list[Call]:
        """Every call of the state machine, in order."""
        return [item for _, item in self.between if isinstance(item, Call)]


def read_log(folder: str | Path) -> LoggedRun:
    """The log in ``folder``, up to the last tick of which everything is there.

    Raises ``DatasetError`` where there is no log, or one of another version.
    """
    folder = Path(folder)
    run = _json(folder / RUN)
    if run.get("format") != FORMAT or run.get("version") != VERSION:
        found = f"{run.get('format')} version {run.get('version')}"
        raise DatasetError(f"{folder / RUN}: expected {FORMAT} version {VERSION}, found {found}; read it with its own")
    if run.get("states") != [s.value for s in STATES]:
        raise DatasetError(f"{folder / RUN}: written by a program with other states: {run.get('states')}")
    settings = LoopSettings.from_plain(run["loop"], str(folder / RUN))
    events, chunks = list(_lines(folder / EVENTS)), list(_lines(folder / CHUNKS))
    texts = tuple(e["value"] for e in events if "text" in e)
    numbered = _in_order([e for e in (*events, *chunks) if "number" in e])
    rows = _believed(_rows(folder / TICKS), len(numbered), len(texts))
    whole, why = _ending(folder, len(rows))
    return LoggedRun(
        folder,
        settings,
        run["started"],
        run["versions"],
        run["facts"],
        rows,
        tuple((e["tick"], _item(e)) for e in numbered if e["tick"] <= len(rows)),
        tuple(_note(e) for e in events if ("note" in e or "change" in e) and e["tick"] <= len(rows)),
        texts,
        whole,
        why,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except OSError as e:
        raise DatasetError(f"{path}: cannot be read ({e.strerror}); expected the folder of a run's log") from e
    except ValueError as e:
        raise DatasetError(f"{path}: is no JSON ({e})") from e
    if not isinstance(data, dict):
        raise DatasetError(f"{path}: expected a JSON object")
    return data


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines, up to the first that is none."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    for raw in content.split(b"\n")[:-1]:
        try:
            value = json.loads(raw)
        except ValueError:
            return
        if not isinstance(value, dict):
            return
        yield value


def _in_order(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By number, up to the first one that is missing."""
    known = {e["number"]: e for e in lines}
    count = next(i for i in range(len(known) + 1) if i not in known)
    return [known[i] for i in range(count)]


def _rows(path: Path) -> np.ndarray:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return np.zeros(0, ROW)
    if len(content) < HEADER.size:
        return np.zeros(0, ROW)
    magic, version, size = HEADER.unpack_from(content)
    if (magic, version, size) != (MAGIC, VERSION, ROW.itemsize):
        raise DatasetError(
            f"{path}: expected version {VERSION} with rows of {ROW.itemsize} bytes, got {version}, {size}"
        )
    count = (len(content) - HEADER.size) // size
    return np.frombuffer(content, ROW, count, HEADER.size)


def _believed(rows: np.ndarray, numbered: int, texts: int) -> np.ndarray:
    """Rows up to the first that is damaged or refers to something that is not there."""
    if not len(rows):
        return rows
    names = ("health_text", "hold_text", "merge_text")
    last = np.maximum.reduce([rows[n].reshape(len(rows), -1).max(axis=-1, initial=-1) for n in names])
    good = (rows["index"] == np.arange(len(rows))) & (rows["before"] <= numbered) & (last < texts)
    good &= rows["state"] < len(STATES)
    count = int(np.argmin(good)) if not good.all() else len(rows)
    for i in range(count):
        if zlib.crc32(rows[i].tobytes()[:-4]) != int(rows[i]["crc"]):
            count = i
            break
    return rows[:count]


def _ending(folder: Path, ticks: int) -> tuple[bool, str]:
    if not (folder / END).is_file():
        return False, "the log has no end: its writer was killed, is still writing, or had no room on the disk"
    end = _json(folder / END)
    if not end.get("complete"):
        return False, f"recording ended early: {end.get('why')}"
    if end.get("ticks") != ticks:
        return False, f"damaged: {ticks} ticks of {end.get('ticks')} are whole"
    return True, str(end.get("closed", ""))


def _item(entry: dict[str, Any]) -> Numbered:
    if "chunk" in entry:
        return Submitted(chunk_of(entry["chunk"]), entry["taken"], entry["at"])
    if "look" in entry:
        return Looked(entry["at"], health_of(entry["look"]))
    return call_of(entry)


def _note(entry: dict[str, Any]) -> Note:
    if "change" in entry:
        return Note("change", entry["tick"], entry["at"], entry["change"])
    return Note(entry["note"], entry["tick"], entry["at"], entry["facts"])
