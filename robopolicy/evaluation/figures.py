"""Figures of the report as inline SVG that follow the page's colours (light and dark) and fonts.

Drawn by matplotlib with stand-in colours, which are then replaced by CSS variables; ids get a prefix of their own so
that several figures can live in one page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

INK, GRID, FIRST, SECOND = "#010203", "#040506", "#070809", "#0a0b0c"
CSS = {INK: "var(--dim)", GRID: "var(--line)", FIRST: "var(--accent)", SECOND: "var(--second)"}
SIZE = (6.4, 2.9)  # inches; the page scales it


@dataclass(frozen=True)
class Curve:
    """One line: ``x`` and ``y`` of equal length, an optional band, and how it is drawn."""

    x: Sequence[float]
    y: Sequence[float]
    label: str = ""
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    colour: str = FIRST
    faint: bool = False


def line_figure(
    name: str,
    curves: Sequence[Curve],
    xlabel: str,
    ylabel: str,
    log: bool = False,
    limits: tuple[float, float] | None = None,
) -> str:
    """SVG text of a line plot; ``name`` is its accessible title, unique in the page."""
    salt = re.sub(r"\W+", "-", name.lower())
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 10}):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        for curve in curves:
            _draw(axes, curve)
        _dress(axes, xlabel, ylabel, log, limits)
        if sum(bool(c.label) for c in curves) > 1:
            axes.legend(frameon=False, labelcolor=INK, fontsize=9)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), name, salt)


def _draw(axes: Any, curve: Curve) -> None:
    few = len(curve.x) < 40
    style = {"lw": 1.0, "alpha": 0.35} if curve.faint else {"lw": 1.8, "marker": "o" if few else None, "ms": 4}
    axes.plot(curve.x, curve.y, color=curve.colour, label=curve.label or None, solid_joinstyle="round", **style)
    if curve.low is None or curve.high is None:
        return
    if len(curve.x) > 1:
        axes.fill_between(curve.x, curve.low, curve.high, color=curve.colour, alpha=0.18, lw=0)
    else:
        axes.vlines(curve.x, curve.low, curve.high, color=curve.colour, lw=1.8)


def _dress(axes: Any, xlabel: str, ylabel: str, log: bool, limits: tuple[float, float] | None) -> None:
    axes.set_xlabel(xlabel, color=INK)
    axes.set_ylabel(ylabel, color=INK)
    axes.tick_params(which="both", colors=INK, length=0, pad=5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if log:
        axes.set_yscale("log")
    if limits is not None:
        axes.set_ylim(*limits)


def _inline(svg: str, name: str, salt: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(
        r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL
    )  # its style would reach the page
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{salt}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{salt}-\1)", svg)
    svg = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{salt}-\1"', svg)
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{name}">', svg, count=1
    )
    for colour, variable in CSS.items():
        svg = svg.replace(colour, variable)
    # The page's own font; sizes stay.
    return re.sub(r"font: (\d+)px[^;\"]*", r"font-size: \1px", svg)


def smoothed(values: Sequence[float], span: int) -> list[float]:
    """Centred running mean over about ``span`` points, shorter at the ends; keeps the length."""
    y = np.asarray(values, np.float64)
    half = max(min(span, len(y)) // 2, 0)
    total = np.concatenate([[0.0], np.cumsum(y)])
    index = np.arange(len(y))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(y))
    return list((total[high] - total[low]) / (high - low))
