"""Flipped bits, truncation, lost files and foreign tensors in a checkpoint: all found, all named."""

from __future__ import annotations

import contextlib
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from robopolicy.core.errors import CheckpointError
from robopolicy.policies.io import load_policy
from robopolicy.testing.datasets import make_tiny_dataset
from robopolicy.testing.training import tiny_train_config
from robopolicy.training.checkpoint import best_checkpoint, latest_checkpoint, load_training, verify_checkpoint
from robopolicy.training.loop import train
from robopolicy.training.optim import build_optimizer

FLIPS = 200


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage")
    data = make_tiny_dataset(folder / "data", episodes=2, cameras=0)
    config = tiny_train_config(data, {"steps": 4, "checkpoint.every": 2})
    train(config, folder / "run", progress=False)
    return folder / "run", config


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run[0], tmp_path / "run")


def test_two_hundred_flipped_bits(copy):
    checkpoint = latest_checkpoint(copy)
    files = sorted(p for p in checkpoint.rglob("*") if p.is_file())
    assert len(files) == 9
    rng = np.random.default_rng(0)
    undetected = []
    for i in range(FLIPS):
        file = files[i % len(files)]
        content = bytearray(file.read_bytes())
        at, bit = int(rng.integers(len(content))), 1 << int(rng.integers(8))
        content[at] ^= bit
        file.write_bytes(content)
        with contextlib.suppress(CheckpointError):
            verify_checkpoint(checkpoint)
            undetected.append((file.name, at, bit))
        content[at] ^= bit
        file.write_bytes(content)
    assert undetected == []
    verify_checkpoint(checkpoint)


def test_a_damaged_checkpoint_is_skipped_and_named(copy, caplog):
    newest, older = sorted((copy / "checkpoints").iterdir(), reverse=True)
    weights = newest / "policy" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    assert latest_checkpoint(copy) == older
    assert best_checkpoint(copy) == older
    assert "skipping a damaged checkpoint" in caplog.text
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_policy(newest)


@pytest.mark.parametrize("name", ["training/optimizer.safetensors", "policy/config.yaml", "training/state.json"])
def test_truncation_and_loss(copy, name):
    checkpoint = latest_checkpoint(copy)
    file = checkpoint / name
    whole = file.read_bytes()
    rng = np.random.default_rng(1)
    for length in (0, *rng.integers(1, len(whole), 15)):
        file.write_bytes(whole[: int(length)])
        with pytest.raises(CheckpointError, match=rf"{file.name}.*truncated"):
            verify_checkpoint(checkpoint)
    file.unlink()
    with pytest.raises(CheckpointError, match=f"missing {name}"):
        verify_checkpoint(checkpoint)
    file.write_bytes(whole)
    (checkpoint / "training" / "stowaway.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"stowaway\.bin"):
        verify_checkpoint(checkpoint)


def test_unfinished_checkpoints_are_not_offered(copy):
    newest, older = sorted((copy / "checkpoints").iterdir(), reverse=True)
    (newest / "manifest.json").unlink()
    left = copy / "checkpoints" / ".partial-step_000099-deadbeef"
    left.mkdir()
    assert latest_checkpoint(copy) == older
    assert left.exists()  # only the trainer sweeps
    assert latest_checkpoint(copy, sweep=True) == older
    assert not left.exists()


def drop(tensors, key):
    del tensors[key]


def add(tensors, key):
    tensors["stranger"] = torch.zeros(2)


def transpose(tensors, key):
    tensors[key] = tensors[key].transpose(0, 1).contiguous()


@pytest.mark.parametrize(
    ("change", "told"),
    [(drop, ("missing", "lacks")), (add, ("not have", "no parameter")), (transpose, ("expected shape",) * 2)],
)
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors"])
def test_foreign_training_tensors_are_refused_by_name(copy, change, told, file):
    checkpoint = latest_checkpoint(copy)
    path = checkpoint / "training" / file
    tensors = load_file(path)
    key = next(k for k, v in tensors.items() if v.ndim >= 2 and v.shape[0] != v.shape[1])
    change(tensors, key)
    save_file(tensors, path)
    policy = load_policy_of(checkpoint)
    optimizer = build_optimizer(policy, tiny_train_config("d").optimizer)
    with pytest.raises(CheckpointError) as caught:
        load_training(checkpoint, policy, optimizer)
    assert told[file.startswith("optimizer")] in str(caught.value)
    assert ("stranger" if change is add else key) in str(caught.value)


def load_policy_of(checkpoint):
    from robopolicy.policies.io import read_policy_files

    return read_policy_files(checkpoint / "policy")


def test_an_unreadable_state_file_is_one_line(copy):
    checkpoint = latest_checkpoint(copy)
    (checkpoint / "training" / "state.json").write_text("{}")
    policy = load_policy_of(checkpoint)
    with pytest.raises(CheckpointError, match=r"state\.json: unreadable"):
        load_training(checkpoint, policy, build_optimizer(policy, tiny_train_config("d").optimizer))
