"""``robopolicy compose`` end to end: search, report, files, resuming, and the result as a policy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

import robopolicy
from robopolicy.cli.main import main
from robopolicy.core.specs import ACTION, ENVIRONMENT_STATE, STATE
from robopolicy.evaluation.provenance import policy_hash
from robopolicy.policies.flow_config import FlowConfig
from robopolicy.policies.io import save_policy
from robopolicy.policies.registry import make_policy
from robopolicy.sim.collect import collect
from robopolicy.sim.registry import EnvConfig
from robopolicy.testing.envs import PointReach
from robopolicy.testing.tiny import TINY_UNET, tiny_config, unit_stats
from robopolicy.testing.training import tiny_train_config
from robopolicy.training.loop import train

SEED = 0  # with these weights the mean of both does better on the search's episodes than either alone


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """Three untrained policies that fit together."""
    folder, env = tmp_path_factory.mktemp("parts"), PointReach()
    stats = {key: unit_stats(2) for key in (STATE, ENVIRONMENT_STATE, ACTION)}
    layout = {"horizon": 8, "n_action_steps": 4}
    configs = {
        "diffusion": tiny_config(**layout, num_inference_steps=3),
        "flow": FlowConfig(**layout, unet=TINY_UNET, num_inference_steps=3),
        "third": tiny_config(**layout, prediction="x0", num_inference_steps=3),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        for name, config in configs.items():
            save_policy(make_policy(config, env.observation_spec, env.action_space, env.fps, stats), folder / name)
    return folder


def argv(parts: Path, out: Path, *more: str, names: tuple[str, ...] = ("diffusion", "flow")) -> list[str]:
    episodes = ["--search-episodes", "2", "--report-episodes", "3"]
    env = ["--env", "point_reach", "--env.max_steps", "6"]
    return ["compose", *(str(parts / n) for n in names), *env, *episodes, "--workers", "0", "--out", str(out), *more]


def test_search_report_resume_and_use(parts, tmp_path, capsys):
    out = tmp_path / "both" / "composed.yaml"
    command = argv(parts, out, "--weights", "0,0.5,1", "--quiet")
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "(3 pairs)" not in told
    assert "/3)" in told
    cells = sorted(p.name for p in (tmp_path / "both" / "composed.cells").glob("w_*"))
    assert len([c for c in cells if "seed200000_n2" in c]) == 3
    assert len([c for c in cells if "seed100000_n3" in c]) in (2, 3)
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["env"] == {"name": "point_reach", "kwargs": {"max_steps": 6}}
    assert record["parents_sha256"] == [policy_hash(robopolicy.load(parts / n)) for n in ("diffusion", "flow")]
    assert record["gram"] is None
    data = yaml.safe_load(out.read_text())
    assert data["policies"] == ["../../" + str((parts / n).relative_to(tmp_path.parent)) for n in ("diffusion", "flow")]
    assert data["weights"] == record["weights"]
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "both" / "composed.cells").iterdir()}
    assert main(command) == 0
    assert stamps == {p: p.stat().st_mtime_ns for p in stamps}
    assert main(["evaluate", str(out), "--episodes", "2", "--workers", "0", "--quiet"]) == 0
    evaluated = json.loads((tmp_path / "both" / "eval" / "composed_point_reach_seed100000_n2.json").read_text())
    assert evaluated["env"]["kwargs"] == {"max_steps": 6}
    # The file is what the report measured: the same episodes end in the same way.
    assert [e["length"] for e in evaluated["episodes"]] == [6, 6]
    rewards = [round(e["max_reward"], 6) for e in evaluated["episodes"]]
    assert rewards == pytest.approx(record["report"][0]["max_reward"][:2], abs=1e-4)


def test_another_sampler_is_the_leaders_alone_and_together(parts, tmp_path):
    command = argv(parts, tmp_path / "c.yaml", "--weights", "0.5,1", "--quiet", "--leader", "0")
    assert main([*command, "--sampler.num_inference_steps", "2"]) == 0
    steps = {}
    for name in ("w_1_0", "w_0.5_0.5", "w_0_1"):
        (file,) = (tmp_path / "c.cells").glob(f"{name}_seed100000*")
        steps[name] = json.loads(file.read_text())["policy"]["num_inference_steps"]
    assert steps == {"w_1_0": 2, "w_0.5_0.5": 2, "w_0_1": 3}
    data = yaml.safe_load((tmp_path / "c.yaml").read_text())
    assert (data["leader"], data["sampler"]) == (0, {"num_inference_steps": 2})
    assert main(command) == 2  # another decoder in the same place


def test_three_parents(parts, tmp_path):
    names = ("diffusion", "flow", "third")
    command = argv(parts, tmp_path / "c.yaml", "--weights", "0,0.5,1", "--search", "halving", "--quiet", names=names)
    assert main(command) == 0
    record = json.loads((tmp_path / "c.json").read_text())
    assert len(record["search"]) == 6
    assert len(record["report"]) == 4
    assert (tmp_path / "c.png").stat().st_size > 5000
    assert "0 / 0.5 / 0.5" in (tmp_path / "c.md").read_text()


def test_gram_reads_the_demonstrations_the_first_run_held_out(tmp_path):
    data = tmp_path / "data"
    collect(EnvConfig("point_reach"), data, 4, workers=0, noise=0.0)
    for name, seed in (("a", 0), ("b", 1)):
        config = tiny_train_config(data, {"steps": 1, "dataset.val_ratio": 0.3, "seed": seed})
        train(config, tmp_path / name, progress=False)
    out = tmp_path / "ab.yaml"
    words = ["compose", str(tmp_path / "a"), str(tmp_path / "b"), "--env", "point_reach", "--search", "gram"]
    assert main([*words, "--report-episodes", "2", "--workers", "0", "--quiet", "--out", str(out)]) == 0
    record = json.loads(out.with_suffix(".json").read_text())
    gram = record["gram"]
    assert gram["data"] == {"path": str(data), "episodes": 1, "held_out": [True, True]}
    assert 0 < gram["windows"] <= 256
    assert len(gram["level_weights"]) == len(gram["kappas"]) == 2
    assert 0 <= gram["low"][0] <= gram["high"][0] <= 1
    assert record["weights"][0] == pytest.approx(gram["weights"][0], abs=1e-3)
    assert yaml.safe_load(out.read_text())["policies"] == [f"{n}/checkpoints/step_000001/policy" for n in "ab"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--search", "gram"], "--data DATASET"),
        (["--search", "greed"], "compose: method"),
        (["--search-seed", "100001"], "overlap: the report would flatter"),
        (["--weights", "0.2,1.2"], "weights"),
        (["--operator", "convexx"], "did you mean 'convex'"),
        (["--sampler.steps", "3"], "unknown option steps"),
        (["--stray", "1"], "unknown argument --stray"),
        (["--out", "x.json"], "the composition is a YAML file"),
        (["--n-action-steps", "9"], "n_action_steps"),
    ],
)
def test_mistakes_are_one_line_and_run_nothing(parts, tmp_path, more, words, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv(parts, tmp_path / "x.yaml", "--quiet", *more)) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    assert not list(tmp_path.rglob("w_*.json"))


def test_one_policy_is_not_enough(parts, tmp_path, capsys):
    assert main(argv(parts, tmp_path / "x.yaml", names=("flow",))) == 2
    assert "two policies or more" in capsys.readouterr().err
