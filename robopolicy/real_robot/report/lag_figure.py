"""The figure of a calibration: what was commanded, what was measured, and the two laid over each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from robopolicy.real_robot.calibration import Lag

COMMAND, MEASURED, SHIFTED = "#0f6b8f", "#c2571a", "#16784a"


class Seen(Protocol):
    """What was watched along one axis and of the hand; seconds and metres."""

    axis: int
    times: list[float]
    commanded: list[float]
    seen_at: list[float]
    measured: list[float]
    width_at: list[float]
    width: list[float]
    asked_at: list[float]


def write_figure(out: Path, seen: Seen, arm: Lag, hand: Lag | None) -> Path:
    """Write a PNG to ``out``: the arm above, the hand below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6 if hand is not None else 3.4), layout="constrained")
    axes: Any = figure.subplots(2 if hand is not None else 1, 1, squeeze=False)[:, 0]
    origin = seen.times[0]
    at, when = np.array(seen.times) - origin, np.array(seen.seen_at) - origin
    top = axes[0]
    top.plot(at, 1e3 * np.array(seen.commanded), color=COMMAND, lw=1.2, label="commanded")
    top.plot(when, 1e3 * np.array(seen.measured), color=MEASURED, lw=1.2, label="measured")
    top.plot(
        *(when - arm.seconds, 1e3 * np.array(seen.measured)),
        **{"color": SHIFTED, "lw": 1.0, "ls": "--", "label": f"measured, {1e3 * arm.seconds:.0f} ms earlier"},
    )
    moving = at[np.abs(np.array(seen.commanded) - seen.commanded[-1]) > 1e-4]
    top.set_xlim(float(at[0]), float(moving[-1]) + 1.5 if len(moving) else float(at[-1]))
    axis = "xyz"[seen.axis]
    top.set(
        ylabel=f"tool {axis}, mm", title=f"arm: {1e3 * arm.seconds:.0f} ms behind, correlation {arm.correlation:.4f}"
    )
    if hand is not None:
        below = axes[1]
        below.plot(np.array(seen.width_at) - origin, 1e3 * np.array(seen.width), color=MEASURED, lw=1.2, label="width")
        for k, asked in enumerate(seen.asked_at):
            below.axvline(asked - origin, color=COMMAND, lw=0.8, label="asked" if k == 0 else None)
        title = f"hand: begins {1e3 * hand.seconds:.0f} ms after it is asked (median of {hand.samples})"
        below.set(ylabel="width, mm", title=title, xlim=_around(seen.asked_at, origin))
    for a in axes:
        a.set_xlabel("s")
        a.grid(alpha=0.3)
        a.legend(frameon=False, fontsize=9, loc="center right" if a is not top else "upper right")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    return out


def _around(asked: Sequence[float], origin: float) -> tuple[float, float]:
    return asked[0] - origin - 1.0, asked[-1] - origin + 2.5
