"""Charts over the time of a run as inline SVG: curves with limits over bands of state, rows of spans, histograms.

Drawn by hand, as ``datasets.view_svg`` is, because a run has tens of thousands of ticks: curves are thinned to what a
screen shows, the largest and smallest value of each piece kept, so that no spike is lost.  Colours are CSS classes
(``c0``..``c5``, ``band-STATE``), so that a page reads in light and dark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 960, 62, 10, 8, 22
POINTS = 900  # pieces that a curve is thinned to
ROW = 17  # px of a row of spans

Span = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Line:
    """One curve: ``x (T,)`` s, ``y (T,)`` with NaN where there is nothing; ``colour`` 0..5; ``dashed`` for a wish."""

    x: np.ndarray
    y: np.ndarray
    name: str
    colour: int = 0
    dashed: bool = False


@dataclass(frozen=True)
class Band:
    """A stretch of time behind the curves: ``kind`` is a CSS class ``band-KIND``."""

    start: float
    end: float
    kind: str


def curves(
    lines: Sequence[Line],
    seconds: float,
    unit: str,
    *,
    limits: Mapping[str, float] | None = None,
    bands: Sequence[Band] = (),
    height: int = 190,
    zero: bool = False,
    least: float = 1e-6,
) -> str:
    """Curves over 0..``seconds``; ``limits`` are dotted levels with a name; ``zero`` starts the scale at 0; it never
    spans less than ``least``, so that noise does not look like motion."""
    levels = dict(limits or {})
    low, high = _range([line.y for line in lines], levels.values(), zero, least)
    inside = _height(height)
    y_of = lambda v: TOP + (high - v) / (high - low) * inside
    parts = [_bands(bands, seconds, inside), _axes(low, high, seconds, height, unit)]
    for name, level in levels.items():
        if low <= level <= high:
            parts.append(
                f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_of(level):.1f}" y2="{y_of(level):.1f}" class="limit"/>'
                f'<text x="{WIDTH - RIGHT - 3}" y="{y_of(level) - 3:.1f}" text-anchor="end" class="limit-name">'
                f"{escape(name)} {level:.3g}</text>"
            )
    for line in lines:
        style = f"curve c{line.colour}" + (" dashed" if line.dashed else "")
        for points in _polylines(line, seconds, y_of):
            parts.append(f'<polyline points="{points}" class="{style}"><title>{escape(line.name)}</title></polyline>')
    return _svg(height, "".join(parts)) + _legend(lines)


def _range(values: Sequence[np.ndarray], levels: Iterable[float], zero: bool, least: float) -> tuple[float, float]:
    """Range of the data, with the limits that are near enough to matter."""
    finite = np.concatenate([v[np.isfinite(v)] for v in values] or [np.zeros(0)])
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    low = min(low, 0.0) if zero else low
    if (span := high - low) < least:
        span, low, high = least, (low if zero else low - (least - span) / 2), high + (least - span) / 2
    for level in levels:
        if low - 1.5 * span <= level <= high + 1.5 * span:
            low, high = min(low, level), max(high, level)
    pad = 0.06 * (high - low)
    return (low if zero and low == 0 else low - pad), high + pad


def _height(height: int) -> int:
    return height - TOP - BOTTOM


def _x(t: float, seconds: float) -> float:
    return LEFT + t / max(seconds, 1e-9) * (WIDTH - LEFT - RIGHT)


def _polylines(line: Line, seconds: float, y_of: Callable[[float], float]) -> list[str]:
    """Points of each unbroken piece."""
    good = np.isfinite(line.y) & np.isfinite(line.x)
    pieces, found = np.split(np.arange(len(line.y)), np.nonzero(np.diff(good.astype(int)))[0] + 1), []
    for piece in pieces:
        if len(piece) and good[piece[0]]:
            x, y = thinned(line.x[piece], line.y[piece], POINTS)
            found.append(" ".join(f"{_x(a, seconds):.1f},{y_of(b):.1f}" for a, b in zip(x, y, strict=True)))
    return found


def thinned(x: np.ndarray, y: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """At most about ``2 * points`` of the samples: the least and the largest of each piece, in their order."""
    if len(y) <= 2 * points:
        return x, y
    edges = np.linspace(0, len(y), points + 1).astype(int)
    keep = {0, len(y) - 1}
    for a, b in pairwise(edges.tolist()):
        keep |= {int(a + np.argmin(y[a:b])), int(a + np.argmax(y[a:b]))}
    index = np.array(sorted(keep))
    return x[index], y[index]


def _bands(bands: Sequence[Band], seconds: float, inside: int) -> str:
    parts = []
    for b in bands:
        x, end = _x(b.start, seconds), _x(b.end, seconds)
        parts.append(
            f'<rect x="{x:.1f}" y="{TOP}" width="{max(end - x, 0.8):.1f}" height="{inside}" class="band-{b.kind}">'
            f"<title>{b.kind}, {b.start:.2f} to {b.end:.2f} s</title></rect>"
        )
    return "".join(parts)


def _axes(low: float, high: float, seconds: float, height: int, unit: str) -> str:
    inside, bottom = _height(height), height - BOTTOM
    steps = ticks(low, high, 4)
    rows = "".join(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
        f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{value:.6g}</text>'
        for value in steps
        for y in (TOP + (high - value) / (high - low) * inside,)
    )
    label = f'<text x="4" y="{TOP + 9}" class="unit">{escape(unit)}</text>'
    return rows + label + _times(seconds, bottom, height)


def _times(seconds: float, bottom: float, height: float) -> str:
    marks = "".join(
        f'<line x1="{_x(t, seconds):.1f}" x2="{_x(t, seconds):.1f}" y1="{bottom}" y2="{bottom + 3}" class="tick"/>'
        f'<text x="{_x(t, seconds):.1f}" y="{height - 6}" text-anchor="middle">{t:.4g} s</text>'
        for t in ticks(0.0, max(seconds, 1e-6), 8)
        if t <= seconds * 0.97
    )
    return f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}" class="axis"/>{marks}'


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within the range, about ``count`` of them."""
    raw = (high - low) / max(count, 1)
    power = 10.0 ** np.floor(np.log10(raw))
    step = float(min(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.7))
    first = np.ceil(low / step - 1e-9)
    # Adding zero makes a negative zero a plain one.
    return [round(float(k * step), 10) + 0.0 for k in np.arange(first, np.floor(high / step + 1e-9) + 1)]


def _legend(lines: Sequence[Line]) -> str:
    items = "".join(
        f'<span><svg viewBox="0 0 20 6" class="key"><line x1="0" x2="20" y1="3" y2="3" '
        f'class="curve c{line.colour}{" dashed" if line.dashed else ""}"/></svg>{escape(line.name)}</span>'
        for line in lines
    )
    return f'<div class="legend">{items}</div>'


def _svg(height: float, inside: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{inside}</svg>'


def rows(spans: Mapping[str, Sequence[Span]], seconds: float, kinds: Mapping[str, str] | None = None) -> str:
    """One row a name with a bar for each span of time; ``kinds`` gives rows a CSS class, by default ``flag``."""
    left, height = 190, len(spans) * ROW + BOTTOM + 4
    x_of = lambda t: left + t / max(seconds, 1e-9) * (WIDTH - left - RIGHT)
    parts = []
    for i, (name, found) in enumerate(spans.items()):
        y = 4 + i * ROW
        kind = (kinds or {}).get(name, "flag")
        parts.append(f'<text x="{left - 8}" y="{y + 11}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<line x1="{left}" x2="{WIDTH - RIGHT}" y1="{y + 8}" y2="{y + 8}" class="grid"/>')
        for a, b in found:
            parts.append(
                f'<rect x="{x_of(a):.1f}" y="{y + 2}" width="{max(x_of(b) - x_of(a), 1.0):.1f}" height="{ROW - 6}" '
                f'class="{kind}"><title>{escape(name)}, {a:.2f} to {b:.2f} s</title></rect>'
            )
    bottom = height - BOTTOM
    for t in ticks(0.0, max(seconds, 1e-6), 7):
        if t <= seconds * 0.97:
            parts.append(f'<text x="{x_of(t):.1f}" y="{height - 6}" text-anchor="middle">{t:.4g} s</text>')
    parts.append(f'<line x1="{left}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}" class="axis"/>')
    return _svg(height, "".join(parts))


def histogram(
    values: np.ndarray, unit: str, marks: Mapping[str, float] | None = None, bins: int = 40, height: int = 170
) -> str:
    """Counts of ``values``; ``marks`` are vertical lines with a name."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    marks = dict(marks or {})
    high = max([float(values.max(initial=0.0)), *marks.values()]) * 1.04 or 1.0
    counts, edges = np.histogram(values, bins=bins, range=(min(0.0, float(values.min(initial=0.0))), high))
    most, inside, bottom = max(int(counts.max()), 1), _height(height), height - BOTTOM
    low, span = float(edges[0]), float(edges[-1] - edges[0])
    x_of = lambda v: LEFT + (v - low) / span * (WIDTH - LEFT - RIGHT)
    parts = [
        f'<text x="{LEFT - 6}" y="{TOP + 9}" text-anchor="end">{most}</text>'
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}" class="axis"/>'
    ]
    for n, a, b in zip(counts, edges[:-1], edges[1:], strict=True):
        tall = n / most * inside
        parts.append(
            f'<rect x="{x_of(a):.1f}" y="{bottom - tall:.1f}" width="{max(x_of(b) - x_of(a) - 1, 1):.1f}" '
            f'height="{tall:.1f}" class="bar"><title>{n} from {a:.3g} to {b:.3g} {escape(unit)}</title></rect>'
        )
    for name, value in marks.items():
        parts.append(
            f'<line x1="{x_of(value):.1f}" x2="{x_of(value):.1f}" y1="{TOP}" y2="{bottom}" class="limit"/>'
            f'<text x="{x_of(value) - 4:.1f}" y="{TOP + 9}" text-anchor="end" class="limit-name">'
            f"{escape(name)} {value:.3g}</text>"
        )
    for t in ticks(low, low + span, 8):
        parts.append(f'<text x="{x_of(t):.1f}" y="{height - 6}" text-anchor="middle">{t:.4g} {escape(unit)}</text>')
    return _svg(height, "".join(parts))
