"""Writes docs/results/sac.md and its figure from docs/results/sac.json and nothing else; verdicts are computed too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from panels import dress, finish, panels

from robopolicy.core.io import write_atomic
from robopolicy.evaluation.intervals import Mean, bootstrap_mean, mean_interval
from robopolicy.evaluation.suite_figure import COLOURS
from robopolicy.evaluation.suite_page import table

HEADER = """
# Soft actor-critic: ours against Stable-Baselines3

Everything below is generated from [sac.json](sac.json) by `python benchmarks/sac_parity.py page`.  It asks one
question: does the learner that DSRL is built on learn as well as a library that many have used?  One update with equal
weights, batch and noise agrees number for number (`tests/rl/test_sac_parity.py`); here each side trains on its own,
from its own initial weights and noise.

![returns by environment step](sac.png)
"""


def write_page(source: Path, out: Path) -> None:
    """Write the page at ``out`` and its figure beside it."""
    data: dict[str, Any] = json.loads(source.read_text())
    draw(data, out.with_suffix(".png"))
    parts = [HEADER, verdict(data), curves(data), by_seed(data), made(data)]
    write_atomic(out, "\n\n".join(p.strip() for p in parts) + "\n")
    print(out)


def sides(data: dict[str, Any]) -> list[str]:
    """Ours, then theirs."""
    return list(dict.fromkeys(r["side"] for r in data["runs"]))


def steps(data: dict[str, Any]) -> list[str]:
    """When returns were measured."""
    return list(data["runs"][0]["returns"])


def seed_means(data: dict[str, Any], side: str, step: str) -> list[float]:
    """Mean return of every seed."""
    return [float(np.mean(r["returns"][step])) for r in data["runs"] if r["side"] == side]


def over_seeds(data: dict[str, Any], side: str, step: str) -> Mean:
    """Mean over seeds with Student's t interval."""
    return mean_interval(seed_means(data, side, step))


def overlap(a: Mean, b: Mean) -> bool:
    """Whether two intervals share a value."""
    return a.low <= b.high and b.low <= a.high


def told(m: Mean) -> str:
    """``-140 [-180, -100]``."""
    return f"{m.mean:.0f} [{m.low:.0f}, {m.high:.0f}]"


def verdict(data: dict[str, Any]) -> str:
    """Overlap at the end, and along the way."""
    ours, theirs = sides(data)
    last = steps(data)[-1]
    a, b = (over_seeds(data, side, last) for side in (ours, theirs))
    boots = [bootstrap_mean(seed_means(data, side, last)) for side in (ours, theirs)]
    said = "overlap" if overlap(a, b) else "**do not overlap: one side learns better**"
    ahead = ours if boots[0].mean > boots[1].mean else theirs
    resampled = "overlap" if overlap(*boots) else f"do not overlap: {ahead} is ahead by this measure"
    apart = [s for s in steps(data)[:-1] if not overlap(over_seeds(data, ours, s), over_seeds(data, theirs, s))]
    widest = max(m.high - m.low for m in (a, b))
    lines = [
        f"After {int(last):,} steps: {ours} {told(a)}, {theirs} {told(b)} (mean over {a.n} and {b.n} seeds of the "
        f"return of {data['settings']['episodes']} episodes each, 95 % t intervals). The intervals {said}.",
        f"Percentile bootstrap over seeds (narrower than it should be for so few): {told(boots[0])} and "
        f"{told(boots[1])}, which {resampled}.",
        f"Earlier evaluations at which the t intervals do not overlap: {', '.join(apart) or 'none'}.",
        f"Intervals over {a.n} seeds are wide (up to {widest:.0f} here), so overlap says that nothing is badly wrong, "
        "not that the two are equal; the agreement of single updates is the sharper test.",
    ]
    return "## What it shows\n\n" + "\n".join(f"* {line}" for line in lines)


def curves(data: dict[str, Any]) -> str:
    """Both sides by step."""
    rows = [[f"{int(s):,}", *(told(over_seeds(data, side, s)) for side in sides(data))] for s in steps(data)]
    return "Mean return over seeds:\n\n" + table(["environment steps", *sides(data)], rows)


def by_seed(data: dict[str, Any]) -> str:
    """The last evaluation, each seed with its episodes."""
    last, rows = steps(data)[-1], []
    for run in data["runs"]:
        episodes = mean_interval(run["returns"][last])
        rows.append([run["side"], run["seed"], told(episodes), episodes.n, f"{run['cpu_s']:.0f}"])
    return "Each seed at the end (intervals over its episodes):\n\n" + table(
        ["", "seed", "return", "n", "CPU seconds"], rows
    )


def made(data: dict[str, Any]) -> str:
    """Settings, versions, commands."""
    s = data["settings"]
    versions = ", ".join(f"{k} {v}" for k, v in data["versions"].items())
    return f"""
## Where the numbers come from

Gymnasium's `{data["task"]}`; {s["steps"]:,} steps a seed, the first {s["warmup"]} at random, then one update of
{s["batch"]} transitions a step; two critics and an actor of {" x ".join(map(str, s["hidden"]))}, learning rates
{s["lr"]:g}, discount {s["gamma"]:g}, slow critics at {s["polyak"]:g}, entropy target minus the number of actions, on
both sides.  Evaluation: {s["episodes"]} episodes from the same seeds, without noise.  Versions: {versions}.

```
python benchmarks/sac_parity.py run --out DIR
python benchmarks/sac_parity.py gather DIR --out docs/results/sac.json
python benchmarks/sac_parity.py page docs/results/sac.json --out docs/results/sac.md
```
"""


def draw(data: dict[str, Any], path: Path) -> None:
    """Returns by step: every seed thin, the mean with its interval thick."""
    figure, (axes,) = panels(1)
    for side, colour in zip(sides(data), COLOURS, strict=False):
        when = [int(s) for s in steps(data)]
        means = [over_seeds(data, side, s) for s in steps(data)]
        for run in (r for r in data["runs"] if r["side"] == side):
            axes.plot(when, [np.mean(run["returns"][s]) for s in steps(data)], color=colour, lw=0.7, alpha=0.4)
        axes.plot(when, [m.mean for m in means], color=colour, lw=2, marker="o", ms=4, label=side)
        axes.fill_between(when, [m.low for m in means], [m.high for m in means], color=colour, alpha=0.15, lw=0)
    dress(axes, data["task"], "environment steps")
    finish(figure, [axes], path, "return (95 % t intervals over seeds)", limits=None)
