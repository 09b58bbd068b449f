"""``robopolicy evaluate``, ``compare`` and ``report`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robopolicy.cli.evaluate import choose_env, default_out, rest_options, run_of, training_step
from robopolicy.cli.main import main
from robopolicy.core.errors import ConfigError
from robopolicy.core.specs import ACTION, ENVIRONMENT_STATE, STATE
from robopolicy.evaluation.record import EvaluationRecord
from robopolicy.policies.io import save_policy
from robopolicy.policies.registry import make_policy
from robopolicy.testing.envs import PointReach
from robopolicy.testing.tiny import tiny_config, unit_stats


@pytest.fixture(scope="module")
def policy_dir(tmp_path_factory) -> Path:
    env = PointReach()
    stats = {key: unit_stats(2) for key in (STATE, ENVIRONMENT_STATE, ACTION)}
    policy = make_policy(
        tiny_config(horizon=8, n_action_steps=4), env.observation_spec, env.action_space, env.fps, stats
    )
    return save_policy(policy, tmp_path_factory.mktemp("policies") / "tiny")


def test_evaluate_then_compare_then_report(policy_dir, tmp_path, capsys):
    run = tmp_path / "run"
    common = [str(policy_dir), "--env", "point_reach", "--env.max_steps", "12", "--episodes", "6", "--workers", "1"]
    for name in ("a", "b.json"):
        assert main(["evaluate", *common, "--videos", "2", "--out", str(run / "eval" / name), "--quiet"]) == 0
    text = capsys.readouterr().out
    assert "success    0." in text
    assert "/6)" in text
    record = json.loads((run / "eval" / "a.json").read_text())
    assert record["env"] == {"name": "point_reach", "kwargs": {"max_steps": 12}}
    assert record["policy"]["path"] == str(policy_dir)
    assert sorted(p.name for p in (run / "eval" / "b").iterdir()) == [
        "episode_0000.mp4",
        "episode_0001.mp4",
        "grid.mp4",
    ]
    assert main(["compare", str(run / "eval" / "a.json"), str(run / "eval" / "b.json")]) == 0
    assert "cannot be told apart" in capsys.readouterr().out
    assert main(["compare", str(run), str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["difference"] == 0
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert "<video" in (run / "report.html").read_text()


def test_lost_episodes_are_told_by_the_exit_code(policy_dir, tmp_path, capsys):
    options = ["--env.faults", "{raise: [100001]}", "--episodes", "3", "--workers", "0", "--out", str(tmp_path / "x")]
    assert main(["evaluate", str(policy_dir), "--env", "point_reach", *options, "--quiet"]) == 1
    assert "not scored: 1 (seeds 100001)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--env", "point_reech"], "did you mean 'point_reach'"),
        ([], "name the environment"),
        (["--env", "point_reach", "--env.colour", "red"], "no argument 'colour'"),
        (["--env", "point_reach", "--odd", "1"], "unknown argument --odd"),
        (["--env", "point_reach", "--episodes", "0"], "episodes must be >= 1"),
    ],
)
def test_mistakes_are_one_line(policy_dir, words, message, capsys):
    assert main(["evaluate", str(policy_dir), "--workers", "0", "--quiet", *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_missing_paths_are_one_line(tmp_path, capsys):
    assert main(["evaluate", str(tmp_path / "none"), "--env", "point_reach"]) == 2
    assert main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 2
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 3


def test_env_and_sampler_options_are_yaml():
    env = ["--env.image_size", "96,128", "--env.depth=true", "--env.cameras", "[front]", "--env.x", "a"]
    sampler = ["--sampler.num_inference_steps", "3", "--sampler.sampler=heun"]
    got = rest_options(env + sampler)
    assert got == (
        {"image_size": [96, 128], "depth": True, "cameras": ["front"], "x": "a"},
        {"num_inference_steps": 3, "sampler": "heun"},
    )
    with pytest.raises(ConfigError, match="unknown argument stray"):
        rest_options(["stray"])


def test_another_sampler_is_used_and_recorded_with_latency(policy_dir, tmp_path, capsys):
    argv = ["evaluate", str(policy_dir), "--env", "point_reach", "--episodes", "2", "--workers", "0", "--quiet"]
    changed = ["--sampler.sampler", "dpmpp_2m", "--sampler.num_inference_steps", "3"]
    assert main([*argv, "--latency", "--out", str(tmp_path / "r"), *changed]) == 0
    record = EvaluationRecord.load(tmp_path / "r.json")
    assert (record.policy["sampler"], record.policy["num_inference_steps"]) == ("dpmpp_2m", 3)
    assert record.policy["parameters"] > 1000
    assert record.timing.single_ms["p50"] > 0
    assert main([*argv, "--sampler.steps", "3"]) == 2
    assert "unknown option steps" in capsys.readouterr().err


def test_a_run_knows_its_environment_and_where_records_go(tmp_path):
    run = tmp_path / "run"
    policy = run / "checkpoints" / "step_000120" / "policy"
    policy.mkdir(parents=True)
    (run / "config.yaml").write_text("env: {name: pusht, kwargs: {obs_type: state}}\n")
    assert run_of(policy) == run
    assert training_step(policy) == 120
    assert choose_env(None, {"a": 1}, policy).kwargs == {"obs_type": "state", "a": 1}
    assert choose_env("pusht", {}, policy).kwargs == {"obs_type": "state"}
    assert choose_env("point_reach", {}, policy).kwargs == {}
    assert default_out(policy, "pusht", 5, 20) == run / "eval" / "step_000120_pusht_seed5_n20"
    assert run_of(tmp_path / "policy") is None
    assert default_out(tmp_path, "pkg.mod:Env", 5, 20) == Path("evaluations") / f"{tmp_path.name}_Env_seed5_n20"
