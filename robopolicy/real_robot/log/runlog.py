"""``RunLog``: a tap that keeps a run on disk, whole enough to be run again.

A folder with ``run.json`` (what the loop was built from, versions, the two clocks at the start, whatever the caller
adds), ``ticks.bin`` (``log.format``), ``chunks.jsonl`` and ``events.jsonl`` (texts, calls, looks, changes of state,
notes) and, when it was closed in good order, ``end.json``.  Everything is appended; a log whose writer was killed is
read up to its last whole row.  Chunks, calls and looks are numbered together, and every row tells how many of them came
before it: where lines are missing, the row is not believed.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from robopolicy.core import io
from robopolicy.core.errors import DatasetError
from robopolicy.real_robot.clock import Clock
from robopolicy.real_robot.control.loop import Inputs, TickRecord
from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.control.watchdogs import Health
from robopolicy.real_robot.log.format import ROW, STATES, VERSION, header, pack
from robopolicy.real_robot.log.lines import CHUNKS, EVENTS, TICKS, line, plain_call, plain_chunk, plain_health
from robopolicy.real_robot.log.settings import LoopSettings, versions
from robopolicy.real_robot.log.tap import Call
from robopolicy.real_robot.log.writer import LIMIT, LogWriter, RawFile, append_to

RUN = "run.json"
FORMAT = "robopolicy-run-log"


class RunLog:
    """A ``Tap`` that writes ``folder``, which must be new or empty (``DatasetError`` otherwise).

    ``settings``: what the loop was built from.  ``clock``: for the two readings in ``run.json``.  ``facts``: anything
    JSON can hold about the run: checkpoint and its hash, configuration, operator, seeds.  The loop must not have ticked
    before.  No method blocks or raises once the log is open; what goes wrong ends the recording (``ended``).
    """

    def __init__(
        self,
        folder: str | Path,
        settings: LoopSettings,
        clock: Clock,
        facts: Mapping[str, Any] | None = None,
        limit: int = LIMIT,
        open_file: Callable[[Path], RawFile] = append_to,
    ) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise DatasetError(f"{self.folder} is not empty; a log is written into a new folder")
        run = {
            "format": FORMAT,
            "version": VERSION,
            "row": [list(field) for field in ROW.descr],
            "states": [s.value for s in STATES],
            "loop": settings.plain(),
            "started": {"monotonic": clock.now(), "wall": clock.wall()},
            "versions": versions(),
            "facts": dict(facts or {}),
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            io.write_atomic(self.folder / RUN, json.dumps(run, indent=1, default=str))
            self._writer = LogWriter(self.folder, limit, open_file)
        except OSError as e:
            raise DatasetError(f"{self.folder}: no log can be written there ({e}); choose another folder") from e
        self._writer.put(TICKS, header())
        self._lock = threading.Lock()
        self._texts: dict[str, int] = {}
        self._ticks = self._numbered = 0

    @property
    def ended(self) -> str:
        """Why the recording ended before it was closed; empty while all is well."""
        return self._writer.ended

    @property
    def recording(self) -> str:
        """For ``Status.recording``: the folder, or ``"ended: why"``."""
        return f"ended: {self.ended}" if self.ended else str(self.folder)

    def close(self, why: str = "") -> None:
        """Write what is left and mark the log complete; ``why`` goes into the mark.  Safe to call twice."""
        self._writer.close(ticks=self._ticks, closed=why)

    # -- the tap -------------------------------------------------------------------------------------------------------

    def ticked(self, inputs: Inputs, record: TickRecord) -> None:
        """Add a row."""
        with self._guarded():
            self._writer.put(TICKS, pack(self._ticks, self._numbered, inputs, record, self._text))
            for event in record.events:
                change = {"from": event.before.value, "to": event.after.value, "why": event.why}
                self._writer.put(EVENTS, line(change=change, tick=self._ticks, at=event.at))
            self._ticks += 1

    def submitted(self, chunk: Waypoints, taken: bool, at: float) -> None:
        """Add a chunk."""
        with self._guarded():
            self._writer.put(CHUNKS, line(**self._place(), taken=bool(taken), at=float(at), chunk=plain_chunk(chunk)))

    def called(self, call: Call) -> None:
        """Add a call."""
        with self._guarded():
            self._writer.put(EVENTS, line(**self._place(), **plain_call(call)))

    def looked(self, at: float, health: Health) -> None:
        """Add a look of the watchdogs between two ticks."""
        with self._guarded():
            self._writer.put(EVENTS, line(**self._place(), look=plain_health(health), at=float(at)))

    def noted(self, name: str, at: float, **facts: Any) -> None:
        """Add something for the reader."""
        with self._guarded():
            self._writer.put(EVENTS, line(note=name, tick=self._ticks, at=float(at), facts=facts))

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """One at a time; whatever goes wrong here is the end of the recording and never of the run."""
        with self._lock:
            try:
                yield
            except Exception as e:
                self._writer.end(f"something could not be logged: {type(e).__name__}: {e}")

    def _place(self) -> dict[str, int]:
        place = {"number": self._numbered, "tick": self._ticks}
        self._numbered += 1
        return place

    def _text(self, text: str | None) -> int:
        if text is None:
            return -1
        if text not in self._texts:
            number = len(self._texts)
            self._writer.put(EVENTS, line(text=number, value=text))
            self._texts[text] = number
        return self._texts[text]
