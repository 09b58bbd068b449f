"""One self-contained HTML page of a recorded run: no script, nothing loaded from elsewhere, light and dark.

Plan (what the filter was asked for), emitted (what it answered) and measured motion for each axis, over bands of the
states; speed, acceleration, lead and force beside their limits; flags, ages, latencies, changes of state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robopolicy import __version__
from robopolicy.core.io import write_atomic
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.report.charts import Band, Line, curves, histogram, rows
from robopolicy.real_robot.report.series import RunSeries, Track

WHAT = ("plan", "emitted", "measured")
QUIET = (State.RUNNING,)  # no band behind the curves: that is the usual
ROTATION = ("about x", "about y", "about z")


@dataclass(frozen=True)
class Chart:
    """A figure of the page."""

    title: str
    svg: str
    note: str = ""


def write_page(series: RunSeries, out: str | Path) -> Path:
    """Write the page to ``out``."""
    write_atomic(out, render(series))
    return Path(out)


def render(series: RunSeries) -> str:
    """The page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("robopolicy.real_robot.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    spans = series.state_spans()
    return environment.get_template("run.html.j2").render(
        name=series.name,
        facts=list(facts(series)),
        verdict=verdict(series),
        states=state_rows(series),
        legend=[s.value for s in dict.fromkeys(s for s, _, _ in spans) if s not in QUIET],
        sections=[
            ("Motion", list(motion_charts(series))),
            ("Limits", list(limit_charts(series))),
            ("Safety filter", list(flag_charts(series))),
            ("Timing", list(timing_charts(series))),
        ],
        events=[(f"{t:.2f}", text) for t, text in series.events],
        counts=series.counts,
        version=__version__,
    )


def verdict(series: RunSeries) -> str:
    """How the run ended, in one line."""
    spans = series.state_spans()
    if not spans:
        return "no tick was recorded"
    running = sum(b - a for s, a, b in spans if s in (State.RUNNING, State.HUMAN))
    held = sum(s is State.HOLD for s, _, _ in spans)
    faults = sum(s in (State.FAULT, State.ESTOP) for s, _, _ in spans)
    text = f"{running:.1f} s in motion of {series.seconds:.1f} s; {held} holds, {faults} faults or stops"
    return f"{text}; ended in {spans[-1][0].value}"


def facts(series: RunSeries) -> Iterator[tuple[str, str]]:
    """Short facts under the title."""
    yield from series.facts.items()
    yield "length", f"{series.seconds:.1f} s"
    yield "ticks", f"{len(series.time):,}"
    if np.isfinite(series.speed).any():
        yield "fastest setpoint", f"{np.nanmax(series.speed):.3f} m/s (limit {series.limits.speed:g})"
        yield "largest lead", f"{1e3 * np.nanmax(series.lead):.1f} mm (limit {1e3 * series.limits.lead:.0f})"
    if np.isfinite(series.force).any():
        yield "largest force", f"{np.nanmax(series.force):.1f} N (hold at {series.limits.force_hold:g})"


def bands(series: RunSeries) -> list[Band]:
    """Every state but the usual one."""
    return [Band(a, b, s.value) for s, a, b in series.state_spans() if s not in QUIET]


def state_rows(series: RunSeries) -> str:
    """One row a state."""
    found: dict[str, list[tuple[float, float]]] = {}
    for state, a, b in series.state_spans():
        found.setdefault(state.value, []).append((a, b))
    order = [s.value for s in State if s.value in found]
    return rows({n: found[n] for n in order}, series.seconds, {n: f"state-{n}" for n in order})


def _three(series: RunSeries, values: tuple[np.ndarray, ...], names: tuple[str, ...] = WHAT) -> list[Line]:
    lines = [
        Line(series.time, y, name, colour, dashed=name == "plan")
        for colour, (y, name) in enumerate(zip(values, names, strict=True))
    ]
    return [line for line in lines if np.isfinite(line.y).any()]


def motion_charts(series: RunSeries) -> Iterator[Chart]:
    """Position and rotation by axis, and the hand."""
    tracks: tuple[Track, ...] = (series.plan, series.emitted, series.measured)
    shaded = bands(series)
    box = series.limits.workspace
    for k, axis in enumerate("xyz"):
        lines = _three(series, tuple(t.position[:, k] for t in tracks))
        levels = {f"workspace {axis}": box.low[k], f"workspace {axis} ": box.high[k]}
        yield Chart(
            f"Tool {axis}", curves(lines, series.seconds, "m", bands=shaded, limits=_near(lines, levels), least=0.01)
        )
    turns = [series.turn(t) for t in tracks]
    for k, name in enumerate(ROTATION):
        lines = _three(series, tuple(t[:, k] for t in turns))
        if lines and max(float(np.nanmax(np.abs(line.y))) for line in lines) > 5e-3:
            yield Chart(f"Rotation {name}", curves(lines, series.seconds, "rad", bands=shaded), "from the first pose")
    widths = (series.width_plan, series.width_emitted, series.width_measured)
    if any(np.isfinite(w).any() for w in widths):
        yield Chart("Gripper", curves(_three(series, widths), series.seconds, "m", bands=shaded, zero=True), "width")


def _near(lines: list[Line], levels: dict[str, float], margin: float = 0.05) -> dict[str, float]:
    """Levels within 5 cm of the motion; far ones would only flatten the curves."""
    low = min((float(np.nanmin(line.y)) for line in lines), default=0.0) - margin
    high = max((float(np.nanmax(line.y)) for line in lines), default=0.0) + margin
    return {name: level for name, level in levels.items() if low <= level <= high}


def limit_charts(series: RunSeries) -> Iterator[Chart]:
    """Speed, acceleration, lead and force beside what they may be."""
    seconds, shaded, limits = series.seconds, bands(series), series.limits
    speeds = [Line(series.time, series.speed, "emitted", 1), Line(series.time, series.measured_speed, "measured", 2)]
    svg = curves(speeds, seconds, "m/s", bands=shaded, limits={"limit": limits.speed}, zero=True)
    yield Chart("Speed of the tool", svg, "Measured: over windows of 0.1 s.")
    lines = [Line(series.time, series.acceleration, "emitted", 1)]
    svg = curves(lines, seconds, "m/s²", bands=shaded, limits={"limit": limits.acceleration}, zero=True)
    yield Chart("Acceleration of the setpoint", svg, "A hold's stop target and DRAGGED ticks may exceed it.")
    lines = [Line(series.time, 1e3 * series.lead, "lead", 0)]
    svg = curves(lines, seconds, "mm", bands=shaded, limits={"limit": 1e3 * limits.lead}, zero=True)
    yield Chart("Setpoint ahead of the measured pose", svg)
    levels = {"slow": limits.force_slow, "hold": limits.force_hold}
    lines = [Line(series.time, series.force, "force", 0)]
    yield Chart("External force", curves(lines, seconds, "N", bands=shaded, limits=levels, zero=True))


def flag_charts(series: RunSeries) -> Iterator[Chart]:
    """When which flag was up."""
    found = series.flag_spans()
    if found:
        share = {n: sum(b - a for a, b in s) / max(series.seconds, 1e-9) for n, s in found.items()}
        named = {f"{n} ({100 * share[n]:.1f} %)": s for n, s in found.items()}
        yield Chart("Flags", rows(named, series.seconds), "Share of the run in brackets.")


def timing_charts(series: RunSeries) -> Iterator[Chart]:
    """Ages, periods of the control loop, latency of the policy."""
    t, shaded = series.timeouts, bands(series)
    limits = {
        "state": ("hard", t.state_hard),
        "loopback": ("hard", t.loopback_hard),
        "camera": ("hard", t.camera_hard),
        "operator": ("dead-man", t.dead_man),
    }
    for source, age in series.ages.items():
        name, level = limits.get(source, ("", np.inf))
        finite = Line(series.time, np.where(np.isfinite(age), 1e3 * age, np.nan), source, 0)
        svg = curves([finite], series.seconds, "ms", bands=shaded, limits={name: 1e3 * level}, zero=True, height=120)
        yield Chart(f"Age of the {source}", svg)
    if len(series.period) > 2:
        marks = {"late": 1e3 * t.tick_late}
        yield Chart("Periods of the control loop", histogram(1e3 * series.period[1:], "ms", marks), "counts")
    if len(series.latency):
        p95 = float(np.percentile(series.latency, 95))
        svg = histogram(1e3 * series.latency, "ms", {"p95": 1e3 * p95})
        yield Chart("Latency of the policy", svg, f"{len(series.latency)} chunks, from the asking to the chunk")
