"""Two CPU processes train like one: same losses, same weights."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import torch
import yaml

from robopolicy.testing.datasets import make_tiny_dataset
from robopolicy.testing.training import final_tensors, losses, tiny_train_config
from robopolicy.training.config_load import config_to_dict
from robopolicy.training.loop import train
from robopolicy.training.metrics import read_metrics

STEPS = 12
LR = 1e-4  # Adam turns rounding noise in gradients that are truly zero into steps of lr, so lr bounds the agreement


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def launch(preset, run, world):
    """What ``accelerate launch --cpu --num_processes N -m robopolicy train`` sets up, without its own start-up time."""
    shared = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": str(world), "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    command = [sys.executable, "-m", "robopolicy", "train", str(preset), "--run_dir", str(run), "--quiet"]
    ranks = [
        subprocess.Popen(
            command,
            env=os.environ | shared | {"RANK": str(i), "LOCAL_RANK": str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(world)
    ]
    outputs = [r.communicate(timeout=500)[0] for r in ranks]
    assert [r.returncode for r in ranks] == [0] * world, outputs
    return outputs


@pytest.mark.slow
def test_two_ranks_equal_one(tmp_path):
    data = make_tiny_dataset(tmp_path / "data", episodes=4, length=20, size=(24, 24))
    config = tiny_train_config(
        data,
        {
            "steps": STEPS, "batch_size": 10, "grad_accumulation": 2, "policy.observation_keys": None,
            "dataset.cache_dir": str(tmp_path / "cache"), "dataset.val_ratio": 0.3, "validation.every": 6,
            "optimizer.lr": LR,
        },
    )  # fmt: skip
    train(config, tmp_path / "one", progress=False)
    preset = tmp_path / "preset.yaml"
    preset.write_text(yaml.safe_dump(config_to_dict(config)))
    outputs = launch(preset, tmp_path / "two", world=2)
    assert "run directory" in outputs[0]
    assert "run directory" not in outputs[1]
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert [s for s, _ in one] == [s for s, _ in two] == list(range(1, STEPS + 1))
    assert max(abs(a - b) for (_, a), (_, b) in zip(one, two, strict=True)) <= 1e-5
    want, got = final_tensors(tmp_path / "one"), final_tensors(tmp_path / "two")
    assert want.keys() == got.keys()
    # Weights whose true gradient is zero (a bias before a softmax or a norm) drift with rounding; they do nothing.
    difference = torch.cat(
        [(got[k] - v).abs().flatten() for k, v in want.items() if k.startswith(("policy/", "training/model"))]
    )
    assert float((difference > 1e-5).float().mean()) < 0.01
    errors = [
        [r["action_error"] for r in read_metrics(tmp_path / d / "metrics.jsonl") if r["kind"] == "val"]
        for d in ("one", "two")
    ]
    assert errors[0] == pytest.approx(errors[1], abs=1e-4)
    assert len(errors[0]) == 2
