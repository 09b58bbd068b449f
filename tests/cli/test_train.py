"""The train verb: fast short help, full long help, exit codes, resume, rollouts while training."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
import yaml

from robopolicy.cli.main import main
from robopolicy.testing.datasets import make_tiny_dataset
from robopolicy.testing.training import losses, tiny_train_config
from robopolicy.training.config_load import config_to_dict


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    data = make_tiny_dataset(folder / "data", episodes=3, cameras=0)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config_to_dict(tiny_train_config(data, {"steps": 4}))))
    return path


def test_short_help_is_short_and_imports_nothing_heavy():
    code = "import sys; from robopolicy.cli.main import main\ntry: main(['train', '--help'])\nexcept SystemExit as e: "
    code += "print(e.code, sorted({'torch', 'pydantic', 'accelerate', 'numpy', 'yaml'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    *text, last = out.splitlines()
    assert last == "0 []"
    assert 10 < len(text) <= 60
    assert "--help all" in out


def test_long_help_needs_no_torch():
    code = (
        "import sys; from robopolicy.cli.main import main\ntry: main(['train', '--help', 'all'])\nexcept SystemExit: "
    )
    code += "print(sorted({'torch', 'accelerate'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
    assert "--policy.unet.down_dims" in out


def test_train_and_resume(preset, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", str(preset), "--run_dir", str(run), "--steps", "3", "--quiet"]) == 0
    assert "done: 3 steps" in capsys.readouterr().out
    assert [s for s, _ in losses(run)] == [1, 2, 3]
    assert main(["train", "--resume", str(run), "--quiet"]) == 0
    assert main(["train", str(preset), "--run_dir", str(run), "--quiet"]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name one preset"),
        (["a.yaml", "b.yaml"], "name one preset"),
        (["no/such.yaml"], "no preset 'no/such.yaml'"),
        (["{preset}", "--polcy.horizon", "8"], "did you mean 'policy'"),
        (["{preset}", "--dataset.path", "/nowhere"], "/nowhere"),
        (["--resume", "/nowhere"], "is no run directory"),
        (["extra.yaml", "--resume", "/nowhere"], "leave out 'extra.yaml'"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_two(preset, tmp_path, capsys, arguments, message):
    arguments = [a.replace("{preset}", str(preset)) for a in arguments]
    assert (
        main(["train", *arguments, *(["--run_dir", str(tmp_path / "r")] if "--resume" not in arguments else [])]) == 2
    )
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stop_signals_have_their_exit_codes(preset, tmp_path, monkeypatch, capsys, number, code):
    import os

    from robopolicy.training.ema import EMA

    update = EMA.update
    monkeypatch.setattr(EMA, "update", lambda self: (update(self), self.calls == 2 and os.kill(os.getpid(), number)))
    assert main(["train", str(preset), "--run_dir", str(tmp_path / "run"), "--quiet"]) == code
    assert f"stopped by {number.name} at step 2" in capsys.readouterr().out


def test_rollouts_while_training(tmp_path):
    """A policy with the right sizes for the toy environment is rolled out and recorded."""
    from robopolicy.testing.envs import PointReach
    from robopolicy.training.metrics import read_metrics

    env = PointReach()
    data = record(env, tmp_path / "data")
    preset = tmp_path / "p.yaml"
    config = tiny_train_config(
        data,
        {
            "steps": 2, "env": "point_reach", "eval.every": 2, "eval.episodes": 3, "eval.workers": 1, "eval.videos": 0,
            "policy.observation_keys": None,
        },
    )  # fmt: skip
    preset.write_text(yaml.safe_dump(config_to_dict(config)))
    assert main(["train", str(preset), "--run_dir", str(tmp_path / "run"), "--quiet"]) == 0
    (record_,) = [r for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if r["kind"] == "eval"]
    assert record_["episodes"] == 3
    assert 0 <= record_["success_low"] <= record_["success_rate"] <= record_["success_high"] <= 1
    assert (tmp_path / "run" / "eval" / "step_000002.json").is_file()


def record(env, root):
    import numpy as np

    from robopolicy.datasets.writer import Writer

    with Writer(root, env.fps, env.observation_spec, env.action_space) as writer:
        for seed in range(2):
            env.reset(seed)
            rng = np.random.default_rng(seed)
            for _ in range(12):
                action = rng.uniform(-1, 1, env.action_space.dim).astype(np.float32)
                writer.add_frame(env.observe(), action, "reach")
                env.step(action)
            writer.save_episode()
    return root
