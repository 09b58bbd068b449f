"""Writes docs/results/pa_rl.md and its figure from docs/results/pa_rl.json and nothing else, verdicts too."""

from __future__ import annotations

from pathlib import Path

from finetune_page import (
    SEEDS,
    Series,
    Study,
    curve_tables,
    draw,
    ends_table,
    hashes,
    limits,
    made,
    over,
    over_both,
    paired,
    setup,
    wins,
)

from robopolicy.core.io import write_atomic
from robopolicy.evaluation.suite_page import short, table

METHOD, CONTROL = "pa_rl", "bc_continued"
SERIES = (
    Series(METHOD, "optimised", "PA-RL"),
    Series(METHOD, "base", "PA-RL, its policy alone"),
    Series(CONTROL, "base", "behaviour cloning continued"),
)

HEADER = """
# PA-RL: does imitating optimised actions beat imitating the data?

Everything below is generated from [pa_rl.json](pa_rl.json) by `python benchmarks/pa_rl.py page`.  Policies trained on
too few demonstrations go on learning, first from data that were there, then from their own episodes: PA-RL imitates
actions that a critic chose and improved; the control imitates the same offline data and the episodes that went well.

![success by environment step](pa_rl.png)
"""


def write_page(source: Path, out: Path) -> None:
    """Write the page at ``out`` and its figure beside it."""
    study = Study(source, SERIES)
    draw(study, out.with_suffix(".png"))
    parts = [
        HEADER + setup(study),
        verdicts(study),
        "## The end, on fresh seeds\n\n" + ends_table(study),
        alone(study),
        "## The bases as they lie on disk\n\n" + hashes(study, frozen=False),
        "## Every point of the curves\n\n" + curve_tables(study),
        made(study, "pa_rl"),
    ]
    write_atomic(out, "\n\n".join(p.strip() for p in parts if p) + "\n")
    print(out)


def verdicts(study: Study) -> str:
    """PA-RL against the control and against the base, for every base."""
    lines = [line for base in study.bases for line in (against_control(study, base), against_base(study, base))]
    return "## What it shows\n\n" + "\n".join(f"* {line}" for line in [*lines, *limits(study)])


def against_control(study: Study, base: str) -> str:
    """Paired by seed: both sides have the same budget and start."""
    ours, control = ({run["seed"]: wins(run["final"]) for run in study.done(base, m)} for m in (METHOD, CONTROL))
    shared = sorted(ours.keys() & control.keys())
    if not shared:
        return f"**PA-RL against behaviour cloning continued, {base} policy**: not measured."
    difference = over_both([paired(ours[s], control[s]) for s in shared])
    if difference.n < SEEDS:
        said = "**no verdict** from so few seeds"
    elif difference.low > 0:
        said = "PA-RL is **better**"
    elif difference.high < 0:
        said = "PA-RL is **worse**"
    else:
        said = "the two **cannot be told apart** over so few seeds"
    return (
        f"**PA-RL against behaviour cloning continued, {base} policy**: {said}: {over(study.end(base, METHOD))} "
        f"against {over(study.end(base, CONTROL))}, {over(difference, sign=True)} ({difference.n} seeds, paired)."
    )


def against_base(study: Study, base: str) -> str:
    """Whether either has improved the base."""
    before = study.base_rate(base)
    if before is None:
        return f"The {base} base: not measured."
    parts = []
    for method in study.methods:
        gain = study.gain(base, method)
        if gain.n:
            said = "improves it" if gain.low > 0 else "harms it" if gain.high < 0 else "cannot be told from it"
            parts.append(f"{study.title(method)} {said} ({over(gain, sign=True)})")
    return f"The {base} base does {short(before)} (n={before.n}); {'; '.join(parts) or 'nothing was measured'}."


def alone(study: Study) -> str:
    """The learned policy without the critic, at the end."""
    rows = []
    for base in study.bases:
        for run in study.done(base, METHOD):
            if (told := run["final_alone"]) is not None:
                both = [f"{f['successes'].count('1') / f['n']:.2f}" for f in (run["final"], told)]
                ms = [f"{f['chunk_ms']['p50']:.0f}" if f["chunk_ms"] else "-" for f in (run["final"], told)]
                rows.append([base, run["seed"], *both, told["n"], *ms])
    if not rows:
        return ""
    head = ["base", "seed", "with the critic", "its policy alone", "n", "ms a chunk, with", "alone"]
    return "## With and without the critic at the end\n\n" + table(head, rows)
