"""Splits, retention, metrics file, threads, run directories."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robopolicy.core.errors import ConfigError
from robopolicy.training.config import DatasetConfig
from robopolicy.training.metrics import MetricsFile, read_metrics
from robopolicy.training.retention import score_of, to_keep
from robopolicy.training.run_dir import create_run, default_run_dir, resume_config
from robopolicy.training.split import split_episodes, validation_positions
from robopolicy.training.threads import choose_threads


def test_validation_split_oracle():
    assert validation_positions(206, 0.02, 42) == {18, 90, 134, 157}


@pytest.mark.parametrize(
    ("count", "ratio", "size"), [(10, 0.0, 0), (1, 0.5, 0), (2, 0.9, 1), (10, 0.01, 1), (10, 0.3, 3)]
)
def test_validation_split_sizes(count, ratio, size):
    assert len(validation_positions(count, ratio, 0)) == size


def test_split_respects_chosen_and_limited_episodes():
    config = DatasetConfig(path="d", episodes=(9, 3, 5, 7, 1), val_ratio=0.2, max_train_episodes=2)
    training, validation = split_episodes(range(10), config)
    assert len(training) == 2
    assert len(validation) == 1
    assert set(training) | set(validation) <= {1, 3, 5, 7, 9}
    assert not set(training) & set(validation)
    with pytest.raises(ConfigError, match=r"no episodes \[11\]"):
        split_episodes(range(10), DatasetConfig(path="d", episodes=(1, 11)))


def test_retention_keeps_newest_and_best():
    scores = {1: [0.5, 0.1], 2: [0.9, 0.2], 3: [0.9, 0.3], 4: None, 5: [0.1, 0.9], 6: None}
    assert to_keep(scores, keep_last=1, keep_best=2) == {6, 2, 3}
    assert to_keep(scores, keep_last=2, keep_best=0) == {5, 6}
    assert to_keep({1: [0.5], 2: [0.5]}, keep_last=0, keep_best=1) == {2}  # newer of equals


def test_scores():
    assert score_of({"success_rate": 0.5, "mean_max_reward": 0.8}, from_rollouts=True) == [0.5, 0.8]
    assert score_of({"action_error": 0.2}, from_rollouts=False) == [-0.2]
    assert score_of({"action_error": 0.2}, from_rollouts=True) is None


def test_metrics_survive_a_cut_line_and_forget_what_will_be_repeated(tmp_path):
    log = MetricsFile(tmp_path, keep_until=0)
    for step in (1, 2, 3):
        log.log(step, "train", {"loss": step / 2, "bad": float("nan")})
    log.close()
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 4, "ki')
    again = MetricsFile(tmp_path, keep_until=2)
    again.log(3, "val", {"loss": 9.0})
    again.close()
    assert [(r["step"], r["kind"], r["loss"]) for r in read_metrics(path)] == [
        (1, "train", 0.5), (2, "train", 1.0), (3, "val", 9.0),
    ]  # fmt: skip
    assert json.loads(path.read_text().splitlines()[0])["bad"] is None


def test_threads_follow_the_user_then_the_load():
    assert choose_threads({"OMP_NUM_THREADS": "3"}, load=99.0, cores=2) == 3
    assert choose_threads({}, load=2.5, cores=2) == 1
    assert choose_threads({}, load=0.5, cores=2) == 2
    assert choose_threads({"OMP_NUM_THREADS": "many"}, load=0.0, cores=4) == 4


def test_run_directory_names():
    assert str(default_run_dir("configs/pusht_state/diffusion.yaml")).startswith("runs/pusht_state-diffusion-")
    assert str(default_run_dir("configs/debug.yaml")).startswith("runs/debug-")


def test_a_read_only_place_is_one_clear_line(tmp_path):
    from robopolicy.testing.training import tiny_train_config

    with pytest.raises(ConfigError, match="cannot write the run directory /proc/run"):
        create_run(Path("/proc/run"), tiny_train_config("data"))


def test_resume_may_change_logging_but_not_numbers(tmp_path):
    from robopolicy.testing.training import tiny_train_config

    create_run(tmp_path / "run", tiny_train_config("data"))
    assert resume_config(tmp_path / "run", {"log.every": "9"}).log.every == 9
    with pytest.raises(ConfigError, match=r"--optimizer\.lr cannot change on --resume"):
        resume_config(tmp_path / "run", {"optimizer.lr": "1"})
    with pytest.raises(ConfigError, match="is no run directory"):
        resume_config(tmp_path)
