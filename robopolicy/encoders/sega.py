"""Self-Evolving Gated Attention: a few state tokens that read the observation, and are read by it, at every new plan.

Source: SeedPolicy (arXiv 2603.05117, section 4.2 of our spec).  Two streams of attention blocks see each other's last
layer; the raw scores (before the softmax) of the state stream, averaged, gate what enters the state.  What differs:
an offset of the gate, a code for the order of the frames and the position table are options; no parameter is left
out of training unless asked.  When to use: what to do depends on something no longer in sight.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robopolicy.encoders.config import TemporalConfig
from robopolicy.encoders.memory import Memory
from robopolicy.nets.attention import Attention, DecoderLayer

INITIAL_STD = 0.02


class Step(NamedTuple):
    """``tokens`` ``(B, To, D)`` that know the past, the next ``state`` ``(B, Ns, D)``, and the ``gate`` ``(B, Ns)``."""

    tokens: Tensor
    state: Tensor
    gate: Tensor


class StreamBlock(DecoderLayer):
    """Pre-norm self-attention, cross-attention to the (normalised) other stream, perceptron."""

    def __init__(self, dim: int, n_head: int, mlp_ratio: int) -> None:
        super().__init__(dim, n_head, 0.0, mlp_ratio)
        self.norm_other = nn.LayerNorm(dim)

    def forward(self, x: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """``x (B, L, dim)``, ``other (B, S, dim)`` to the new ``x`` and the mean raw score of each token ``(B, L)``."""
        h = self.norm_self(x)
        x = x + self.self_attention(h, h, None)
        mixed, score = attend(self.cross_attention, self.norm_cross(x), self.norm_other(other))
        x = x + mixed
        return x + self.mlp(self.norm_mlp(x)), score


def attend(attention: Attention, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Attention's output ``(B, L, dim)`` and its raw scores averaged over heads and memory tokens, ``(B, L)``."""
    key, value = attention.key_value(memory).chunk(2, dim=-1)
    query, key, value = attention.heads(attention.query(x)), attention.heads(key), attention.heads(value)
    mixed = F.scaled_dot_product_attention(query, key, value)
    return attention.out(mixed.transpose(1, 2).flatten(2)), mean_score(query, key)


def mean_score(query: Tensor, key: Tensor) -> Tensor:
    """Mean over heads and keys of ``q.k / sqrt(d)``: ``(B, heads, L, d), (B, heads, S, d) -> (B, L)``.

    A softmax would make it 1/S for every query, and the gate a constant.
    """
    scores = (query * key.mean(2, keepdim=True)).sum(-1) / query.shape[-1] ** 0.5
    return scores.mean(1)


def blend(gate: Tensor, candidate: Tensor, old: Tensor) -> Tensor:
    """``gate (B, Ns)`` of the ``candidate``, the rest of the ``old`` state; exact at 0 and 1."""
    share = gate.unsqueeze(-1)
    return share * candidate + (1 - share) * old


class Sega(nn.Module):
    """One step of the recurrence; the state has ``num_state`` tokens whatever the number of steps behind it."""

    def __init__(self, config: TemporalConfig, n_obs_steps: int) -> None:
        super().__init__()
        dim = config.dim
        self.gate_bias = config.gate_bias
        self.initial = nn.Parameter(torch.randn(config.num_state, dim) * INITIAL_STD)
        self.positions = nn.Parameter(torch.zeros(config.num_state, dim)) if config.state_pos else None
        self.frames = nn.Parameter(torch.randn(n_obs_steps, dim) * INITIAL_STD) if config.frame_pos else None
        self.state_blocks, self.token_blocks = (
            nn.ModuleList(StreamBlock(dim, config.heads, config.mlp_ratio) for _ in range(config.depth)) for _ in "so"
        )
        self.norm_state, self.norm_tokens = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def start(self, rows: int) -> Memory:
        """The memory of ``rows`` episodes that begin."""
        fresh = torch.ones(rows, dtype=torch.bool, device=self.initial.device)
        return Memory(self.initial.expand(rows, -1, -1), fresh)

    def forward(self, tokens: Tensor, memory: Memory | None = None) -> Step:
        """One re-planning step for observation ``tokens`` ``(B, To, D)``; rows without memory begin an episode."""
        memory = self.start(len(tokens)) if memory is None else memory
        state = torch.where(memory.fresh[:, None, None], self.initial, memory.state)
        old = state if self.positions is None else state + self.positions
        s, o = old, tokens if self.frames is None else tokens + self.frames
        scores = []
        for state_block, token_block in zip(self.state_blocks, self.token_blocks, strict=True):
            (s, score), (o, _) = state_block(s, o), token_block(o, s)
            scores.append(score)
        gate = torch.sigmoid(torch.stack(scores).mean(0) + self.gate_bias)
        gate = torch.where(memory.fresh[:, None], 1.0, gate)
        new = blend(gate, self.norm_state(s), old)
        return Step(self.norm_tokens(o), new if self.positions is None else new - self.positions, gate)
