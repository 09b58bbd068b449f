"""Small line and bar charts as SVG text, light enough for hundreds on one page and without a plotting library."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

# Eight hues that stay apart for colour-blind readers (Okabe and Ito's set); a chart has at most as many curves.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c6d31", "#333333")
LEFT, BOTTOM, TOP, RIGHT = 54, 20, 8, 8


def lines(values: np.ndarray, names: Sequence[str], fps: float, width: int = 460, height: int = 170) -> str:
    """Curves of ``values`` (T, D) over seconds, one colour a channel, with a legend that names them."""
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    x = LEFT + np.arange(len(values)) * (width - LEFT - RIGHT) / max(1, len(values) - 1)
    y = TOP + (high - values) / (high - low) * (height - TOP - BOTTOM)
    curves = [
        f'<polyline points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y[:, d], strict=True))}" fill="none" '
        f'stroke="{_colour(d)}" stroke-width="1.3"><title>{escape(name)}</title></polyline>'
        for d, name in enumerate(names)
    ]
    seconds = (len(values) - 1) / fps
    return _frame(width, height, low, high, seconds, "".join(curves)) + _legend(names)


def _colour(d: int) -> str:
    return PALETTE[d % len(PALETTE)]


def _frame(width: int, height: int, low: float, high: float, seconds: float, inside: str) -> str:
    bottom = height - BOTTOM
    grid = "".join(
        f'<line x1="{LEFT}" x2="{width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
        f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>'
        for value, y in ((high, TOP), ((high + low) / 2, (TOP + bottom) / 2), (low, bottom))
    )
    times = "".join(
        f'<text x="{LEFT + share * (width - LEFT - RIGHT):.1f}" y="{height - 5}" text-anchor="{anchor}">'
        f"{share * seconds:.1f} s</text>"
        for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end"))
    )
    return f'<svg viewBox="0 0 {width} {height}" role="img">{grid}{times}{inside}</svg>'


def _legend(names: Sequence[str]) -> str:
    items = "".join(
        f'<span><svg viewBox="0 0 18 6" class="key"><line x1="0" x2="18" y1="3" y2="3" stroke="{_colour(d)}" '
        f'stroke-width="2"/></svg>{escape(name)}</span>'
        for d, name in enumerate(names)
    )
    return f'<div class="legend">{items}</div>'


def length_bars(lengths: Sequence[tuple[int, int]], width: int = 940, height: int = 150) -> str:
    """One bar an episode, (id, frames) each, with id and length as tooltip."""
    most = max(n for _, n in lengths)
    step = min(40.0, (width - LEFT - RIGHT) / len(lengths))
    bottom = height - BOTTOM
    bars = ""
    for k, (index, n) in enumerate(lengths):
        tall = n / most * (bottom - TOP)
        place = f'x="{LEFT + k * step:.2f}" y="{bottom - tall:.2f}" width="{max(step * 0.85, 0.4):.2f}"'
        bars += f'<rect {place} height="{tall:.2f}"><title>episode {index}: {n} frames</title></rect>'
    labels = (
        f'<text x="{LEFT - 5}" y="{TOP + 6}" text-anchor="end">{most}</text>'
        f'<text x="{LEFT - 5}" y="{bottom}" text-anchor="end">0</text>'
        f'<text x="{LEFT}" y="{height - 5}">episode {lengths[0][0]}</text>'
        f'<text x="{max(LEFT + 160, LEFT + len(lengths) * step)}" y="{height - 5}" text-anchor="end">'
        f"episode {lengths[-1][0]}</text>"
    )
    return f'<svg viewBox="0 0 {width} {height}" role="img" class="bars">{bars}{labels}</svg>'
