"""The figure of docs/results/heads.md: success against time, steps, observation horizon and camera angle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from heads_study import HEADS, HORIZONS, STEPS, YAWS

from robopolicy.evaluation.intervals import wilson

if TYPE_CHECKING:
    from heads_page import Study

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = dict(zip((*HEADS, "rgb"), plt.get_cmap("tab10").colors, strict=False))
SHORT = {
    "diffusion": "Diffusion Policy",
    "flow": "flow matching",
    "beso": "BESO",
    "ebt": "EBT",
    "seed_policy": "SeedPolicy",
    "diffuser_actor_3d": "3D Diffuser Actor",
    "rgb": "Diffusion Policy, RGB",
}


def draw(study: Study, path: Path) -> None:
    """Write the PNG."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    for head in HEADS:
        cells = [(s, c) for s in STEPS if (c := study.one("a", head=head, steps=s))]
        _line(axes[0, 0], [c["ms"]["p50"] for _, c in cells], [c for _, c in cells], head)
        _line(axes[0, 1], [s for s, _ in cells], [c for _, c in cells], head)
    for head in ("diffusion", "seed_policy"):
        cells = [(n, c) for n in HORIZONS if (c := study.one("c", head=head, n_obs_steps=n))]
        _line(axes[1, 0], [n for n, _ in cells], [c for _, c in cells], head)
    for head in ("diffuser_actor_3d", "rgb"):
        cells = [(y, c) for y in YAWS if (c := study.one("d", head=head, yaw=y))]
        _line(axes[1, 1], [y for y, _ in cells], [c for _, c in cells], head)
    titles = ("a. milliseconds a chunk (one thread)", "a. denoising or refinement steps")
    for axis, title in zip(
        axes.flat, (*titles, "c. observations in the window", "d. camera turned by, degrees"), strict=True
    ):
        axis.set(title=title, ylim=(-0.02, 1.02), ylabel="success")
        axis.grid(alpha=0.3)
    for axis in axes[0]:
        axis.set_xscale("log")
    axes[1, 0].axhline(0.5, color="grey", lw=1, ls=":")
    axes[0, 1].legend(fontsize=8, loc="lower right")
    axes[1, 0].legend(fontsize=8)
    axes[1, 1].legend(fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _line(axis: Any, x: list[float], cells: list[dict[str, Any]], head: str) -> None:
    if not cells:
        return
    rates = [wilson(c["successes"].count("1"), c["n"]) for c in cells]
    low = [r.rate - r.low for r in rates]
    high = [r.high - r.rate for r in rates]
    style = {"marker": "o", "ms": 4, "capsize": 2, "lw": 1.5}
    axis.errorbar(x, [r.rate for r in rates], [low, high], color=COLOURS[head], label=SHORT[head], **style)
