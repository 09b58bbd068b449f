"""Tiny training runs for tests: a config that trains in milliseconds, and what to compare afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from robopolicy.training.checkpoint import latest_checkpoint
from robopolicy.training.config import TrainConfig
from robopolicy.training.config_load import config_from_dict
from robopolicy.training.metrics import read_metrics
from robopolicy.training.overrides import merge

BASE: dict[str, Any] = {
    "dataset": {"val_ratio": 0.0},
    "policy": {
        "type": "diffusion",
        "horizon": 8,
        "n_action_steps": 4,
        "unet": {"down_dims": [8, 16], "step_embed_dim": 8},
        "encoder": {"image": {"backbone": "tiny_cnn", "channels": [8], "num_keypoints": 4, "feature_dim": 8}},
        "num_train_steps": 10,
        "num_inference_steps": 2,
    },
    "steps": 6,
    "batch_size": 8,
    "device": "cpu",
    "optimizer": {"lr": 1e-3, "warmup_steps": 2},
    "checkpoint": {"every": 100, "keep_last": 2, "keep_best": 0},
    "log": {"every": 1},
}


def tiny_train_config(data: str | Path, overrides: Mapping[str, Any] | None = None) -> TrainConfig:
    """A run on ``data`` (see ``testing.datasets``) with dotted ``overrides`` such as ``{"ema.enabled": False}``.

    Reads the state only; give ``{"policy.observation_keys": None}`` to read the cameras too.
    """
    defaults = {"dataset.path": str(data), "policy.observation_keys": ["observation.state"]}
    return config_from_dict(merge(merge(BASE, defaults), overrides or {}))


def final_tensors(run: str | Path) -> dict[str, Tensor]:
    """Every tensor of the newest checkpoint: averaged and live weights, optimiser state."""
    checkpoint = latest_checkpoint(run)
    assert checkpoint is not None, f"no checkpoint in {run}"
    files = sorted(checkpoint.rglob("*.safetensors"))
    return {f"{f.parent.name}/{f.stem}/{k}": v for f in files for k, v in load_file(f).items()}


def losses(run: str | Path) -> list[tuple[int, float]]:
    """``(step, loss)`` of every training record."""
    records = read_metrics(Path(run) / "metrics.jsonl")
    return [(r["step"], r["loss"]) for r in records if r["kind"] == "train" and "loss" in r]
