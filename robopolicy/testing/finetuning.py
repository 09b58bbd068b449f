"""Fine-tuning runs that take a second, on ``PointReach`` with a base of a few thousand weights, and what to compare."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import robopolicy.testing.improvers  # noqa: F401 - registers the method
from robopolicy.core.specs import ACTION
from robopolicy.policies.io import save_policy
from robopolicy.policies.registry import make_policy, policy_config
from robopolicy.testing.envs import PointReach
from robopolicy.testing.heads import tiny_options
from robopolicy.testing.tiny import unit_stats
from robopolicy.training.finetune_config import FinetuneConfig, finetune_config_from_dict
from robopolicy.training.metrics import read_metrics
from robopolicy.training.overrides import merge

ENV = "robopolicy.testing.envs:PointReach"
TIMES = ("updates_per_s", "elapsed_s")  # what differs between equal runs
BASE: dict[str, Any] = {
    "type": "imitate_all",
    "env": {"name": ENV, "kwargs": {"max_steps": 12}},
    "rounds": 3,
    "collect": {"episodes": 3, "warmup_episodes": 2, "slots": 2},
    "simulate": {"workers": 0},
    "eval": {"every_rounds": 0},
    "device": "cpu",
    "log": {"every": 2},
}


def tiny_base(folder: str | Path, seed: int = 0, head: str = "flow", backbone: str = "transformer") -> Path:
    """A policy for ``PointReach`` that was never trained, saved in ``folder``."""
    env = PointReach()
    spec, space = env.observation_spec, env.action_space
    options = {**tiny_options(head, backbone, "state"), "observation_keys": list(spec.keys), "num_inference_steps": 2}
    stats = {f.key: unit_stats(f.shape[0]) for f in spec.features} | {ACTION: unit_stats(space.dim)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = make_policy(policy_config(options), spec, space, env.fps, stats).eval()
    return save_policy(policy, folder)


def tiny_finetune_config(base: str | Path, overrides: Mapping[str, Any] | None = None) -> FinetuneConfig:
    """A run from ``base`` with dotted ``overrides`` such as ``{"collect.slots": 1}``."""
    return finetune_config_from_dict(merge(merge(BASE, {"base": str(base)}), overrides or {}))


def curve(run: str | Path) -> list[dict[str, Any]]:
    """Every line of the log without the times."""
    return [{k: v for k, v in r.items() if k not in TIMES} for r in read_metrics(Path(run) / "metrics.jsonl")]


def replay_digest(run: str | Path) -> dict[str, str]:
    """SHA-256 of every file of the replay."""
    files = sorted(p for p in (Path(run) / "replay").iterdir() if p.is_file())
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
