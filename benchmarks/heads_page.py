"""Writes docs/results/heads.md and its figure from docs/results/heads.json: no number on the page comes from elsewhere.

The verdicts are computed too: a claim holds, fails or cannot be told at this n, by intervals and paired tests.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from heads_figure import draw
from heads_study import HEADS, HORIZONS, STEPS, YAWS

from robopolicy.core.io import write_atomic
from robopolicy.evaluation.intervals import PairedComparison, mean_interval, paired_comparison, wilson

TITLES = {
    "diffusion": "Diffusion Policy (U-Net, DDIM)",
    "flow": "Flow matching (U-Net, Euler)",
    "beso": "BESO (GPT, DDIM)",
    "ebt": "EBT-Policy (refinements)",
    "seed_policy": "SeedPolicy (SEGA + U-Net, DDIM)",
    "diffuser_actor_3d": "3D Diffuser Actor (RGB-D)",
    "diffusion, DDPM": "Diffusion Policy, ancestral DDPM",
    "rgb": "Diffusion Policy, RGB image",
}
Cell = dict[str, Any]


class Study:
    """The JSON file by cells."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.trainings: dict[str, Any] = data["trainings"]
        self.cells: dict[str, Cell] = data["evaluations"]
        for cell in self.cells.values():  # one measurement for all heads, where there is one
            quiet = data.get("latency", {}).get(str(cell.get("head")), {}).get(str(cell.get("steps")))
            if cell["part"] == "a" and quiet is not None:
                cell["ms"] = {"p50": quiet}

    def part(self, part: str, **tags: object) -> list[Cell]:
        """Cells of a part whose tags agree."""
        return [c for c in self.cells.values() if c["part"] == part and all(c.get(k) == v for k, v in tags.items())]

    def one(self, part: str, **tags: object) -> Cell | None:
        """The cell with these tags, if it was measured."""
        found = self.part(part, **tags)
        return found[0] if found else None


def write_page(source: Path, out: Path) -> None:
    """Write the page at ``out`` and its figure beside it."""
    study = Study(json.loads(source.read_text()))
    draw(study, out.with_suffix(".png"))
    write_atomic(out, page(study))
    print(out)


def page(study: Study) -> str:
    """The whole page as markdown."""
    parts = [
        HEADER,
        claims(study),
        part_a(study),
        part_b(study),
        part_c(study),
        part_d(study),
        part_e(study),
        commands(study),
    ]
    return "\n\n".join(p.strip() for p in parts if p) + "\n"


HEADER = """
# The heads side by side

Six heads, one machine: two CPU cores, no GPU, one thread a training.  Everything below is generated from
[heads.json](heads.json) by `python benchmarks/heads_page.py`; intervals are 95 % (Wilson for rates, Student's t for
rewards), and one training seed stands behind each row: differences between training seeds are not in the intervals.
These are small networks with minutes of training.  What holds here need not hold at full size, and the other way round.

![success against milliseconds, steps, observation horizon and camera angle](heads.png)
"""


def claims(study: Study) -> str:
    """The papers' claims and what was found, by paired tests at 95 %."""

    def row(claim: str, a: Cell | None, b: Cell | None, wanted: str) -> list[str]:
        if a is None or b is None:
            return [claim, "not measured"]
        p = paired(a, b)
        found = ("better" if p.difference > 0 else "worse") if p.separated else "level"
        holds = found in wanted.split(" or ")
        numbers = f"{p.difference:+.2f} [{p.low:+.2f}, {p.high:+.2f}], n = {p.n}"
        return [claim, f"**{'holds' if holds else 'does not hold'}** ({found}: {numbers})"]

    def one(part: str, head: str, **tags: object) -> Cell | None:
        return study.one(part, head=head, **tags)

    ddpm = "diffusion, DDPM"
    ebt = one("a", "ebt", steps=2)
    rows = [
        row("BESO: 3 steps do what 50 do", one("a", "beso", steps=50), one("a", "beso", steps=3), "level or better"),
        row("EBT: 2 refinements do what DDPM does in 100 steps", one("b", ddpm, steps=100), ebt, "level or better"),
        row("EBT: 2 refinements beat DDPM at 10 steps", one("b", ddpm, steps=10), ebt, "better"),
        *(
            row(
                f"SeedPolicy beats Diffusion Policy with {n} observations",
                one("c", "diffusion", n_obs_steps=n),
                one("c", "seed_policy", n_obs_steps=n),
                "better",
            )
            for n in HORIZONS
        ),
        *(
            row(
                f"3D Diffuser Actor beats the RGB policy with the camera turned by {y} degrees",
                one("d", "rgb", yaw=y),
                one("d", "diffuser_actor_3d", yaw=y),
                "better",
            )
            for y in YAWS[1:]
        ),
    ]
    return "## The papers' claims at this scale\n\n" + table(["claim", "found here (difference in success)"], rows)


def paired(a: Cell, b: Cell) -> PairedComparison:
    """B against A on the same seeds."""
    success = [[c == "1" for c in cell["successes"]] for cell in (a, b)]
    return paired_comparison(*success, a["max_reward"], b["max_reward"], 0.95)


def rate(cell: Cell | None) -> str:
    """``0.76 [0.67, 0.83]`` or a dash."""
    if cell is None:
        return "-"
    r = wilson(cell["successes"].count("1"), cell["n"])
    return f"{r.rate:.2f} [{r.low:.2f}, {r.high:.2f}]"


def reward(cell: Cell) -> str:
    """Mean largest reward with its interval."""
    m = mean_interval(cell["max_reward"])
    return f"{m.mean:.2f} [{m.low:.2f}, {m.high:.2f}]"


def ms(cell: Cell) -> str:
    """Median milliseconds of a chunk for one observation."""
    return f"{cell['ms']['p50']:.1f}" if cell["ms"] else "-"


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A markdown table."""
    head = list(header)
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(str(v) for v in row)} |" for row in rows)])


def part_a(study: Study) -> str:
    """All heads on one task."""
    rows, speed = [], []
    for head in HEADS:
        cells = {s: study.one("a", head=head, steps=s) for s in STEPS}
        rows.append([TITLES[head], *(rate(cells[s]) for s in STEPS)])
        speed.append([TITLES[head], *("-" if (c := cells[s]) is None else ms(c) for s in STEPS)])
    budget = []
    for head in HEADS:
        cost, cell = study.trainings.get(f"push_{head}"), next(iter(study.part("a", head=head)), None)
        if cost and cell:
            minutes = f"{cost['cpu_s'] / 60:.1f}"
            best = max(study.part("a", head=head), key=lambda c: c["successes"].count("1"))
            budget.append([TITLES[head], f"{cell['parameters']:,}", minutes, best["steps"], rate(best), reward(best)])
    return f"""
## a. Equal budget on one task

`panda_push`: push a puck into a ring, 200 scripted demonstrations, 3,000 optimiser steps of 64 windows each, n = 100
episodes a cell (seeds 100000 to 100099), chunks of 16 steps of which 8 are executed.  All heads read the same states,
but 3D Diffuser Actor, which reads one 64 x 64 RGB-D camera and the arm's own state instead: a harder task.  SeedPolicy
trains on 6 chains of up to 12 windows a step, about as many windows.
"Steps" are network evaluations for single-query samplers and refinements for EBT, each of which costs about three.

{table(["head", "parameters", "training, CPU minutes", "best at steps", "success", "mean maximum reward"], budget)}

Success by number of steps:

{table(["head", *map(str, STEPS)], rows)}

Milliseconds a chunk for one observation, one thread (median; `benchmarks/heads.py latency`, apart from the episodes):

{table(["head", *map(str, STEPS)], speed)}
"""


def versus(study: Study, a: Cell | None, b: Cell | None, names: tuple[str, str]) -> str:
    """One sentence that compares two cells by paired seeds."""
    if a is None or b is None:
        return f"{names[1]} against {names[0]}: not measured."
    p = paired(a, b)
    verdict = ("better" if p.difference > 0 else "worse") if p.separated else "not separable at this n"
    return (
        f"{names[1]} {rate(b)} against {names[0]} {rate(a)}: difference {p.difference:+.2f} "
        f"[{p.low:+.2f}, {p.high:+.2f}], McNemar p = {p.p_value:.2g}: **{verdict}**."
    )


def part_b(study: Study) -> str:
    """Few steps."""
    beso3, beso50 = study.one("a", head="beso", steps=3), study.one("a", head="beso", steps=50)
    ebt2 = study.one("a", head="ebt", steps=2)
    lines = [versus(study, beso50, beso3, ("BESO at 50 steps", "BESO at 3 steps"))]
    for steps in (100, 10, 2):
        ddpm = study.one("b", head="diffusion, DDPM", steps=steps)
        lines.append(versus(study, ddpm, ebt2, (f"DDPM at {steps} steps", "EBT at 2 refinements")))
    ddim = study.one("a", head="diffusion", steps=10)
    lines.append(versus(study, ddim, ebt2, ("DDIM at 10 steps", "EBT at 2 refinements")))
    return "## b. Few steps\n\n" + "\n".join(f"* {line}" for line in lines) + "\n\n" + adaptive(study)


def adaptive(study: Study) -> str:
    """EBT's own step count in and out of distribution."""
    rows = [[c["shift"], f"{c['refinement_steps']:.2f}", f"{c['energy']:.3f}", c["n"]] for c in study.part("adaptive")]
    if not rows:
        return ""
    return ADAPTIVE + table(["shift", "mean refinements", "mean energy", "observations"], rows) + uncertainty(study)


def uncertainty(study: Study) -> str:
    """Whether EBT's energy foretells failure."""
    told = [(c["steps"], c["auroc"]) for c in study.part("a", head="ebt") if c.get("auroc") is not None]
    if not told:
        return ""
    listed = ", ".join(f"{value:.2f} with {steps}" for steps, value in told)
    return (
        "\n\nThe energy as a warning: chance that a failed episode had the higher mean energy (0.5 says nothing), by "
        f"number of refinements: {listed}."
    )


ADAPTIVE = """EBT chooses its own number of refinements (stop when the chunk no longer moves).  Held-out observations as
they are, and with puck and goal moved away from where they were ever seen (in standard deviations):

"""


def part_c(study: Study) -> str:
    """Memory."""
    rows = [
        [TITLES[h], *(rate(study.one("c", head=h, n_obs_steps=n)) for n in HORIZONS)]
        for h in ("diffusion", "seed_policy")
    ]
    if all(v == "-" for r in rows for v in r[1:]):
        return ""
    lines = [
        versus(
            study,
            study.one("c", head="diffusion", n_obs_steps=n),
            study.one("c", head="seed_policy", n_obs_steps=n),
            (f"Diffusion Policy with {n} observations", f"SeedPolicy with {n}"),
        )
        for n in HORIZONS
    ]
    return f"""
## c. Longer observation windows, and a task that needs memory

`panda_recall`: a lamp says left or right during the first half second, then goes out; the tool waits on a middle pad
for a go signal and then has to move to the side that the lamp had shown.  Chance is 0.5.  Success by `n_obs_steps`:

{table(["head", *(f"{n} observations" for n in HORIZONS)], rows)}

{chr(10).join(f"* {line}" for line in lines)}
"""


def part_d(study: Study) -> str:
    """A camera that moves."""
    rows = [[TITLES[h], *(rate(study.one("d", head=h, yaw=y)) for y in YAWS)] for h in ("diffuser_actor_3d", "rgb")]
    if all(v == "-" for r in rows for v in r[1:]):
        return ""
    cells = [[(study.one("d", head=h, yaw=y)) for y in YAWS] for h in ("diffuser_actor_3d", "rgb")]
    rewards = [
        [row[0], *("-" if c is None else reward(c) for c in line)] for row, line in zip(rows, cells, strict=True)
    ]
    return f"""
## d. A camera that moves after training

`panda_push` from one 64 x 64 RGB-D camera; at test time the camera is turned about the table by some degrees.  Its new
calibration is known to the policies that use depth; the RGB policy has no use for one.  Success by angle:

{table(["policy", *(f"{y} degrees" for y in YAWS)], rows)}

Mean maximum reward:

{table(["policy", *(f"{y} degrees" for y in YAWS)], rewards)}
{weak_3d(study)}"""


def weak_3d(study: Study) -> str:
    """A warning where the 3D head has not learned the task even with the camera in place."""
    actor, rgb = (study.one("d", head=h, yaw=0) for h in ("diffuser_actor_3d", "rgb"))
    if actor is None or rgb is None or actor["successes"].count("1") >= rgb["successes"].count("1"):
        return ""
    return """
With the camera in its place 3D Diffuser Actor is already behind: it has not learned the task in this budget (its error
on training windows equals that on held-out ones, so it is short of training, not of data).  What it keeps when the
camera moves therefore says little about the claim, which needs a 3D policy that works to begin with.
"""


def part_e(study: Study) -> str:
    """Goals from play data."""
    names = {1.0: "with the goal", 0.0: "without (guidance 0)"}
    cells = [(names[g], study.one("e", guidance=g)) for g in names]
    rows = [[name, rate(c), reward(c), ms(c)] for name, c in cells if c]
    if not rows:
        return ""
    return f"""
## e. Goals, from play data without tasks

BESO on OGBench's two-cube play (40 episodes, 20,040 steps, published by others), goals drawn from later frames; 1,000
steps of 64 windows, three denoising steps.  `ogbench_cube` asks for the five published goals in turn, n = 100
episodes, 20 a goal.  The score is the largest share of cubes that lay in their places.

{table(["BESO", "success", "mean maximum share in place", "ms a chunk"], rows)}
"""


def commands(study: Study) -> str:
    """How to do it again."""
    return """
## Commands

```
robopolicy collect panda_push --episodes 200 --out DATA/panda_push
robopolicy collect panda_push --episodes 200 --cameras front --image-size 64 64 --depth --out DATA/panda_push_rgbd
robopolicy collect panda_recall --episodes 200 --cameras --out DATA/panda_recall
robopolicy data convert cube-double-play-v0.npz DATA/ogbench_cube
python benchmarks/heads.py train --data DATA --runs RUNS
python benchmarks/heads.py evaluate --runs RUNS
python benchmarks/heads.py adaptive --runs RUNS --data DATA
python benchmarks/heads.py latency --runs RUNS
python benchmarks/heads.py collect --runs RUNS --out docs/results/heads.json
python benchmarks/heads.py page docs/results/heads.json --out docs/results/heads.md
```
"""
