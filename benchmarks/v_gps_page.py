"""Writes docs/results/v_gps.md and its figure from docs/results/v_gps.json and nothing else, verdicts too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from panels import commit_of, dress, finish, panels

from robopolicy.core.intervals import Rate, wilson
from robopolicy.core.io import write_atomic
from robopolicy.evaluation.intervals import PairedComparison, paired_comparison
from robopolicy.evaluation.suite_figure import COLOURS
from robopolicy.evaluation.suite_page import short, table

Cell = dict[str, Any]
LEVEL = 0.05


class Study:
    """The JSON file by cells."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.settings, self.notes, self.cells = data["settings"], data["notes"], list(data["cells"])

    def of(self, critic: str, **tags: Any) -> list[Cell]:
        """Cells of a critic (or control) whose tags agree."""
        return [c for c in self.cells if c["critic"] == critic and all(c[k] == v for k, v in tags.items())]

    @property
    def base(self) -> Cell:
        """The base policy alone."""
        return self.of("base")[0]

    @property
    def critics(self) -> list[str]:
        """Names of the critics measured."""
        return list(dict.fromkeys(c["critic"] for c in self.cells if c["temperature"] is not None))

    def against_base(self, cell: Cell) -> PairedComparison:
        """Paired by episode."""
        return compared(self.base, cell)


def compared(a: Cell, b: Cell) -> PairedComparison:
    """B against A on the same seeds."""
    wins = [[c == "1" for c in cell["successes"]] for cell in (a, b)]
    return paired_comparison(wins[0], wins[1], a["max_reward"], b["max_reward"])


def rate(cell: Cell) -> Rate:
    """Success of a cell."""
    return wilson(cell["successes"].count("1"), cell["n"])


def signed(p: PairedComparison) -> str:
    """``+0.10 [+0.02, +0.18]``."""
    return f"{p.difference:+.2f} [{p.low:+.2f}, {p.high:+.2f}]"


def holm(p_values: list[float]) -> list[float]:
    """Adjusted p values (Holm 1979): each may be held against the level although all were looked at."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = worst
    return adjusted


def write_page(source: Path, out: Path) -> None:
    """Write the page at ``out`` and its figure beside it."""
    study = Study(json.loads(source.read_text()))
    draw(study, out.with_suffix(".png"))
    write_atomic(out, page(study))
    print(out)


def page(study: Study) -> str:
    """The whole page as markdown."""
    parts = [header(study), verdicts(study), controls(study), *(grid(study, c) for c in study.critics)]
    return "\n\n".join(p.strip() for p in [*parts, made(study), COMMANDS] if p) + "\n"


def header(study: Study) -> str:
    """What was done."""
    s = study.settings
    lines = "".join(f"\n* {line}" for line in study.notes.get("setup", []))
    return f"""
# V-GPS: does a critic choose better chunks than the policy itself?

Everything below is generated from [v_gps.json](v_gps.json) by `python benchmarks/v_gps.py page`.  Environment
`{s["env"]}`, every cell {s["episodes"]} episodes from seeds {s["base_seed"]} up, the same for all; intervals are 95 %
(Wilson for rates), differences are paired by episode, p values are McNemar's, and where many cells are compared at once
they are Holm-adjusted.  K candidates are drawn from one encoding; a temperature of 0 takes the best of them.
{lines}

![success by number of candidates](v_gps.png)
"""


def verdicts(study: Study) -> str:
    """What the numbers say, by rules that are written here."""
    asked = [c for c in study.cells if c["temperature"] is not None and c["count"] > 1]
    pairs = [study.against_base(c) for c in asked]
    adjusted = holm([p.p_value for p in pairs])
    better = [(c, p) for c, p, a in zip(asked, pairs, adjusted, strict=True) if a < LEVEL and p.difference > 0]
    worse = [(c, p) for c, p, a in zip(asked, pairs, adjusted, strict=True) if a < LEVEL and p.difference < 0]
    lines = [
        f"* Of {len(asked)} settings with a critic, **{len(better)} are better and {len(worse)} worse than the base "
        f"policy** at a family-wise level of {LEVEL:g}."
    ]
    for what, found in (("Best", better), ("Worst", worse)):
        if found:
            cell, pair = (max if what == "Best" else min)(found, key=lambda f: f[1].difference)
            lines.append(
                f"* {what}: {cell['critic']}, K={cell['count']}, temperature {cell['temperature']:g}: {signed(pair)}. "
                "The extreme of many cells is partly luck."
            )
    for critic in study.critics:
        few, many = (study.of(critic, count=k, temperature=0.0) for k in (10, 100))
        if few and many:
            pair = compared(few[0], many[0])
            said = "separated" if pair.separated else "not separated"
            lines.append(f"* Taking the best of 100 in place of 10 ({critic}): {signed(pair)}, {said}.")
    for cell in study.of("random"):
        pair = study.against_base(cell)
        if pair.separated:
            lines.append(f"* Random choice among {cell['count']} differs from the base: {signed(pair)}; it should not.")
    return "## What it shows\n\n" + "\n".join(lines)


def controls(study: Study) -> str:
    """Base, random choice, oracle choice."""
    rows = [["base policy", 1, short(rate(study.base)), "", study.base["n"]]]
    for critic, name in (("random", "random choice"), ("oracle", "oracle choice (simulator reset)")):
        rows += [
            [name, c["count"], short(rate(c)), signed(study.against_base(c)), c["n"]]
            for c in sorted(study.of(critic), key=lambda c: c["count"])
        ]
    text = "## Controls\n\n" + table(["choice", "K", "success", "minus base", "n"], rows)
    return text + "\n\n" + study.notes.get("oracle", "")


def grid(study: Study, critic: str) -> str:
    """Success of a critic by candidates and temperature."""
    mine = study.of(critic)
    rows = []
    for count in sorted({c["count"] for c in mine}):
        for cell in sorted((c for c in mine if c["count"] == count), key=lambda c: c["temperature"]):
            told = cell["told"]
            rows.append(
                [
                    count,
                    f"{cell['temperature']:g}",
                    short(rate(cell)),
                    signed(study.against_base(cell)),
                    f"{told['q_std']:.3g}" if "q_std" in told else "-",
                    f"{told['ess']:.1f}" if "ess" in told else "-",
                    cell["n"],
                ]
            )
    head = ["K", "temperature", "success", "minus base", "spread of Q", "effective K", "n"]
    report = study.notes.get("critics", {}).get(critic, [])
    return f"## Critic {critic}\n\n" + "".join(f"* {line}\n" for line in report) + "\n" + table(head, rows)


def made(study: Study) -> str:
    """Provenance."""
    commits = sorted({commit_of(c["git_commit"], study.notes) for c in study.cells})
    v = study.base["versions"]
    told = ", ".join(f"{k} {v[k]}" for k in ("python", "torch", "numpy", "mujoco") if k in v)
    return (
        f"## Where the numbers come from\n\nCommits {', '.join(commits)}; {told}.  What candidates cost is measured "
        "apart, on an idle machine ([benchmarks](../benchmarks.md)): these cells shared theirs with other work."
    )


COMMANDS = """
```
python benchmarks/v_gps.py run --policy BASE --critic iql=CRITIC --critic cal_ql=CRITIC --env ENV --out DIR
python benchmarks/v_gps.py gather DIR --out docs/results/v_gps.json
python benchmarks/v_gps.py page docs/results/v_gps.json --out docs/results/v_gps.md
```
"""


def draw(study: Study, path: Path) -> None:
    """Success by number of candidates, one panel a critic, one line a temperature; base and random choice beside."""
    critics = study.critics
    figure, all_axes = panels(len(critics))
    base = rate(study.base)
    for axes, critic in zip(all_axes, critics, strict=False):
        axes.axhspan(base.low, base.high, color="#e6e6e6", lw=0)
        axes.axhline(base.rate, color="#9a9a9a", lw=1, label="base")
        lines = [(f"temperature {t:g}", study.of(critic, temperature=t)) for t in (0.0, 0.1, 1.0)]
        lines += [("random", study.of("random")), ("oracle", study.of("oracle"))]
        for number, (label, found) in enumerate(lines):
            if not found:
                continue
            found = sorted(found, key=lambda c: c["count"])
            rates = [rate(c) for c in found]
            axes.errorbar(
                [c["count"] * 1.04 ** (number - 2) for c in found],
                [r.rate for r in rates],
                yerr=[[r.rate - r.low for r in rates], [r.high - r.rate for r in rates]],
                fmt="o-" if len(found) > 1 else "D",
                ms=4,
                lw=1.3,
                color=COLOURS[number],
                label=label,
            )
        axes.set_xscale("log")
        axes.set_xticks([1, 5, 10, 30, 100], ["1", "5", "10", "30", "100"])
        axes.minorticks_off()
        dress(axes, critic, "candidates K")
    finish(figure, all_axes, path)
