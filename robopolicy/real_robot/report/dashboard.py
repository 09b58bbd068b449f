"""The terminal dashboard of a driver: drawn in place on a terminal, plain lines anywhere else.

It reads ``Driver.status()`` and draws; it never asks the driver for anything else, so it cannot hold it up.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.driver.contract import Status
from robopolicy.real_robot.limits import SafetyLimits, Timeouts
from robopolicy.real_robot.report.words import (
    BAD,
    FINE,
    STATE_LEVEL,
    WARN,
    Reading,
    age_readings,
    flag_words,
    mode_word,
    motion_readings,
    plain_line,
    timing_readings,
)

STYLE = {FINE: "green", WARN: "yellow", BAD: "bold red"}
PLAIN_EVERY = 2.0  # s between plain lines while nothing changes
NOTES = 6  # last changes that stay on the screen


class Dashboard:
    """``with Dashboard(...) as board: board.show(driver.status())``, about ten times a second.

    ``keys``: what the operator may press, for the last line.  ``out``: where to; by default standard output, drawn in
    place if it is a terminal.  ``plain`` forces lines.
    """

    def __init__(
        self,
        title: str,
        limits: SafetyLimits,
        timeouts: Timeouts,
        keys: str = "",
        out: TextIO | None = None,
        plain: bool | None = None,
    ) -> None:
        self._title, self._limits, self._timeouts, self._keys = title, limits, timeouts, keys
        self._out = out or sys.stdout
        self.plain = not self._out.isatty() if plain is None else plain
        self._live: Any = None
        self._notes: list[str] = []
        self._last: tuple[State, str] | None = None
        self._told: float | None = None

    def __enter__(self) -> Dashboard:
        if not self.plain:
            from rich.console import Console
            from rich.live import Live

            # Transient: what remains on the screen afterwards is the last state and the notes, as plain lines.
            self._live = Live(console=Console(file=self._out), auto_refresh=False, transient=True)
            self._live.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            with contextlib.suppress(OSError):  # the terminal may be gone
                live.__exit__(None, None, None)
            for note in self._notes:
                self._line(note)

    def note(self, text: str) -> None:
        """A line that stays: a change of state, an operator's deed, a warning."""
        self._notes = [*self._notes, text][-NOTES:]
        if self.plain:
            self._line(text)

    def show(self, status: Status, extra: Mapping[str, str] | None = None) -> None:
        """Draw ``status``; ``extra``: more lines by name (policy latency, seconds left...)."""
        if (status.state, status.why) != self._last:
            self._last = (status.state, status.why)
            self.note(f"{status.state.value}: {status.why}" if status.why else status.state.value)
        if self._live is not None:
            self._live.update(self.drawn(status, extra or {}), refresh=True)
        elif self._told is None or status.now - self._told >= PLAIN_EVERY:
            self._told = status.now
            tail = "".join(f"  {name} {text}" for name, text in (extra or {}).items())
            self._line(plain_line(status, self._timeouts) + tail)

    def _line(self, text: str) -> None:
        with contextlib.suppress(OSError):
            print(text, file=self._out, flush=True)

    def drawn(self, status: Status, extra: Mapping[str, str] | None = None) -> Any:
        """The dashboard as something that rich prints."""
        from rich.columns import Columns
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        style = STYLE[STATE_LEVEL[status.state]]
        head = Text.assemble(
            (f" {status.state.value.upper()} ", f"reverse {style}"),
            f"  {status.why or ''}",
        )
        facts = f"link {'up' if status.link else 'DOWN'}   robot {mode_word(status.mode)}   epoch {status.epoch}"
        if status.recording:
            facts += f"   recording {status.recording}"
        rows: list[Any] = [head, Text(facts, style="dim")]
        if status.problem:
            rows.append(Text(f"problem: {status.problem}", style=STYLE[BAD]))
        if status.errors:
            rows.append(Text("robot errors: " + ", ".join(status.errors), style=STYLE[BAD]))
        flags = flag_words(status.flags)
        rows.append(Text("filter: " + (", ".join(flags) or "nothing to limit"), style=STYLE[WARN if flags else FINE]))
        tables = [
            _table("age", age_readings(status, self._timeouts)),
            _table("motion", motion_readings(status, self._limits)),
            _table("time", timing_readings(status, self._timeouts)),
        ]
        counters = [Reading(name, str(n)) for name, n in status.counters.items() if n]
        more = [Reading(name, text) for name, text in (extra or {}).items()]
        if counters or more:
            tables.append(_table("so far", [*more, *counters]))
        rows.append(Columns(tables, padding=(0, 4)))
        rows += [Text(note, style="dim") for note in self._notes]
        if self._keys:
            rows.append(Text(self._keys, style="bold"))
        return Panel(Group(*rows), title=self._title, title_align="left")


def _table(name: str, readings: Sequence[Reading]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1), show_edge=False, title_justify="left")
    limits = any(r.limits for r in readings)
    for column in (name, "", "limit")[: 3 if limits else 2]:
        table.add_column(column, header_style="dim", no_wrap=True)
    for r in readings:
        cells: list[Any] = [r.name, Text(r.value, style=STYLE[r.level] if r.limits or r.level != FINE else "")]
        table.add_row(*cells, *((Text(r.limits, style="dim"),) if limits else ()))
    return table
