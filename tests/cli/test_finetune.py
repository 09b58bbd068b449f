"""The finetune verb: fast teaching help, presets, exit codes, signals, evaluation on paired seeds, what is deployed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from robopolicy.cli.main import main
from robopolicy.resources import resource
from robopolicy.testing.finetuning import BASE, curve, tiny_base
from robopolicy.training.finetune_config import load_finetune_config

PLUGIN = {"ROBOPOLICY_PLUGINS": "robopolicy.testing.improvers"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_base(tmp_path_factory.mktemp("verb") / "base")


def preset(folder, base, **changes):
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump({**BASE, "base": str(base), **changes}))
    return file


def output(*words: str) -> list[str]:
    code = f"import sys; from robopolicy.cli.main import main\ntry: main({['finetune', '--help', *words]})\n"
    code += "except SystemExit: print(sorted({'torch', 'pydantic', 'numpy', 'yaml', 'accelerate'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return out.splitlines()


def test_help_imports_nothing_heavy_and_teaches_with_the_safety_note():
    *text, heavy = output()
    assert heavy == "[]"
    assert 20 < len(text) <= 60
    told = "\n".join(text)
    for word in ("--base PATH", "--max-env-steps", "--resume RUN", "on a real robot", "emergency", "exit codes"):
        assert word in told


def test_long_help_has_every_methods_options_and_needs_no_torch():
    *text, heavy = output("all")
    assert "torch" not in heavy
    told = "\n".join(text)
    for option in ("--dsrl.bound", "--pa_rl.eta", "--safety.mix_base", "--offline.paths", "--collect.episodes"):
        assert option in told
    assert "--method" not in told


@pytest.mark.parametrize(("name", "kind"), [("dsrl", "dsrl"), ("pa_rl", "pa_rl"), ("bc_continued", "pa_rl")])
def test_presets_are_valid_and_name_their_method(name, kind):
    config = load_finetune_config(resource(f"configs/finetune/{name}.yaml"), {"base": "somewhere"})
    assert (config.type, config.max_env_steps) == (kind, 50_000)
    assert (name == "bc_continued") == (getattr(config.method, "imitate", "") == "data")


def test_one_word_changes_the_method():
    config = load_finetune_config(resource("configs/finetune/dsrl.yaml"), {"base": "x", "type": "pa_rl"})
    assert type(config.method).__name__ == "PARLConfig"


def test_a_run_tells_its_curve_resumes_and_is_evaluated(base, tmp_path, capsys):
    file = preset(tmp_path, base, eval={"every_rounds": 2, "episodes": 3, "slots": 2})
    run = tmp_path / "run"
    words = ["finetune", str(file), "--run_dir", str(run), "--rounds", "2", "--quiet"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "done: 2 rounds" in out
    assert "base at 0 steps: " in out
    assert ", n = 3" in out
    assert main(words) == 2
    assert "robopolicy finetune --resume" in capsys.readouterr().err
    # Candidates and moments are measured on the same start seeds.
    seeds = {p.name: [e["seed"] for e in json.loads(p.read_text())["episodes"]] for p in (run / "eval").glob("*.json")}
    assert set(seeds) == {f"{label}_{who}.json" for label in ("start", "round_00002") for who in ("tuned", "base")}
    assert set(map(tuple, seeds.values())) == {(50_000, 50_001, 50_002)}
    records = [r for r in curve(run) if r["kind"] == "eval"]
    assert [r["base.success_rate"] for r in records] == [records[0]["base.success_rate"]] * 2  # a frozen base
    assert main(["finetune", "--resume", str(run), "--rounds", "3", "--quiet"]) == 0
    assert main(["evaluate", str(run), "--episodes", "2", "--workers", "0", "--quiet"]) == 0
    assert "success" in capsys.readouterr().out
    assert len(list((run / "eval").glob("policy_*_n2.json"))) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name one preset"),
        (["--resume", "nowhere"], "is no run directory"),
        (["configs/finetune/dsrl.yaml"], "--base PATH"),
        (["configs/finetune/dsrl.yaml", "--base", "nowhere"], "no such directory"),
        (["configs/finetune/dsrl.yaml", "--base", "x", "--dsrl.boundd", "1"], "did you mean 'bound'"),
        (["configs/finetune/dsrl.yaml", "--base", "x", "--type", "ppo"], "unknown fine-tuning method 'ppo'"),
        (["configs/finetune/dsrl.yaml", "--base", "x", "--pa_rl.eta", "1"], "has no effect with type: dsrl"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(words, message, capsys):
    assert main(["finetune", *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_resume_refuses_what_is_part_of_the_numbers(base, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["finetune", str(preset(tmp_path, base)), "--run_dir", str(run), "--rounds", "1", "--quiet"]) == 0
    assert main(["finetune", "--resume", str(run), "--collect.episodes", "5"]) == 2
    assert "--collect.episodes cannot change on --resume" in capsys.readouterr().err


def test_the_safety_rule_has_its_exit_code(base, tmp_path, capsys):
    file = preset(tmp_path, base, env={**BASE["env"], "kwargs": {"max_steps": 1}}, safety={"max_failures": 2})
    assert main(["finetune", str(file), "--run_dir", str(tmp_path / "run"), "--quiet"]) == 1
    assert "stopped by the safety rule" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_signals_save_and_the_run_goes_on(base, tmp_path, name, code, capsys):
    run = tmp_path / "run"
    words = ["finetune", str(preset(tmp_path, base, rounds=100_000)), "--run_dir", str(run), "--quiet"]
    command = [sys.executable, "-m", "robopolicy", *words]
    process = subprocess.Popen(command, env={**os.environ, **PLUGIN}, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (run / "policy.yaml").is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(getattr(signal, name))
    out, _ = process.communicate(timeout=300)
    assert process.returncode == code
    assert f"stopped by {name} after" in out
    rounds = len([r for r in curve(run) if r["kind"] == "train"])
    assert main(["finetune", "--resume", str(run), "--rounds", str(rounds + 2), "--quiet"]) == 0
    assert f"done: {rounds + 2} rounds" in capsys.readouterr().out
