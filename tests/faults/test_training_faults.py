"""NaN samples, signals, full disks: what a running training does about them."""

from __future__ import annotations

import os
import re
import resource
import signal

import numpy as np
import pytest
import torch

from robopolicy.core import io
from robopolicy.core.errors import CheckpointError, ConfigError, DatasetError, NonFiniteLoss
from robopolicy.datasets.windows import Windows
from robopolicy.testing.datasets import make_tiny_dataset
from robopolicy.testing.training import final_tensors, losses, tiny_train_config
from robopolicy.training.checkpoint import latest_checkpoint, read_progress, verify_checkpoint
from robopolicy.training.loop import train
from robopolicy.training.metrics import read_metrics


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_tiny_dataset(tmp_path_factory.mktemp("data"), episodes=3, length=20, cameras=0)


def poison(monkeypatch, row):
    """Make the action of the window whose newest frame is ``row`` NaN, after every check of the dataset."""
    gather = Windows.gather

    def poisoned(self, indices):
        batch = gather(self, indices)
        batch["action"][batch["index"] == row] = np.nan
        return batch

    monkeypatch.setattr(Windows, "gather", poisoned)


def test_a_nan_sample_is_named_at_its_first_step(data, tmp_path, monkeypatch, caplog):
    poison(monkeypatch, row=27)
    config = tiny_train_config(data, {"steps": 40, "guard.max_skips": 3})
    with pytest.raises(NonFiniteLoss, match=r"row 27 \(episode 1\).*3 steps skipped") as caught:
        train(config, tmp_path / "run", progress=False)
    assert "row" in str(caught.value)
    assert len(re.findall(r"row \d+", str(caught.value))) == 1  # nobody else is blamed
    skipped = [r["step"] for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if "skipped" in r]
    assert len(skipped) == 3
    assert caplog.text.count("row 27 (episode 1)") == 3
    saved = read_progress(verify_checkpoint(latest_checkpoint(tmp_path / "run")))
    assert saved.step == skipped[-1]
    assert all(torch.isfinite(v).all() for v in final_tensors(tmp_path / "run").values())
    assert all(np.isfinite(loss) for _, loss in losses(tmp_path / "run")[: skipped[0] - 1])


def test_skipped_steps_leave_no_trace_in_the_weights(data, tmp_path, monkeypatch):
    poison(monkeypatch, row=27)
    config = tiny_train_config(data, {"steps": 14, "guard.max_skips": 50})
    result = train(config, tmp_path / "run", progress=False)
    assert result.step == 14
    assert read_progress(result.checkpoint).skipped
    assert all(torch.isfinite(v).all() for v in final_tensors(tmp_path / "run").values())


def test_a_nan_in_the_dataset_is_refused_before_the_first_step(tmp_path, monkeypatch):
    import robopolicy.testing.datasets as tiny

    made = tiny.tiny_episodes

    def broken(*args):
        episodes = made(*args)
        episodes[1].columns["action"][4, 0] = np.nan
        return episodes

    monkeypatch.setattr(tiny, "tiny_episodes", broken)
    data = make_tiny_dataset(tmp_path / "data", episodes=2, cameras=0)
    with pytest.raises(DatasetError, match=r"(?i)action.*episode 1"):
        train(tiny_train_config(data), tmp_path / "run", progress=False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_save_and_resume_exactly(data, tmp_path, monkeypatch, number):
    config = tiny_train_config(data, {"steps": 12})
    train(config, tmp_path / "whole", progress=False)
    from robopolicy.training.ema import EMA

    update = EMA.update

    def update_and_signal(self):
        update(self)
        if self.calls == 5:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(EMA, "update", update_and_signal)
    before = signal.getsignal(number)
    result = train(config, tmp_path / "run", progress=False)
    assert (result.step, result.stopped) == (5, signal.Signals(number).name)
    assert signal.getsignal(number) is before
    verify_checkpoint(result.checkpoint)
    monkeypatch.undo()
    train(config, tmp_path / "run", resume=True, progress=False)
    want, got = final_tensors(tmp_path / "whole"), final_tensors(tmp_path / "run")
    assert [k for k in want if not torch.equal(want[k], got[k])] == []
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_a_second_signal_ends_at_once():
    from robopolicy.training.signals import StopSignals

    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_a_full_disk_is_one_clear_error_and_spares_the_old_checkpoint(data, tmp_path, share):
    config = tiny_train_config(data, {"steps": 6, "checkpoint.every": 3})
    first = train(config, tmp_path / "run", progress=False, stop_at=3).checkpoint
    largest = max(p.stat().st_size for p in first.rglob("*") if p.is_file())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limited = []

    def limit(name):
        if name == "before_weights":
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest * share), hard))
            limited.append(name)

    io.fault_point = limit
    try:
        with pytest.raises(
            CheckpointError, match=r"could not save .*step_000006.*earlier checkpoints are untouched"
        ) as e:
            train(config, tmp_path / "run", resume=True, progress=False)
        assert "\n" not in str(e.value)
    finally:
        io.fault_point = lambda name: None
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert limited
    assert latest_checkpoint(tmp_path / "run") == first
    assert list((tmp_path / "run" / "checkpoints").glob(".partial-*")) == []
    result = train(config, tmp_path / "run", resume=True, progress=False)
    assert result.step == 6


def test_a_deleted_checkpoint_folder_is_made_again(data, tmp_path):
    config = tiny_train_config(data)
    train(config, tmp_path / "run", progress=False, stop_at=2)
    for path in sorted((tmp_path / "run" / "checkpoints").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (tmp_path / "run" / "checkpoints").rmdir()
    assert train(config, tmp_path / "run", resume=True, progress=False).step == config.steps


def test_out_of_memory_saves_and_says_what_to_try(data, tmp_path, monkeypatch):
    from robopolicy.training.step import Stepper

    config = tiny_train_config(data, {"steps": 6})
    train(config, tmp_path / "whole", progress=False)
    call = Stepper.__call__

    def starved(self, micro, step):
        if step == 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return call(self, micro, step)

    monkeypatch.setattr(Stepper, "__call__", starved)
    with pytest.raises(ConfigError, match=r"at step 4 with 8 samples.*--grad_accumulation 2"):
        train(config, tmp_path / "run", progress=False)
    assert read_progress(latest_checkpoint(tmp_path / "run")).step == 4
    monkeypatch.undo()
    smaller = tiny_train_config(data, {"steps": 6, "grad_accumulation": 2})
    train(smaller, tmp_path / "run", resume=True, progress=False)
    assert [v for _, v in losses(tmp_path / "run")] == pytest.approx(
        [v for _, v in losses(tmp_path / "whole")], abs=1e-5
    )
