"""Fused AdamW over the policy's parameter groups, and the learning rate as a function of the step.

Schedule: Diffusion Policy's (linear warm-up, then half a cosine to zero); a pure function, so resuming needs no state.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from robopolicy.training.config import OptimizerConfig


def lr_multiplier(step: int, config: OptimizerConfig, total_steps: int) -> float:
    """Factor on the peak rate for the ``step``-th optimiser step, counted from 1.

    Oracle (warm-up 500 of 100000): 1 -> 0.002, 500 -> 1, 25000 -> 0.857715, 100000 -> 0.
    """
    if step < config.warmup_steps:
        return step / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    progress = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def build_optimizer(policy: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW on the policy's own ``optim_groups``; each group remembers its peak rate as ``peak_lr``."""
    groups: list[dict[str, Any]] = policy.optim_groups(config.lr, config.weight_decay)  # type: ignore[operator]
    groups = [{**g, "params": [p for p in g["params"] if p.requires_grad]} for g in groups]
    groups = [g for g in groups if g["params"]]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
    for group in optimizer.param_groups:
        group["peak_lr"] = group["lr"]
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, multiplier: float) -> None:
    """Every group's rate as its peak times ``multiplier``."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * multiplier
