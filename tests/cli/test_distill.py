"""The distill verb: from a run to a student on disk, and its refusals."""

from __future__ import annotations

import pytest

from robopolicy.api import load
from robopolicy.cli.main import main
from robopolicy.core.policy import Cap
from robopolicy.testing.datasets import make_tiny_dataset
from robopolicy.testing.training import tiny_train_config
from robopolicy.training.loop import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A diffusion run of a few steps."""
    folder = tmp_path_factory.mktemp("distill")
    data = make_tiny_dataset(folder / "data", episodes=3, cameras=0)
    train(tiny_train_config(data, {"steps": 2}), folder / "run", progress=False)
    return folder / "run"


def test_a_run_becomes_a_student_that_needs_one_query(run, tmp_path, capsys):
    out = tmp_path / "student"
    words = ["distill", str(run), "--out", str(out), "--steps", "3", "--levels", "5", "--batch-size", "8", "--quiet"]
    assert main([*words, "--device", "cpu"]) == 0
    assert "1 network query a chunk" in capsys.readouterr().out
    student = load(out)
    assert student.name == "flow"
    assert student.denoiser_calls == 1
    assert Cap.SCORE not in student.caps
    assert main([*words, "--device", "cpu"]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [(["--levels", "1"], "levels"), (["--steps", "0"], "steps"), (["--dataset", "/nowhere/at/all"], "nowhere")],
)
def test_bad_input_is_one_line_and_leaves_nothing(run, tmp_path, capsys, changes, message):
    out = tmp_path / "student"
    assert main(["distill", str(run), "--out", str(out), "--quiet", "--device", "cpu", *changes]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert not out.exists()
