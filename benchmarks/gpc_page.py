"""Writes docs/results/gpc.md and its figure from docs/results/gpc.json and nothing else; verdicts are computed too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from panels import commit_of, dress, finish, panels

from robopolicy.core.intervals import Rate, wilson
from robopolicy.core.io import write_atomic
from robopolicy.evaluation.suite_page import short, table

SEARCHED, REPORTED, GUESSED = "#8a97a6", "#c8553d", "#4f8a4c"
Pair = dict[str, Any]

HEADER = """
# GPC: do two policies together do better than the better one?

Everything below is generated from [gpc.json](gpc.json) by `python benchmarks/gpc.py page`.  For each pair every weight
was tried on search seeds; the best one and both parents then ran on report seeds that the search never saw.  Intervals
are 95 % (Wilson for rates), differences are paired by episode, p values are McNemar's.  The numbers of a search are no
result: the best of eleven cells looks better than it is.  The better parent is the one that did better in the report,
which favours the parent.

![success by weight](gpc.png)
"""


def write_page(source: Path, out: Path) -> None:
    """Write the page at ``out`` and its figure beside it."""
    pairs: dict[str, Pair] = json.loads(source.read_text())["pairs"]
    draw(pairs, out.with_suffix(".png"))
    parts = [HEADER, verdicts(pairs), *(section(name, pair) for name, pair in pairs.items()), made(pairs)]
    write_atomic(out, "\n\n".join(p.strip() for p in parts if p) + "\n")
    print(out)


def rate(cell: Pair) -> Rate:
    """Success of a cell."""
    return wilson(cell["success"]["successes"], cell["n"])


def signed(c: Pair) -> str:
    """``+0.10 [+0.02, +0.18]``."""
    return f"{c['difference']:+.2f} [{c['low']:+.2f}, {c['high']:+.2f}]"


def title(name: str, pair: Pair) -> str:
    """What the pair is called."""
    return str(pair["notes"].get("title", name))


def verdicts(pairs: dict[str, Pair]) -> str:
    """One line a pair."""
    lines = []
    for name, pair in pairs.items():
        against, chosen = pair["compared_with_parents"][pair["better_parent"]], pair["weights"]
        if 1.0 in chosen:
            said = "the search chose one parent alone, so nothing is gained"
        elif not against["separated"]:
            said = "it cannot be told from the better parent"
        else:
            said = "it is better than the better parent" if against["difference"] > 0 else "it is worse"
        weights = ", ".join(f"{w:g}" for w in chosen)
        lines.append(
            f"* **{title(name, pair)}** (weights {weights}): {said}: {signed(against)} "
            f"(n={against['n']} pairs, p={against['p_value']:.2g})."
        )
    return "## What it shows\n\n" + "\n".join(lines)


def section(name: str, pair: Pair) -> str:
    """A pair in full."""
    setup = "".join(f"* {line}\n" for line in pair["notes"].get("setup", []))
    chosen, *parents = pair["report"]
    against = pair["compared_with_parents"]
    rows = [["composition", ", ".join(f"{w:g}" for w in chosen["weights"]), short(rate(chosen)), "", chosen["n"]]]
    rows += [
        [f"parent {i}: `{pair['parents'][i]}`", "", short(rate(cell)), signed(c), cell["n"]]
        for i, (cell, c) in enumerate(zip(parents, against, strict=True))
    ]
    report = table(["", "weights", "success", "composition less this", "n"], rows)
    sweep = [
        [
            f"{c['weights'][0]:g}",
            short(rate(c)),
            c["n"],
            "-" if c["disagreement"] is None else f"{c['disagreement']:.3f}",
        ]
        for c in sorted(pair["search"], key=lambda c: c["weights"][0])
    ]
    search = table(["weight of parent 0", "success", "n", "disagreement"], sweep)
    return f"""
## {title(name, pair)}

{setup}
Report, seeds {pair["report_seed"]} up:

{report}

Search, seeds {pair["search_seed"]} up:

{search}

{gram(pair)}

{controls(pair)}
"""


def gram(pair: Pair) -> str:
    """What the parents' errors on demonstrations say."""
    told = pair["gram"]
    if not told:
        return "Errors on demonstrations: not measured."
    return (
        f"Errors on demonstrations ({told['windows']} windows): correlation of the parents' residuals "
        f"{told['correlation'][0][1]:.3f}; least squared error of the score at weight {told['weights'][0]:.2f} "
        f"[{told['low'][0]:.2f}, {told['high'][0]:.2f}] of parent 0, without a rollout."
    )


def controls(pair: Pair) -> str:
    """Self-composition."""
    lines = []
    for number, outcomes in enumerate(pair["alone"]):
        if outcomes is None:
            lines.append(f"Control, parent {number} with itself: not run.")
            continue
        own = pair["report"][1 + number]["successes"]
        other = sum(a != b for a, b in zip(own, outcomes, strict=True))
        lines.append(
            f"Control, parent {number} composed half and half with itself: {other} of {len(own)} episodes ended "
            f"differently from the parent's own ({short(wilson(outcomes.count('1'), len(outcomes)))})."
        )
    return "\n".join(lines)


def made(pairs: dict[str, Pair]) -> str:
    """Provenance and commands."""
    lines = []
    for name, pair in pairs.items():
        v = pair["versions"]
        told = ", ".join(f"{k} {v[k]}" for k in ("python", "torch", "numpy", "mujoco") if k in v)
        commit = commit_of(pair["git_commit"], pair["notes"])
        lines.append(f"* {title(name, pair)}: `{pair['env']['name']}`, commit {commit}; {told}.")
    return f"""
## Where the numbers come from

{chr(10).join(lines)}

```
robopolicy compose A B --env ENV --search-episodes 200 --report-episodes 200 --out DIR/NAME.yaml
python benchmarks/gpc.py alone DIR/NAME.yaml
python benchmarks/gpc.py gather DIR/*.yaml --out docs/results/gpc.json
python benchmarks/gpc.py page docs/results/gpc.json --out docs/results/gpc.md
```
"""


def draw(pairs: dict[str, Pair], path: Path) -> None:
    """Success by weight, one panel a pair: search, report, and where the errors on demonstrations are least."""
    figure, all_axes = panels(len(pairs))
    for axes, (name, pair) in zip(all_axes, pairs.items(), strict=True):
        groups = ((pair["search"], SEARCHED, "search", 0.0), (pair["report"], REPORTED, "report", 0.015))
        for cells, colour, label, nudge in groups:
            rates = [rate(c) for c in cells]
            axes.errorbar(
                [c["weights"][0] + nudge for c in cells],
                [r.rate for r in rates],
                yerr=[[r.rate - r.low for r in rates], [r.high - r.rate for r in rates]],
                fmt="o",
                ms=5,
                lw=1.5,
                color=colour,
                label=label,
            )
        if pair["gram"]:
            axes.axvspan(pair["gram"]["low"][0], pair["gram"]["high"][0], color=GUESSED, alpha=0.2, lw=0)
            axes.axvline(pair["gram"]["weights"][0], color=GUESSED, lw=1.5, label="least error on demonstrations")
        dress(axes, title(name, pair), "weight of parent 0")
    finish(figure, all_axes, path)
