"""Writes docs/results/deploy.md and its figure from docs/results/deploy.json and nothing else; films an episode."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from panels import dress

from robopolicy.core.intervals import Rate, wilson
from robopolicy.core.io import write_atomic
from robopolicy.evaluation.intervals import paired_comparison
from robopolicy.evaluation.suite_figure import save_png
from robopolicy.evaluation.suite_page import short, table

Cell = dict[str, Any]
ORDER = ("plain", "driver", "sync_200", "receding_200", "async_200", "rtc_200")
TITLES = {
    "plain": "embedded simulation",
    "driver": "driver and twin, no latency",
    "sync_200": "200 ms, waits (sync)",
    "receding_200": "200 ms, receding",
    "async_200": "200 ms, async",
    "rtc_200": "200 ms, async and real-time chunking",
}
KINDS = (("actions_", "Distances between executed actions"), ("", "Steps of the plan's reference"))
COLOURS = {"inside": "#8a97a6", "borders": "#c8553d"}
FILM_EVERY, FILM_FPS = 5, 20.0  # ticks of 10 ms between two pictures; pictures a second

HEADER = """
# From simulation to the arm's driver

Everything below is generated from [deploy.json](deploy.json) by `python benchmarks/deploy.py page`.  A policy is taught
on demonstrations of the embedded simulation (an arm slowed down to {taught:g} m/s) and then drives the twin through
gateway, driver and safety filter over a real websocket, in lock-step: time is virtual, so the injected latency is exact
and a busy machine changes nothing.  The twin is a MuJoCo Panda under the {controller} impedance law, not an arm: these
rates say what the software costs, not what a robot will do.  Every cell runs the same {n} seeds; intervals are 95 %
(Wilson), differences are paired by seed (Bonett and Price) against the embedded simulation.

The safety limits are set to {speed:g} m/s (default 0.10, hard cap 0.25), the arm's latency to {arm:g} s, and an
action's target counts as reached {follows:g} s after its date, as measured on the demonstrations.  Two
measures say how smoothly chunks follow each other: the distance between consecutive actions that were executed (at a
border up to two periods lie between them), and how far the plan's reference goes in one action period, which the
speed limit cuts off at 10 mm.  Differences of their 99th percentiles have bootstrap intervals over episodes.
Real-time chunking leaves out the network's Jacobian and pulls with up to as many parts as there are solver steps (10).

![success, and steps from action to action, by way of execution](deploy.png)

<video controls muted src="../deploy.mp4" width="480"></video>

*An episode of the last cell, seed 200001, as the driver's camera saw it.*
"""


def write_page(source: Path, out: Path) -> None:
    """Write the page at ``out`` and its figure beside it."""
    data = json.loads(source.read_text())
    heads = sorted({c["head"] for c in data["cells"]}, reverse=True)
    cells = {(c["head"], c["cell"]): c for c in data["cells"]}
    draw(heads, cells, out.with_suffix(".png"))
    s = data["settings"]
    intro = HEADER.format(
        taught=s["options"]["speed"],
        controller=s["controller"],
        n=max(c["n"] for c in data["cells"]),
        speed=s["limits"]["speed"],
        arm=s["arm_latency"],
        follows=s["follows"],
    )
    parts = [intro, verdicts(heads, cells), *(section(h, cells) for h in heads), made(data)]
    write_atomic(out, "\n\n".join(p.strip() for p in parts if p) + "\n")
    print(out)


def rate(cell: Cell) -> Rate:
    """Success of a cell."""
    return wilson(cell["successes"].count("1"), cell["n"])


def against(plain: Cell, cell: Cell) -> str:
    """``-0.02 [-0.10, +0.06]``: the cell less the simulation, seed by seed."""
    n = min(plain["n"], cell["n"])
    a, b = ([c == "1" for c in x["successes"][:n]] for x in (plain, cell))
    found = paired_comparison(a, b)
    return f"{found.difference:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def overlap(a: Rate, b: Rate) -> bool:
    """Whether two intervals share a point."""
    return a.low <= b.high and b.low <= a.high


def verdicts(heads: list[str], cells: dict[tuple[str, str], Cell]) -> str:
    """What the figures say of the two claims, computed."""
    lines = []
    for head in heads:
        plain = cells.get((head, "plain"))
        if plain is None:
            continue
        for name in ("driver", "async_200", "rtc_200"):
            cell = cells.get((head, name))
            if cell is None:
                continue
            kept = "overlaps" if overlap(rate(plain), rate(cell)) else "does not overlap"
            line = f"- {head}, {TITLES[name]}: {rate(cell)}; the interval {kept} with the simulation's, {rate(plain)}"
            if name == "rtc_200":
                line += "".join(f". {smoothness(cell, kind, what)}" for kind, what in KINDS)
            lines.append(line + ".")
    return "\n".join(lines)


def section(head: str, cells: dict[tuple[str, str], Cell]) -> str:
    """Two tables of a head: outcomes, and what the execution did."""
    plain, outcomes, smooth = cells.get((head, "plain")), [], []
    for name in ORDER:
        cell = cells.get((head, name))
        if cell is None:
            continue
        solved = [t for t, ok in zip(cell["seconds"], cell["successes"], strict=True) if ok == "1"]
        median = f"{np.median(solved):.1f} s" if solved else "-"
        difference = "" if plain is None or name == "plain" else against(plain, cell)
        outcomes.append([TITLES[name], short(rate(cell)), cell["n"], difference, median])
        if "borders_mm" in cell:
            smooth.append([TITLES[name], *distances(cell), *counts(cell)])
    first = table(["", "success", "n", "less the simulation", "time to success, median"], outcomes)
    second = table(
        [
            "",
            "actions p99, in chunk / border, mm",
            "reference p99, the same",
            "borders",
            "starved",
            "held",
            "cut off as too fast",
            "fastest, m/s",
        ],
        smooth,
    )
    ends = "; ".join(
        f"{TITLES[name]}: " + ", ".join(f"{why} {n}" for why, n in cells[head, name]["ends"].items())
        for name in ORDER
        if (head, name) in cells
    )
    flags = "; ".join(
        f"{TITLES[name]}: "
        + ", ".join(f"{flag} {n}" for flag, n in sorted(cells[head, name]["flags"].items()))
        + f" of {cells[head, name]['ticks']} ticks"
        for name in ORDER
        if "flags" in cells.get((head, name), {})
    )
    return f"## {head}\n\n{first}\n\n{second}\n\nHow episodes ended. {ends}.\n\nFlags of the safety filter. {flags}."


def smoothness(cell: Cell, kind: str, what: str) -> str:
    """Whether steps across borders are larger than those inside, and by how much."""
    inside, border, less = cell[f"{kind}inside_mm"], cell[f"{kind}borders_mm"], cell[f"{kind}less_mm"]
    says = "no larger than" if border["p99"] <= inside["p99"] else "larger than"
    return (
        f"{what} from chunk to chunk at p99, {border['p99']:.2f} mm (n = {border['n']}), are {says} those within "
        f"chunks, {inside['p99']:.2f} mm (n = {inside['n']}): {less['p99']:+.2f} "
        f"[{less['low']:+.2f}, {less['high']:+.2f}]"
    )


def distances(cell: Cell) -> list[str]:
    """p99 of both kinds of steps inside chunks and across their borders, and how many borders."""
    found = []
    for kind, _ in KINDS:
        inside, borders = cell[f"{kind}inside_mm"], cell[f"{kind}borders_mm"]
        found.append(" / ".join(f"{d['p99']:.2f}" if d["n"] else "-" for d in (inside, borders)))
    return [*found, str(cell["actions_borders_mm"]["n"])]


def counts(cell: Cell) -> list[str]:
    """Starvations, holds, chunks of which something was cut off for speed, fastest tool."""
    return [str(cell["counters"].get("starved", 0)), str(cell["held"]), str(cell["dropped"]), f"{cell['fastest']:.3f}"]


def made(data: dict[str, Any]) -> str:
    """How, in one paragraph."""
    notes, versions = data["notes"], data["machine"]["versions"]
    told = " ".join(f"{key}: {value}." for key, value in notes.items())
    packages = ", ".join(f"{k} {versions[k]}" for k in ("robopolicy", "torch", "mujoco", "numpy"))
    return f"## How this was made\n\n{told} Seeds from {data['base_seed']} up. {packages}.".replace("  ", " ")


def draw(heads: list[str], cells: dict[tuple[str, str], Cell], path: Path) -> None:
    """Success with its interval, and the larger steps inside chunks and across borders, by cell."""
    figure = Figure(figsize=(9.6, 3.4 * len(heads)), layout="constrained", dpi=120)
    axes = figure.subplots(len(heads), 2, squeeze=False).ravel()
    for axis, smooth, head in zip(axes[::2], axes[1::2], heads, strict=True):
        axis.set_ylabel("success (95 % Wilson intervals)")
        names = [name for name in ORDER if (head, name) in cells]
        dress(axis, f"{head}: success", "")
        dress(smooth, "step from action to action, p99, mm", "")
        for i, name in enumerate(names):
            cell = cells[head, name]
            r = rate(cell)
            colour = COLOURS["inside"] if name == "plain" else COLOURS["borders"]
            axis.errorbar(i, r.rate, [[r.rate - r.low], [r.high - r.rate]], fmt="o", color=colour, capsize=3)
            for part, colour in COLOURS.items():
                if name != "plain":
                    label = {"inside": "inside a chunk", "borders": "where one replaces another"}[part]
                    height = cell[f"actions_{part}_mm"]["p99"]
                    smooth.bar(i + (0.2 if part == "borders" else -0.2), height, 0.36, color=colour, label=label)
        for each in (axis, smooth):
            each.set_xticks(range(len(names)), [n.replace("_200", "\n200 ms") for n in names], fontsize=8)
        axis.set_ylim(0, 1.03)
        handles, labels = smooth.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        smooth.legend(unique.values(), unique.keys(), frameon=False, fontsize=8, loc="upper left")
        smooth.set_xlim(0.4, len(names) - 0.4)
        smooth.set_ylim(0, 1.3 * smooth.get_ylim()[1])
    save_png(figure, path)


def write_film(play: Callable[[Callable[[Any], None]], dict[str, Any]], out: Path) -> None:
    """Play an episode and write what its camera ``front`` sent, as the driver saw it."""
    from robopolicy.evaluation.video import VideoWriter
    from robopolicy.real_robot.control.observations import NoSnapshot
    from robopolicy.real_robot.driver.pictures import decode

    pictures: dict[float, np.ndarray] = {}

    def look(episode: Any) -> None:
        if len(episode.records) % FILM_EVERY == 0:
            seen = episode.driver.snapshot()
            if not isinstance(seen, NoSnapshot):
                frame = seen.frames["front"][-1]
                pictures[frame.time] = decode(frame)

    play(look)
    with VideoWriter(out, fps=FILM_FPS) as film:
        for picture in pictures.values():
            film.add(picture)
