"""The distill verb: a run directory like any training's, exact resume, and refusals in one line."""

from __future__ import annotations

import signal

import pytest
import torch

from robopolicy.api import load
from robopolicy.cli.main import main
from robopolicy.core.policy import Cap
from robopolicy.testing.datasets import make_tiny_dataset
from robopolicy.testing.training import final_tensors, losses, tiny_train_config
from robopolicy.training.checkpoint import best_checkpoint, read_progress
from robopolicy.training.loop import Trainer, train
from robopolicy.training.metrics import read_metrics
from robopolicy.training.run_dir import resume_config


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_tiny_dataset(tmp_path_factory.mktemp("distill") / "data", episodes=4, cameras=0)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A diffusion run of a few steps that holds an episode out."""
    folder = tmp_path_factory.mktemp("teacher")
    train(tiny_train_config(data, {"steps": 2, "dataset.val_ratio": 0.3}), folder / "run", progress=False)
    return folder / "run"


def words(teacher, out, *more: str) -> list[str]:
    fast = ["--steps", "4", "--levels", "3", "--batch-size", "8", "--log.every", "1", "--device", "cpu", "--quiet"]
    return ["distill", str(teacher), "--out", str(out), *fast, *more]


def test_a_run_becomes_a_run_whose_policy_needs_one_query(run, tmp_path, capsys):
    out = tmp_path / "student"
    assert main(words(run, out, "--checkpoint.keep_last", "9")) == 0
    assert "distance to the teacher's chunks, held-out episodes: " in capsys.readouterr().out
    student, teacher = load(out), load(run)
    assert student.name == "flow"
    assert student.denoiser_calls == 1
    assert Cap.SCORE not in student.caps
    for key, tensor in teacher.encoder.state_dict().items():
        assert torch.equal(student.encoder.state_dict()[key], tensor), key
    assert resume_config(out).dataset == resume_config(run).dataset  # the same split
    records = read_metrics(out / "metrics.jsonl")
    validations = [r for r in records if r["kind"] == "val"]
    assert [r["step"] for r in validations] == [0, 1, 2, 3, 4]
    assert len({r["teacher_spread"] for r in validations}) == 1
    assert [step for step, _ in losses(out)] == [1, 2, 3, 4]
    nearest = min(r["teacher_distance"] for r in validations[1:])
    assert read_progress(best_checkpoint(out)).score == [-nearest]
    assert main(words(run, out)) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_distillation_stopped_by_ctrl_c_ends_like_one_that_was_not(run, tmp_path, monkeypatch, capsys):
    assert main(words(run, tmp_path / "whole")) == 0
    after = Trainer._after_step

    def interrupted(self, result, step, *rest):
        after(self, result, step, *rest)
        if step == 1:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_after_step", interrupted)
        assert main(words(run, tmp_path / "cut")) == 130
    assert "--resume" in capsys.readouterr().out
    assert main(["distill", "--resume", str(tmp_path / "cut"), "--quiet"]) == 0
    whole, cut = final_tensors(tmp_path / "whole"), final_tensors(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[k], cut[k]) for k in whole)
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")


def test_a_teacher_that_changed_is_noticed(data, tmp_path, capsys):
    config = tiny_train_config(data, {"steps": 1})
    train(config, tmp_path / "run", progress=False)
    out = tmp_path / "student"
    assert main(words(tmp_path / "run", out)) == 0
    assert "no held-out episodes" in capsys.readouterr().out
    (tmp_path / "run").rename(tmp_path / "old")
    train(tiny_train_config(data, {"steps": 1, "seed": 7}), tmp_path / "run", progress=False)
    assert main(["distill", "--resume", str(out), "--quiet"]) == 2
    assert "or the teacher" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--levels", "1"], "levels"),
        (["--steps", "0"], "steps"),
        (["--dataset", "/nowhere/at/all"], "nowhere"),
        (["--policy.horizon", "16"], "horizon"),
        (["--policy.one_step", "false"], "one_step"),
        (["--lr", "1e-3", "--optimizer.lr", "1e-4"], "given twice"),
        (["--nonsense", "1"], "nonsense"),
    ],
)
def test_bad_input_is_one_line_and_makes_no_student(run, tmp_path, capsys, changes, message):
    arguments = words(run, tmp_path / "student")
    for name in changes[::2]:
        if name in arguments:
            at = arguments.index(name)
            del arguments[at : at + 2]
    assert main([*arguments, *changes]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()[-1]) < 400
    assert not list(tmp_path.glob("student/checkpoints/step_*"))


def test_resume_needs_a_distillation(run, capsys):
    assert main(["distill", "--resume", str(run), "--quiet"]) == 2
    assert "robopolicy train --resume" in capsys.readouterr().err
    assert main(["distill", "--quiet"]) == 2
    assert "name the teacher" in capsys.readouterr().err
