"""Helpers shared by the sampler tests: one step in isolation, and exact propagation of affine samplers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from robopolicy.core.policy import Prediction
from robopolicy.paths import GaussianPath, Kind, canonical
from robopolicy.samplers import Sampler


def single_step(
    sampler: Sampler, path: GaussianPath, t: int, after: int | None, z: float, eps: float, noise: float = 0.0
) -> float:
    """State after one step from ``t`` to ``after`` (``None`` = clean) when the network answers ``eps``."""
    seen: list[float] = []

    def denoise(state: Tensor, time: Tensor) -> Prediction:
        seen.append(state.item())
        return canonical(Kind.EPS, torch.full_like(state, eps), state, path, time)

    times = torch.tensor([t] if after is None else [t, after])
    state = torch.full((1, 1, 1), z, dtype=torch.float64)
    tape = torch.full((1, sampler.tape_len(len(times)), 1, 1), noise, dtype=torch.float64)
    final = sampler(denoise, path, times, state, tape)
    return final.item() if after is None else seen[1]


def propagate(sampler: Sampler, denoise: Callable[..., Prediction], path: GaussianPath, times: Tensor) -> Tensor:
    """``(offset, slope in the latent, slope in each tape entry...)`` of a sampler on an affine denoiser, exactly."""
    draws = sampler.tape_len(len(times))
    inputs = torch.zeros(2 + draws, 1 + draws, 1, 1, dtype=torch.float64)
    inputs[torch.arange(1, 2 + draws), torch.arange(1 + draws)] = 1.0
    out = sampler(denoise, path, times, path.prior_std * inputs[:, 0], inputs[:, 1:]).flatten()
    return torch.cat([out[:1], out[1:] - out[0]])


@pytest.fixture
def step() -> Callable[..., float]:
    """``single_step``."""
    return single_step


@pytest.fixture
def affine() -> Callable[..., Tensor]:
    """``propagate``."""
    return propagate
