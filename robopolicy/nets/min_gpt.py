"""minGPT's habits, shared by the transformers built on it: first weights, and which weights decay."""

from __future__ import annotations

from typing import Any

from torch import nn


def init_min_gpt(module: nn.Module) -> None:
    """N(0, 0.02) for linear and position weights, zero biases, unit norms."""
    for name, parameter in module.named_parameters():
        if "norm" in name:
            nn.init.constant_(parameter, 1.0 if name.endswith("weight") else 0.0)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.normal_(parameter, std=0.02)


def min_gpt_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two optimiser groups: linear and attention weights decay; biases, norms and positions do not."""
    decay: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        keep = name.endswith("bias") or "norm" in name or "position" in name
        (rest if keep else decay).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
