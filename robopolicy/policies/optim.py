"""Optimiser groups of an observation encoder: trunks may learn at their own rate, frozen ones not at all."""

from __future__ import annotations

from typing import Any

from torch import nn

from robopolicy.encoders.fusion import ObservationEncoder
from robopolicy.encoders.image import ImageEncoder


def encoder_groups(encoder: ObservationEncoder, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Groups with ``name``, ``params``, ``lr``, ``weight_decay``; every trainable parameter once, none empty."""
    groups: list[dict[str, Any]] = []
    trunks: set[int] = set()
    for slot, camera in encoder.image_encoders.items():
        assert isinstance(camera, ImageEncoder)
        params = _trainable(camera.trunk)
        trunks.update(id(p) for p in params)
        rate = lr * camera.config.lr_scale
        groups.append({"name": f"trunk.{slot}", "params": params, "lr": rate, "weight_decay": weight_decay})
    rest = [p for p in _trainable(encoder) if id(p) not in trunks]
    groups.append({"name": "encoder", "params": rest, "lr": lr, "weight_decay": weight_decay})
    return [g for g in groups if g["params"]]


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]
