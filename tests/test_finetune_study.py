"""The studies of fine-tuning: which commands they run, what they gather, and that pages say what the numbers say.

All numbers here are invented; none is a result.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from robopolicy.cli.main import main
from robopolicy.testing.finetuning import ENV, tiny_base

ROOT = Path(__file__).resolve().parent.parent
N = 200


@pytest.fixture
def module(monkeypatch):
    """Modules of the benchmarks' folder."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


def final(successes: int) -> dict:
    return {
        "base_seed": 100_000, "n": N, "errors": 0, "successes": "1" * successes + "0" * (N - successes),
        "type": "steered", "chunk_ms": {"p50": 12.0}, "git_commit": "0" * 40, "versions": {"python": "3.11"},
    }  # fmt: skip


def run_of(base: str, method: str, seed: int, curve: dict[str, list[int]], end: int | None, **more) -> dict:
    evals = [
        {"candidate": name, "env_steps": 10_000 * i, "updates": 500 * i, "n": 100, "successes": s}
        for name, counts in curve.items()
        for i, s in enumerate(counts)
    ]
    hashes = {"base_sha256": f"{base}hash", "frozen_sha256": f"{base}hash"}
    cost = {"env_steps": 30_000, "episodes": 300, "updates": {"critic": 1500}, "elapsed_s": 600.0}
    told = {"base": base, "method": method, "seed": seed, "evals": evals, "final_alone": None}
    return {**told, **hashes, **cost, "final": None if end is None else final(end), **more}


def write(folder: Path, presets: dict[str, list[str]], bases: dict[str, int], runs: list[dict]) -> Path:
    settings = {
        "bases": {b: f"runs/{b}" for b in bases}, "offline": {}, "env": "panda_lift", "kwargs": {}, "options": [],
        "presets": presets, "of": {}, "max_env_steps": 30_000, "episodes": 100, "final_episodes": N,
        "final_seed": 100_000,
    }  # fmt: skip
    told = {b: {"sha256_now": f"{b}hash", "final": final(s)} for b, s in bases.items()}
    data = {"format": 1, "settings": settings, "notes": {"setup": ["Invented."]}, "bases": told, "runs": runs}
    file = folder / "study.json"
    file.write_text(json.dumps(data))
    return file


def dsrl_file(folder: Path, **changes) -> Path:
    rise, fall = {"steered": [40, 30, 70, 92], "base": [42]}, {"steered": [40, 42, 41, 39]}
    ends = {("diffusion", "dsrl-na"): (185, 183, 187), ("diffusion", "dsrl-sac"): (100, 104, 102),
            ("flow", "dsrl-na"): (60, 95, 82), ("flow", "dsrl-sac"): (50, 52, 48)}  # fmt: skip
    runs = [
        run_of(b, m, s, rise if m == "dsrl-na" else fall, end, **changes)
        for (b, m), three in ends.items()
        for s, end in enumerate(three)
    ]
    presets = {m: ["configs/finetune/dsrl.yaml"] for m in ("dsrl-na", "dsrl-sac")}
    return write(folder, presets, {"diffusion": 80, "flow": 80}, runs)


def test_dsrl_pages_tell_success_failure_and_harm_by_rule(module, tmp_path):
    module("dsrl_page").write_page(dsrl_file(tmp_path), tmp_path / "dsrl.md")
    page = (tmp_path / "dsrl.md").read_text()
    verdicts = {line.split("**")[1]: line for line in page.splitlines() if line.startswith("* **DSRL")}
    assert "the claim holds**: 0.93 [0.88, 0.97] over 3 seeds" in verdicts["DSRL-NA on the diffusion policy"]
    assert "better than the base, by less than the claim asks" in verdicts["DSRL-SAC on the diffusion policy"]
    assert "the claim does not hold**; it cannot be told from the base" in verdicts["DSRL-NA on the flow policy"]
    assert "it is worse than the base" in verdicts["DSRL-SAC on the flow policy"]
    assert page.count("**unchanged**") == 2
    assert "CHANGED" not in page
    assert "| 0 | 30,000 | 1,500 | 0.92 [0.85, 0.96] | 100 |" in page
    assert (tmp_path / "dsrl.png").stat().st_size > 10_000


def test_a_page_shows_weights_that_changed_and_what_is_missing(module, tmp_path):
    file = dsrl_file(tmp_path, frozen_sha256="other")
    data = json.loads(file.read_text())
    data["runs"] = [{**r, "final": None if r["seed"] == 2 else r["final"]} for r in data["runs"]]
    data["runs"][0]["evals"][0]["n"] = 50
    data["bases"]["flow"]["final"] = final(150)
    file.write_text(json.dumps(data))
    module("dsrl_page").write_page(file, tmp_path / "dsrl.md")
    page = (tmp_path / "dsrl.md").read_text()
    assert page.count("**CHANGED**") == 2
    assert "diffusion, DSRL-NA: 2 of 3 seeds are done" in page
    assert page.count("**no verdict** from so few seeds") == 4
    assert "the claim" not in page.split("## What it shows")[1]
    assert "Some points rest on 50 episodes" in page
    assert "The flow base does 0.75 [0.69, 0.80] (n=200), not 0.3 to 0.6 as was meant." in page


def test_a_page_of_runs_that_are_not_done_has_no_verdict(module, tmp_path):
    runs = [run_of("flow", "dsrl-na", 0, {"steered": [40, 50]}, None)]
    file = write(tmp_path, {"dsrl-na": ["configs/finetune/dsrl.yaml"]}, {"flow": 80}, runs)
    module("dsrl_page").write_page(file, tmp_path / "dsrl.md")
    page = (tmp_path / "dsrl.md").read_text()
    assert "DSRL-NA on the flow policy**: not measured." in page
    assert "claim holds" not in page


@pytest.mark.parametrize(
    ("ours", "control", "said"),
    [
        ((150, 152, 151), (100, 102, 101), "PA-RL is **better**"),
        ((90, 92, 91), (100, 102, 101), "PA-RL is **worse**"),
        ((90, 120, 100), (100, 102, 101), "**cannot be told apart**"),
    ],
)
def test_pa_rl_is_held_against_continued_cloning_seed_by_seed(module, tmp_path, ours, control, said):
    both = {"optimised": [40, 45, 60, 75], "base": [40, 40, 50, 65]}
    runs = [run_of("flow", "pa_rl", s, both, end, final_alone=final(120)) for s, end in enumerate(ours)]
    runs += [run_of("flow", "bc_continued", s, {"base": [40, 45, 50, 50]}, end) for s, end in enumerate(control)]
    presets = {"pa_rl": ["configs/finetune/pa_rl.yaml"], "bc_continued": ["configs/finetune/bc_continued.yaml"]}
    module("pa_rl_page").write_page(write(tmp_path, presets, {"flow": 80}, runs), tmp_path / "pa_rl.md")
    page = (tmp_path / "pa_rl.md").read_text()
    (verdict,) = (line for line in page.splitlines() if "**PA-RL against behaviour cloning" in line)
    assert said in verdict
    assert "3 seeds, paired" in verdict
    assert "With and without the critic" in page
    assert "behaviour cloning continued improves it" in page


def test_intervals_over_seeds_and_episodes_add_up(module):
    page, draw = module("finetune_page"), np.random.default_rng(0)
    # Seeds that agree exactly leave the episodes' noise: 1.96 * 0.5 / sqrt(400) = 0.049
    same = np.arange(400.0) % 2
    agreed = page.over_both([same, same, same])
    assert agreed.high - agreed.mean == pytest.approx(0.049, abs=2e-4)
    # 3000 studies of three seeds (spread 0.05) and 200 common episodes (spread 0.3) around 0.4
    covered = 0
    for _ in range(3000):
        episodes = draw.normal(0.0, 0.3, 200)
        m = page.over_both([episodes + seed for seed in draw.normal(0.4, 0.05, 3)])
        covered += m.low <= 0.4 <= m.high
    assert 0.94 <= covered / 3000 <= 0.99


def arguments(module, tmp_path, *more: str):
    return [
        "dsrl.py", "run", "--base", "flow=/somewhere/runs/flow_10", "--env", "panda_lift", "--kwargs",
        '{"max_steps": 40}', "--max-env-steps", "5000", "--out", str(tmp_path), *more,
    ]  # fmt: skip


@pytest.fixture
def calls(module, monkeypatch, tmp_path):
    """What a study would run; every run is done at once and leaves a run directory."""
    study, seen = module("finetune_study"), []

    def pretend(command: list[str]) -> int:
        seen.append(command)
        run = Path(command[command.index("--resume" if "--resume" in command else "--run_dir") + 1])
        run.mkdir(parents=True, exist_ok=True)
        (run / "config.yaml").write_text("")
        (run / "policy.yaml").write_text("type: steered\n")
        return 0

    def measured(self, path: str, name: str) -> None:
        file = study.final(self.args.out, name)
        file.parent.mkdir(exist_ok=True)
        file.write_text("{}")

    monkeypatch.setattr(study, "patient", pretend)
    monkeypatch.setattr(study.Runs, "_measure", measured)

    def call(*more: str) -> list[list[str]]:
        seen.clear()
        monkeypatch.setattr(sys, "argv", arguments(module, tmp_path, *more))
        study.study("", module("dsrl").METHODS, lambda *_: None)
        return list(seen)

    return call


def test_a_study_runs_every_cell_once_with_the_options_given(calls, tmp_path):
    commands = calls("--", "--dsrl.utd", "3")
    assert len(commands) == 6
    first = " ".join(commands[0])
    assert "finetune configs/finetune/dsrl.yaml --base /somewhere/runs/flow_10 --env panda_lift" in first
    assert "--env.kwargs.max_steps 40" in first
    assert "--max-env-steps 5000" in first
    assert "--seed 0 --eval.episodes 100 --dsrl.variant na --dsrl.utd 3" in first
    assert [c[c.index("--seed") + 1] for c in commands] == ["0", "0", "1", "1", "2", "2"]
    assert calls("--", "--dsrl.utd", "3") == []


def test_a_study_goes_on_where_a_run_stopped_and_refuses_other_settings(calls, tmp_path):
    calls("--seeds", "0", "--methods", "dsrl-na")
    (tmp_path / "final" / "flow_dsrl-na_0.json").unlink()
    (again,) = calls("--seeds", "0", "--methods", "dsrl-na")
    assert again[4:6] == ["--resume", str(tmp_path / "runs" / "flow_dsrl-na_0")]
    assert "--base" not in again
    with pytest.raises(SystemExit, match="options differ; choose another folder"):
        calls("--seeds", "0", "--", "--dsrl.utd", "9")


def test_a_cell_that_fails_does_not_keep_the_others_from_running(calls, module, monkeypatch):
    study = module("finetune_study")
    works = study.patient
    monkeypatch.setattr(study, "patient", lambda c: 2 if "--seed 1" in " ".join(c) else works(c))
    with pytest.raises(SystemExit, match="not done: flow_dsrl-na_1; "):
        calls("--methods", "dsrl-na")
    monkeypatch.setattr(study, "patient", works)
    assert len(calls("--methods", "dsrl-na")) == 1


def test_a_run_that_is_stopped_stops_the_study(calls, module, monkeypatch):
    monkeypatch.setattr(module("finetune_study"), "patient", lambda c: 143)
    with pytest.raises(SystemExit, match="flow_dsrl-na_0: stopped; the same command goes on"):
        calls()


def test_parts_share_the_cells(calls):
    halves = [calls("--part", f"{part}/2") for part in (0, 1)]
    names = [c[c.index("--run_dir") + 1] for half in halves for c in half]
    assert len(names) == len(set(names)) == 6


def test_gathering_reads_curves_and_hides_where_things_lay(module, tmp_path, monkeypatch):
    gathering = module("finetune_gather")
    run = tmp_path / "runs" / "flow_dsrl-na_1"
    run.mkdir(parents=True)
    line = {
        "step": 100, "kind": "eval", "round": 2.0, "env_steps": 100.0, "updates": 7.0, "success_rate": 0.29,
        "steered.success_rate": 0.29, "steered.episodes": 100.0, "base.success_rate": None, "base.episodes": 0.0,
    }  # fmt: skip
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "kind": "collect"}) + "\n" + json.dumps(line) + "\n")
    settings = {"bases": {"flow": "/a/b/runs/flow_10"}, "presets": {"dsrl-na": ["configs/finetune/dsrl.yaml"]},
                "offline": {"flow": "/a/b/data/one,/a/b/data/two"}}  # fmt: skip
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    monkeypatch.setattr(gathering, "told_base", lambda *_: {})
    gathering.gather(tmp_path, tmp_path / "out.json")
    data = json.loads((tmp_path / "out.json").read_text())
    assert data["settings"]["bases"] == {"flow": "runs/flow_10"}
    assert data["settings"]["offline"] == {"flow": "data/one,data/two"}
    assert data["settings"]["presets"] == settings["presets"]
    (told,) = data["runs"]
    assert (told["base"], told["method"], told["seed"]) == ("flow", "dsrl-na", 1)
    assert told["evals"] == [
        {"candidate": "steered", "env_steps": 100, "updates": 7, "n": 100, "successes": 29},
        {"candidate": "base", "env_steps": 100, "updates": 7, "n": 0, "successes": 0},
    ]


@pytest.mark.slow
def test_a_whole_study_of_a_toy_from_run_to_page(module, tmp_path, monkeypatch):
    study, dsrl = module("finetune_study"), module("dsrl")
    monkeypatch.setattr(study, "patient", lambda command: main(command[3:]))
    monkeypatch.setattr(os, "fsync", lambda fd: None)

    def call(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["dsrl.py", *words])
        study.study("", dsrl.METHODS, dsrl.write_page)

    base, out = tiny_base(tmp_path / "flow"), tmp_path / "study"
    few = ["--max-env-steps", "60", "--episodes", "2", "--final-episodes", "3", "--workers", "0", "--seeds", "0"]
    options = ["--dsrl.hidden", "[8]", "--dsrl.batch_size", "8", "--dsrl.utd", "0.5", "--collect.warmup_episodes", "2"]
    place = ["--base", f"flow={base}", "--env", ENV, "--kwargs", '{"max_steps": 12}', "--out", str(out)]
    call("run", *place, *few, "--methods", "dsrl-sac", "--", *options)
    call("gather", str(out), "--out", str(tmp_path / "dsrl.json"))
    call("page", str(tmp_path / "dsrl.json"), "--out", str(tmp_path / "dsrl.md"))
    data = json.loads((tmp_path / "dsrl.json").read_text())
    (run,) = data["runs"]
    assert run["base_sha256"] == run["frozen_sha256"] == data["bases"]["flow"]["sha256_now"]
    assert run["final"]["n"] == data["bases"]["flow"]["final"]["n"] == 3
    assert run["final"]["base_seed"] == 100_000
    assert 0 < run["env_steps"] <= 60
    steered = [p for p in run["evals"] if p["candidate"] == "steered"]
    assert [p["env_steps"] for p in steered] == [0, run["env_steps"]]
    assert all(p["n"] == 2 for p in steered)
    page = (tmp_path / "dsrl.md").read_text()
    assert "| flow | `" in page
    assert "**unchanged**" in page
