"""Attention masks of chunk transformers (boolean, True where attention is allowed)."""

from __future__ import annotations

import torch
from torch import Tensor


def causal_mask(length: int) -> Tensor:
    """``(length, length)``: a token sees itself and what comes before."""
    return torch.ones(length, length, dtype=torch.bool).tril()


def condition_mask(horizon: int, n_cond: int, n_time: int = 1) -> Tensor:
    """``(horizon, n_time + n_cond)``: step ``j`` sees the time token(s) and the observations ``i <= j``.

    Chunk index 0 belongs to the oldest observation, so this keeps an action from seeing a later observation.
    """
    step = torch.arange(horizon).unsqueeze(1)
    slot = torch.arange(n_time + n_cond).unsqueeze(0)
    return step >= slot - n_time
