"""Optimiser state as named tensors and JSON, strictly both ways; no pickle."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robopolicy.core.errors import CheckpointError

SEPARATOR = "|"


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names."""
    hashed = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().to("cpu").contiguous().reshape(-1)
        hashed.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        hashed.update(flat.view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


def names_of_parameters(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[list[str]]:
    """Names of every group's parameters, in the optimiser's order."""
    names = {id(p): n for n, p in model.named_parameters()}
    return [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]


def flatten_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """``{"exp_avg|net.weight": tensor, ...}`` of an optimiser's state."""
    flat: dict[str, Tensor] = {}
    for group, names in zip(optimizer.param_groups, names_of_parameters(model, optimizer), strict=True):
        for parameter, name in zip(group["params"], names, strict=True):
            for slot, value in optimizer.state.get(parameter, {}).items():
                flat[f"{slot}{SEPARATOR}{name}"] = value.detach().clone()
    return flat


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, flat: Mapping[str, Tensor]) -> None:
    """Put flattened state back; every name and shape must fit (``CheckpointError`` otherwise)."""
    groups = names_of_parameters(model, optimizer)
    parameters = dict(model.named_parameters())
    index = {name: i for i, name in enumerate(n for g in groups for n in g)}
    state: dict[int, dict[str, Any]] = {}
    for key, value in flat.items():
        slot, _, name = key.partition(SEPARATOR)
        if name not in index:
            raise CheckpointError(f"optimiser state has '{key}', but the model trains no parameter '{name}'")
        if slot != "step" and value.shape != parameters[name].shape:
            want = tuple(parameters[name].shape)
            raise CheckpointError(f"optimiser state '{key}': expected shape {want}, got {tuple(value.shape)}")
        state.setdefault(index[name], {})[slot] = value
    # AdamW has a state for every parameter or, before the first step, for none.
    slots = {key.partition(SEPARATOR)[0] for key in flat}
    if missing := sorted({f"{slot}{SEPARATOR}{name}" for slot in slots for name in index} - set(flat)):
        raise CheckpointError(f"optimiser state lacks {', '.join(missing[:5])}")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def check_fits(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str) -> None:
    """Raise ``CheckpointError`` naming missing, extra or misshapen tensors."""

    def listed(names: Iterable[str]) -> str:
        return ", ".join(sorted(names)[:5])

    if missing := set(wanted) - set(found):
        raise CheckpointError(f"{what}: missing tensors: {listed(missing)}")
    if extra := set(found) - set(wanted):
        raise CheckpointError(f"{what}: tensors the model does not have: {listed(extra)}")
    for name, value in wanted.items():
        if found[name].shape != value.shape:
            raise CheckpointError(
                f"{what}: '{name}': expected shape {tuple(value.shape)}, got {tuple(found[name].shape)}"
            )
