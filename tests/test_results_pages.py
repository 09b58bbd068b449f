"""Pages of results are what their generators make of the committed records: nobody edits a number by hand."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from robopolicy.core.specs import STATE
from robopolicy.sim.experts import EXPERTS
from robopolicy.sim.pool import EpisodePool, Watch, episode_list
from robopolicy.sim.pool_slots import Slot
from robopolicy.sim.registry import EnvConfig

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "docs/results/heads.json"
SIMS = ROOT / "docs/results/sims.json"
STUDIES = [("sac", "sac_parity"), ("dsrl", "dsrl"), ("pa_rl", "pa_rl"), ("deploy", "deploy")]


def test_the_page_of_the_heads_is_generated_from_its_records(tmp_path):
    out = tmp_path / "heads.md"
    command = [sys.executable, "benchmarks/heads.py", "page", str(RECORDS), "--out", str(out)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-2000:]
    assert out.read_text() == RECORDS.with_suffix(".md").read_text()
    assert out.with_suffix(".png").stat().st_size > 10_000


def test_every_cell_has_at_least_a_hundred_episodes_and_its_seeds():
    cells = json.loads(RECORDS.read_text())["evaluations"]
    rollouts = {name: c for name, c in cells.items() if c["part"] != "adaptive"}
    assert len(rollouts) > 50
    for name, cell in rollouts.items():
        assert cell["n"] >= 100, name
        assert len(cell["successes"]) == len(cell["max_reward"]) == cell["n"], name
        assert cell["base_seed"] == 100_000, name
        assert cell["parameters"] > 0, name


def test_the_pages_of_the_simulations_are_generated_from_their_records(tmp_path):
    out, cards = tmp_path / "sims.md", tmp_path / "experts.md"
    command = [sys.executable, "benchmarks/sims.py", "page", str(SIMS), "--out", str(out), "--cards", str(cards)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-2000:]
    assert out.read_text() == SIMS.with_suffix(".md").read_text()
    assert cards.read_text() == (ROOT / "sim/experts.md").read_text()
    assert out.with_suffix(".png").is_file() == SIMS.with_suffix(".png").is_file()


@pytest.mark.parametrize(("name", "script"), STUDIES)
def test_the_page_of_a_study_is_generated_from_its_records(tmp_path, name, script):
    source, out = ROOT / f"docs/results/{name}.json", tmp_path / f"{name}.md"
    if not source.is_file():
        pytest.skip(f"{name}: not measured yet")
    command = [sys.executable, f"benchmarks/{script}.py", "page", str(source), "--out", str(out)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-2000:]
    assert out.read_text() == source.with_suffix(".md").read_text()
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert source.with_suffix(".png").is_file()


def test_the_parity_of_sac_rests_on_five_seeds_a_side_and_equal_steps():
    data = json.loads((ROOT / "docs/results/sac.json").read_text())
    for side in ("robopolicy", "stable-baselines3"):
        runs = [r for r in data["runs"] if r["side"] == side]
        assert sorted(r["seed"] for r in runs) == [0, 1, 2, 3, 4]
        assert all(len(r["returns"][str(data["settings"]["steps"])]) == 20 for r in runs)


def test_every_way_of_executing_the_deployed_policy_ran_the_same_seeds():
    data = json.loads((ROOT / "docs/results/deploy.json").read_text())
    cells = {c["cell"]: c for c in data["cells"] if c["head"] == "flow"}
    assert set(cells) >= {"plain", "driver", "receding_200", "async_200", "rtc_200"}
    for name, cell in cells.items():
        assert len(cell["successes"]) == len(cell["seconds"]) == cell["n"] == cells["plain"]["n"] >= 50, name
        assert sum(cell["ends"].values()) == cell["n"], name
    assert data["base_seed"] == 200_000  # not those on which the set-up was chosen


def test_every_policy_and_expert_of_the_simulations_has_its_n_and_seeds():
    data = json.loads(SIMS.read_text())
    cells = [c for s in data["suites"].values() for c in s["cells"] if c["status"] == "done"]
    for cell in cells:
        assert cell["n"] + cell["errors"] >= 100, cell["task"]
        assert len(cell["successes"]) == len(cell["max_reward"]) == cell["n"], cell["task"]
        assert cell["base_seed"] == 100_000, cell["task"]
    assert len(data["experts"]) >= 2
    for record in data["experts"]:
        assert record["totals"]["n"] == len(record["successes"]) >= 100, record["env"]
        assert record["base_seed"] == 100_000, record["env"]


@pytest.mark.parametrize("study", [name for name in ("gpc", "v_gps") if (ROOT / f"docs/results/{name}.json").is_file()])
def test_the_pages_of_the_wrappers_are_generated_from_their_records(study, tmp_path):
    records, out = ROOT / f"docs/results/{study}.json", tmp_path / f"{study}.md"
    command = [sys.executable, f"benchmarks/{study}.py", "page", str(records), "--out", str(out)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-2000:]
    assert out.read_text() == records.with_suffix(".md").read_text()
    assert out.with_suffix(".png").stat().st_size > 10_000


def test_a_composition_is_judged_on_seeds_that_its_search_never_saw():
    pairs = json.loads((ROOT / "docs/results/gpc.json").read_text())["pairs"]
    assert len(pairs) >= 2
    for name, pair in pairs.items():
        cells = {kind: pair[kind] for kind in ("search", "report")}
        seeds = {kind: {c["base_seed"] + i for c in cells[kind] for i in range(len(c["successes"]))} for kind in cells}
        assert not seeds["search"] & seeds["report"], name
        assert all(len(c["successes"]) >= 200 for kind in cells for c in cells[kind]), name
        assert len(cells["search"]) == 11, name  # the whole sweep
        for number, alone in enumerate(pair["alone"]):  # half and half with itself is itself
            weights = [float(i == number) for i in range(2)]
            assert alone == next(c["successes"] for c in cells["report"] if c["weights"] == weights), name


def test_every_cell_of_the_reranking_has_two_hundred_episodes_of_the_same_seeds():
    data = json.loads((ROOT / "docs/results/v_gps.json").read_text())
    cells = {(c["critic"], c["count"], c["temperature"]): c for c in data["cells"]}
    asked = {(c, k, t) for c in ("iql", "cal_ql") for k in (1, 5, 10, 30, 100) for t in (0.0, 0.1, 1.0)}
    assert asked <= set(cells)
    base = cells["base", 1, None]
    for (critic, count, _), cell in cells.items():
        assert len(cell["successes"]) + cell["errors"] >= 200
        assert cell["base_seed"] == base["base_seed"]
        assert count > 1 or cell["successes"] == base["successes"], critic  # one candidate: the policy itself


@pytest.mark.parametrize("steps", [7, 20, 32])
@pytest.mark.parametrize("lazy", [True, False])
def test_frames_a_second_count_the_pictures_that_were_drawn(monkeypatch, lazy, steps):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    bench = importlib.import_module("bench_sims")
    drawn, observe = [], Slot._observe
    monkeypatch.setattr(Slot, "_observe", lambda slot: drawn.append(1) or observe(slot))
    with EpisodePool(EnvConfig("point_reach", {"max_steps": steps}), 0, 4) as pool:
        pool.watch = Watch(bench.N_OBS, (STATE,), lazy)
        done = pool.run(episode_list(4, 0), lambda batch: np.zeros((len(batch), bench.CHUNK, 2)))
    assert [r.length for r in done] == [steps] * 4
    assert bench.figures(done, wall=1.0, cameras=3, lazy=lazy)["frames_per_s"] == 3 * len(drawn)


def test_every_registered_expert_is_on_its_page():
    page, measured = (ROOT / "sim/experts.md").read_text(), json.loads(SIMS.read_text())["experts"]
    for name in set(EXPERTS) - {"PointReach"}:  # the toy of the tests
        shown = {e["env"]["name"] for e in measured if e["env_class"] == name} or {name}
        assert all(f"| `{n}` |" in page for n in shown), name
