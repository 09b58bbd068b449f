"""A stopped and resumed run equals an uninterrupted one to the bit (CPU)."""

from __future__ import annotations

import pytest
import torch

from robopolicy.core.errors import CheckpointError, ConfigError
from robopolicy.testing.datasets import make_tiny_dataset
from robopolicy.testing.training import final_tensors, losses, tiny_train_config
from robopolicy.training.loop import train

IMAGES = {"policy.observation_keys": None}
TRANSFORMER = {
    "policy.backbone": "transformer",
    "policy.transformer": {"n_layer": 1, "n_head": 2, "n_emb": 16, "p_drop_attn": 0.3, "p_drop_emb": 0.1},
}
CASES = {
    "unet": {},
    "images": IMAGES,
    "no-ema": {"ema.enabled": False},
    "accumulation": {"grad_accumulation": 3},
    "bf16": {"precision": "bf16"},
    "dropout": TRANSFORMER,
    "sparse-log": {"log.every": 7},
    "images-accumulation-validation": {**IMAGES, "grad_accumulation": 2, "dataset.val_ratio": 0.3},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_tiny_dataset(tmp_path_factory.mktemp("data"), episodes=4, length=20, size=(24, 24))


def config_for(data, case, tmp_path):
    return tiny_train_config(
        data, {"steps": 20, "validation.every": 5, "dataset.cache_dir": str(tmp_path / "cache"), **CASES[case]}
    )


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_equal_ten_and_ten(data, tmp_path, case):
    config = config_for(data, case, tmp_path)
    train(config, tmp_path / "straight", progress=False)
    first = train(config, tmp_path / "halves", progress=False, stop_at=10)
    assert (first.step, first.stopped) == (10, "stop_at")
    second = train(config, tmp_path / "halves", resume=True, progress=False)
    assert (second.step, second.stopped) == (20, None)
    want, got = final_tensors(tmp_path / "straight"), final_tensors(tmp_path / "halves")
    assert want.keys() == got.keys()
    different = [name for name in want if not torch.equal(want[name], got[name])]
    assert different == []
    assert losses(tmp_path / "straight") == losses(tmp_path / "halves")
    assert len(losses(tmp_path / "halves")) == len({step for step, _ in losses(tmp_path / "halves")})


def test_the_seed_decides_the_run(data, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(tiny_train_config(data, {"seed": seed}), tmp_path / name, progress=False)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert losses(tmp_path / "a") != losses(tmp_path / "c")


def test_resume_after_the_last_step_changes_nothing(data, tmp_path):
    config = tiny_train_config(data)
    stamp = train(config, tmp_path / "run", progress=False).checkpoint.stat().st_mtime_ns
    before = final_tensors(tmp_path / "run")
    result = train(config, tmp_path / "run", resume=True, progress=False)
    assert result.step == config.steps
    assert result.checkpoint.stat().st_mtime_ns == stamp
    after = final_tensors(tmp_path / "run")
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_resume_without_any_checkpoint_starts_over(data, tmp_path):
    config = tiny_train_config(data)
    train(config, tmp_path / "whole", progress=False)
    result = train(config, tmp_path / "run", progress=False, stop_at=3)
    for file in sorted(result.checkpoint.rglob("*.safetensors")):
        file.write_bytes(b"")
    train(config, tmp_path / "run", resume=True, progress=False)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_an_existing_run_is_never_overwritten(data, tmp_path):
    config = tiny_train_config(data)
    train(config, tmp_path / "run", progress=False, stop_at=1)
    with pytest.raises(ConfigError, match=r"exists already.*--resume"):
        train(config, tmp_path / "run", progress=False)


def test_resume_refuses_another_configuration(data, tmp_path):
    train(tiny_train_config(data), tmp_path / "run", progress=False, stop_at=1)
    with pytest.raises(ConfigError, match="other values of: batch_size"):
        train(tiny_train_config(data, {"batch_size": 4}), tmp_path / "run", resume=True, progress=False)


def test_resume_refuses_a_changed_dataset(tmp_path):
    data = make_tiny_dataset(tmp_path / "data", episodes=2, cameras=0)
    config = tiny_train_config(data)
    train(config, tmp_path / "run", progress=False, stop_at=1)
    (tmp_path / "data").rename(tmp_path / "old")
    make_tiny_dataset(tmp_path / "data", episodes=2, cameras=0, seed=1)
    with pytest.raises(CheckpointError, match="changed since the run began"):
        train(config, tmp_path / "run", resume=True, progress=False)
