"""Writes docs/results/dsrl.md and its figure from docs/results/dsrl.json and nothing else, verdicts too."""

from __future__ import annotations

from pathlib import Path

from finetune_page import SEEDS, Series, Study, curve_tables, draw, ends_table, hashes, limits, made, over, setup

from robopolicy.core.io import write_atomic
from robopolicy.evaluation.suite_page import short

SERIES = (Series("dsrl-na", "steered", "DSRL-NA"), Series("dsrl-sac", "steered", "DSRL-SAC"))
GOAL, MORE = 0.9, 0.3  # the claim: such a success, or so much more than the base
START = (0.3, 0.6)  # what the base is supposed to do

HEADER = """
# DSRL: does steering its noise make a weak policy good?

Everything below is generated from [dsrl.json](dsrl.json) by `python benchmarks/dsrl.py page`.  Policies trained on too
few demonstrations are left as they are; an actor learns from their own episodes which noise to start them from.  The
claim: success of at least {goal:g}, or at least {more:g} more than the base.

![success by environment step](dsrl.png)
"""


def write_page(source: Path, out: Path) -> None:
    """Write the page at ``out`` and its figure beside it."""
    study = Study(source, SERIES)
    draw(study, out.with_suffix(".png"))
    parts = [
        HEADER.format(goal=GOAL, more=MORE) + setup(study),
        verdicts(study),
        "## The end, on fresh seeds\n\n" + ends_table(study),
        "## The base's weights\n\n" + hashes(study, frozen=True),
        "## Every point of the curves\n\n" + curve_tables(study),
        made(study, "dsrl"),
    ]
    write_atomic(out, "\n\n".join(p.strip() for p in parts if p) + "\n")
    print(out)


def verdicts(study: Study) -> str:
    """The claim for every base and method, what is missing, and what was not as it should be."""
    lines = [verdict(study, base, method) for base in study.bases for method in study.methods]
    for base in study.bases:
        before = study.base_rate(base)
        if before is not None and not START[0] <= before.rate <= START[1]:
            lines.append(
                f"The {base} base does {short(before)} (n={before.n}), not {START[0]:g} to {START[1]:g} as was meant."
            )
    return "## What it shows\n\n" + "\n".join(f"* {line}" for line in [*lines, *limits(study)])


def verdict(study: Study, base: str, method: str) -> str:
    """One sentence."""
    before, end = study.base_rate(base), study.end(base, method)
    name = f"**{study.title(method)} on the {base} policy**"
    if before is None or not end.n:
        return f"{name}: not measured."
    gain = study.gain(base, method)
    numbers = (
        f"{over(end)} over {end.n} seed{'s' * (end.n > 1)}, the base {short(before)} (n={before.n}); "
        f"{over(gain, sign=True)} more than the base"
    )
    if end.n < SEEDS:
        return f"{name}: **no verdict** from so few seeds: {numbers}."
    if end.mean >= GOAL or gain.mean >= MORE:
        doubt = "" if gain.low > 0 else ", but so few seeds cannot rule out that it was luck"
        return f"{name}: **the claim holds**{doubt}: {numbers}."
    if gain.low > 0:
        said = "it is better than the base, by less than the claim asks"
    elif gain.high < 0:
        said = "it is worse than the base"
    else:
        said = "it cannot be told from the base"
    return f"{name}: **the claim does not hold**; {said}: {numbers}."
