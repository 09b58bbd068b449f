"""Figures of several panels side by side, dressed alike: one scale up the side, one legend under all."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from robopolicy.evaluation.suite_figure import save_png

WIDE = 44  # letters of a title's line that fit above one panel


def panels(count: int) -> tuple[Figure, list[Any]]:
    """A figure with ``count`` axes (at least one) that share the side."""
    figure = Figure(figsize=(4.2 * max(count, 1), 3.4), layout="constrained", dpi=120)
    return figure, list(figure.subplots(1, max(count, 1), sharey=True, squeeze=False)[0])


def dress(axes: Any, title: str, across: str) -> None:
    """Title, name of the axis, and as few lines as possible."""
    axes.set_title("\n".join(textwrap.wrap(title, WIDE)), fontsize=10)
    axes.set_xlabel(across)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#eeeeee", lw=0.8)
    axes.set_axisbelow(True)


def commit_of(recorded: str | None, notes: dict[str, Any]) -> str:
    """The commit in words: what the records say, else what the notes do (a copy of the tree has no repository)."""
    return str(recorded or notes.get("commit") or "not recorded")[:12]


def finish(
    figure: Figure,
    all_axes: list[Any],
    path: Path,
    side: str = "success (95 % Wilson intervals)",
    limits: tuple[float, float] | None = (-0.02, 1.02),
) -> None:
    """Name the side, put one legend under all, write the file."""
    all_axes[0].set_ylabel(side)
    if limits is not None:
        all_axes[0].set_ylim(*limits)
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside lower center", ncols=6)
    save_png(figure, path)
