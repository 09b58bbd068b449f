"""What the pages of fine-tuning share: success against environment steps, the end on fresh seeds, hashes, provenance.

Everything comes from the JSON file of a study (``finetune_gather``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from panels import dress, finish, panels

from robopolicy.core.intervals import Rate, quantile, wilson
from robopolicy.evaluation.intervals import Mean, mean_interval
from robopolicy.evaluation.suite_figure import COLOURS
from robopolicy.evaluation.suite_page import short, table

Run = dict[str, Any]
GRID = 25  # places along the steps at which seeds are averaged
SEEDS, EPISODES = 3, 100  # what the claims ask for at least


@dataclass(frozen=True)
class Series:
    """A line of the figure: what a method's evaluations call ``candidate``."""

    method: str
    candidate: str
    title: str


class Study:
    """The JSON file by cells."""

    def __init__(self, source: Path, series: Sequence[Series]) -> None:
        data = json.loads(source.read_text())
        self.settings, self.notes, self.bases = data["settings"], data["notes"], data["bases"]
        self.runs: list[Run] = data["runs"]
        present = {r["method"] for r in self.runs}
        self.series = [s for s in series if s.method in present]

    @property
    def methods(self) -> list[str]:
        """Measured, in the order of the series."""
        return list(dict.fromkeys(s.method for s in self.series))

    def title(self, method: str) -> str:
        """What a method is called: as its first series."""
        return next(s.title for s in self.series if s.method == method)

    def of(self, base: str, method: str) -> list[Run]:
        """Runs by seed."""
        return sorted((r for r in self.runs if (r["base"], r["method"]) == (base, method)), key=lambda r: r["seed"])

    def done(self, base: str, method: str) -> list[Run]:
        """Those that reached their budget and were measured on fresh seeds."""
        return [r for r in self.of(base, method) if r["final"] is not None]

    def base_rate(self, base: str) -> Rate | None:
        """Success of a base on fresh seeds."""
        return rate(self.bases[base]["final"])

    def end(self, base: str, method: str, key: str = "final") -> Mean:
        """Success at the end, over seeds and episodes."""
        mean = over_both([wins(run[key]) for run in self.done(base, method)])
        return replace(mean, low=max(mean.low, 0.0), high=min(mean.high, 1.0))

    def gain(self, base: str, method: str) -> Mean:
        """Over the base, which is one and the same measurement for all seeds."""
        before = wins(self.bases[base]["final"])
        return over_both([paired(wins(run["final"]), before) for run in self.done(base, method)])


def wins(final: dict[str, Any]) -> np.ndarray:
    """1 or 0 for every episode ``(n,)``."""
    return np.array([float(c) for c in final["successes"]])


def paired(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A less B, episode by episode; against the mean of B where an episode was lost on one side."""
    return a - b if len(a) == len(b) else a - b.mean()


def over_both(runs: list[np.ndarray]) -> Mean:
    """Mean of runs ``(n,)`` each, with what seeds and what episodes leave open added up as independent.

    Student's t over the runs' means takes the episodes as given, the normal interval over episodes (the same in every
    run, so averaged over runs first) takes the runs as given; neither alone is wide enough.
    """
    mean = mean_interval([float(r.mean()) for r in runs])
    if len(runs) < 2 or len({len(r) for r in runs}) > 1:
        return mean
    episodes = np.stack(runs).mean(0)
    noise = quantile(mean.confidence) * float(episodes.std(ddof=1)) / math.sqrt(len(episodes))
    half = math.hypot(mean.high - mean.mean, noise)
    return replace(mean, low=mean.mean - half, high=mean.mean + half)


def rate(final: dict[str, Any] | None) -> Rate | None:
    """Success of a final evaluation."""
    return None if final is None else wilson(final["successes"].count("1"), final["n"])


def point(p: dict[str, Any]) -> Rate:
    """Success of an evaluation along the way."""
    return wilson(p["successes"], p["n"])


def over(m: Mean, sign: bool = False) -> str:
    """``0.85 [0.71, 0.99]``; a mean of one seed has no interval."""
    form = "+.2f" if sign else ".2f"
    if m.n == 0:
        return "not measured"
    return f"{m.mean:{form}} (one seed)" if m.n == 1 else f"{m.mean:{form}} [{m.low:{form}}, {m.high:{form}}]"


def limits(study: Study) -> list[str]:
    """What is missing of a full study, one line each; empty when nothing is."""
    lines = []
    for base in study.bases:
        for method in study.methods:
            got = len(study.done(base, method))
            if got < SEEDS:
                lines.append(f"{base}, {study.title(method)}: {got} of {SEEDS} seeds are done.")
    least = min((p["n"] for r in study.runs for p in r["evals"]), default=0)
    if least < EPISODES:
        lines.append(f"Some points rest on {least} episodes, fewer than {EPISODES}.")
    return lines


def ends_table(study: Study) -> str:
    """The end on fresh seeds: bases, then methods with every seed."""
    rows = []
    for base in study.bases:
        before = study.base_rate(base)
        n = "-" if before is None else before.n
        rows.append([base, "base", "-" if before is None else short(before), "", "", n])
        for method in study.methods:
            runs = study.done(base, method)
            if runs:
                seeds = "; ".join(short(r) for run in runs if (r := rate(run["final"])) is not None)
                n = " + ".join(str(run["final"]["n"]) for run in runs)
                gain = over(study.gain(base, method), sign=True) if before else "-"
                rows.append([base, study.title(method), over(study.end(base, method)), gain, seeds, n])
    head = ["base", "", "success, mean over seeds", "more than the base", "each seed", "n"]
    return table(head, rows)


def curve_tables(study: Study) -> str:
    """Every point of every curve."""
    parts = []
    for base in study.bases:
        for s in study.series:
            rows = [
                [run["seed"], f"{p['env_steps']:,}", f"{p['updates']:,}", short(point(p)), p["n"]]
                for run in study.of(base, s.method)
                for p in run["evals"]
                if p["candidate"] == s.candidate
            ]
            if rows:
                head = ["seed", "environment steps", "updates", "success", "n"]
                parts.append(f"**{base}, {s.title}**\n\n{table(head, rows)}")
    return "\n\n".join(parts)


def hashes(study: Study, frozen: bool) -> str:
    """Whether the bases' weights are what they were; ``frozen``: the method keeps them in its own memory too."""
    rows = []
    for base, told in study.bases.items():
        runs = [r for r in study.runs if r["base"] == base and r["base_sha256"]]
        seen = {r["base_sha256"] for r in runs} | {told["sha256_now"]}
        held = {r["frozen_sha256"] for r in runs} if frozen else set()
        same = len(seen) == 1 and (not frozen or held == seen)
        now = "not run" if not runs else "**unchanged**" if same else "**CHANGED**"
        rows.append([base, f"`{str(told['sha256_now'])[:16]}`", len(runs), now])
    return table(["base", "SHA-256 of its weights", "runs", "before and after them"], rows)


def interpolated(runs: list[Run], candidate: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps ``(GRID,)`` and successes ``(runs, GRID)``, between evaluations along straight lines."""
    lines = []
    for run in runs:
        # At equal steps (before and after an offline stage) the later one counts.
        newest = {p["env_steps"]: point(p).rate for p in run["evals"] if p["candidate"] == candidate}
        if len(newest) > 1:
            lines.append((sorted(newest), [newest[x] for x in sorted(newest)]))
    if not lines:
        return np.zeros(0), np.zeros((0, 0))
    grid = np.linspace(0, min(xs[-1] for xs, _ in lines), GRID)
    return grid, np.stack([np.interp(grid, xs, ys) for xs, ys in lines])


def draw(study: Study, path: Path) -> None:
    """Success by environment step, one panel a base: every seed's points, the mean of the seeds, the base."""
    figure, all_axes = panels(len(study.bases))
    for axes, base in zip(all_axes, study.bases, strict=True):
        for number, series in enumerate(study.series):
            _curve(axes, study.of(base, series.method), series, COLOURS[number % len(COLOURS)])
        if (before := study.base_rate(base)) is not None:
            axes.axhspan(before.low, before.high, color="#888888", alpha=0.18, lw=0)
            axes.axhline(before.rate, color="#666666", lw=1.2, ls="--", label="base")
        dress(axes, base, "environment steps")
    finish(figure, all_axes, path, "success (95 % intervals)")


def _curve(axes: Any, runs: list[Run], series: Series, colour: str) -> None:
    for run in runs:
        found = [p for p in run["evals"] if p["candidate"] == series.candidate]
        rates = [point(p) for p in found]
        axes.errorbar(
            [p["env_steps"] for p in found],
            [r.rate for r in rates],
            yerr=[[r.rate - r.low for r in rates], [r.high - r.rate for r in rates]],
            fmt="o",
            ms=2.5,
            lw=0.6,
            color=colour,
            alpha=0.45,
        )
    grid, lines = interpolated(runs, series.candidate)
    if len(lines):
        means = [mean_interval(column.tolist()) for column in lines.T]
        axes.plot(grid, [m.mean for m in means], color=colour, lw=2, label=series.title)
        if len(lines) > 1:
            low, high = ([np.clip(getattr(m, k), 0, 1) for m in means] for k in ("low", "high"))
            axes.fill_between(grid, low, high, color=colour, alpha=0.13, lw=0)


def setup(study: Study) -> str:
    """What was done, in lines."""
    s = study.settings
    kwargs = f" {json.dumps(s['kwargs'])}" if s["kwargs"] else ""
    return f"""
Environment `{s["env"]}`{kwargs}; at most {s["max_env_steps"]:,} environment steps a run, warm-up episodes included.
Points along the way are {s["episodes"]} episodes each from the same seeds for all runs; they also choose the checkpoint
that is deployed.  The end is measured with {s["final_episodes"]} episodes from seeds {s["final_seed"]} up, which no run
has seen, bases and methods alike.  Intervals are 95 %: Wilson for one evaluation; for means over seeds, Student's t
over the seeds and the noise of the episodes (paired by their start) added up.
""" + "".join(f"\n* {line}" for line in study.notes.get("setup", []))


def made(study: Study, script: str) -> str:
    """Cost, versions, commands."""
    s, done = study.settings, [r for r in study.runs if r["final"] is not None]
    rows = [
        [r["base"], study.title(r["method"]), r["seed"], f"{r['env_steps']:,}", f"{r['episodes']:,}",
         f"{sum(r['updates'].values()):,}", f"{r['elapsed_s'] / 60:.0f}"]
        for r in done
    ]  # fmt: skip
    cost = table(["base", "", "seed", "environment steps", "episodes", "updates", "minutes"], rows)
    final = done[0]["final"] if done else {"git_commit": None, "versions": {}}
    told = ", ".join(f"{k} {v}" for k, v in final["versions"].items() if k in ("python", "torch", "numpy", "mujoco"))
    bases = " ".join(f"--base {name}={path}" for name, path in s["bases"].items())
    offline = "".join(f" --offline {name}={path}" for name, path in s["offline"].items())
    own = "".join(f' --of {name} "{options}"' for name, options in s["of"].items())
    more = f" -- {' '.join(s['options'])}" if s["options"] else ""
    budget = f"--max-env-steps {s['max_env_steps']} --episodes {s['episodes']} --final-episodes {s['final_episodes']}"
    place = s["env"] + (f" --kwargs '{json.dumps(s['kwargs'])}'" if s["kwargs"] else "")
    return f"""
## Where the numbers come from

Wall time of runs that shared their machine with others, collection and learning without evaluations:

{cost}

Commit {str(final["git_commit"])[:8]}; {told}.

```
python benchmarks/{script}.py run {bases}{offline} --env {place} {budget}{own} --out DIR{more}
python benchmarks/{script}.py gather DIR --out docs/results/{script}.json
python benchmarks/{script}.py page docs/results/{script}.json --out docs/results/{script}.md
```

One run of it: `robopolicy finetune PRESET --base PATH`; `base:` is the one line of YAML that changes the head.
Presets: {"; ".join(f"{name}: `{' '.join(words)}`" for name, words in s["presets"].items())}.
"""
