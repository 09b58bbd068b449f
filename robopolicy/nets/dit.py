"""Diffusion transformer over a chunk: time and observations enter through adaptive LayerNorms that start at zero.

Source: Peebles & Xie 2023 (DiT, arXiv 2212.09748), adaLN-Zero; rotary positions, Su et al. 2021 (arXiv 2104.09864);
layout and sizes of the trunk in LeRobot's multi-task DiT (after Large Behavior Models, arXiv 2507.05331).
Differs: ``prepare``/``forward_cached`` tabulate every modulation, because a block sees time and observations through
one linear map of ``SiLU([time | observations])``, which splits into a row per time and a row per observation.
When to use: flow heads at larger scale, long chunks; the U-Net learns faster from little data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robopolicy.core.errors import ConfigError
from robopolicy.nets.attention import Attention, TanhFeedForward
from robopolicy.nets.checks import check_chunk, check_condition
from robopolicy.nets.embeddings import batch_times, check_embedding_dim, sinusoid
from robopolicy.nets.rotary3d import RotaryCode, rotate

EPS = 1e-6
MODULATIONS = 6  # shift, scale and gate, for attention and perceptron


def step_code(length: int, dim: int, base: float = 10_000.0) -> RotaryCode:
    """Rotary code of chunk steps ``0..length-1`` for heads of ``dim`` channels, ``(1, length, dim)``."""
    rate = base ** -(torch.arange(0, dim, 2) / dim)
    angles = (torch.arange(length).unsqueeze(1) * rate).repeat_interleave(2, dim=-1).unsqueeze(0)
    return RotaryCode(angles.cos(), angles.sin())


class RotaryAttention(Attention):
    """Self-attention whose scores depend on the distance between steps."""

    def forward(self, x: Tensor, code: RotaryCode) -> Tensor:  # type: ignore[override]
        """``x (N, L, dim)`` with the code ``(1, L, dim / n_head)`` of its steps."""
        key, value = self.key_value(x).chunk(2, dim=-1)
        query, key = (rotate(self.heads(part), code) for part in (self.query(x), key))
        drop = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, self.heads(value), dropout_p=drop)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class DitBlock(nn.Module):
    """Attention and perceptron, each shifted, scaled and gated; the identity at the start."""

    def __init__(self, dim: int, n_head: int, cond_dim: int, dropout: float) -> None:
        super().__init__()
        self.modulation = nn.Linear(cond_dim, MODULATIONS * dim)
        self.attention = RotaryAttention(dim, n_head, dropout)
        self.mlp = TanhFeedForward(dim, dropout)

    def forward(self, h: Tensor, table: Tensor, code: RotaryCode) -> Tensor:
        """``h (N, L, dim)`` modulated by ``table (N or 1, 6 dim)``."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = table.unsqueeze(1).chunk(MODULATIONS, dim=-1)
        h = h + gate * self.attention(self._norm(h, shift, scale), code)
        return h + gate_mlp * self.mlp(self._norm(h, shift_mlp, scale_mlp))

    @staticmethod
    def _norm(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return F.layer_norm(h, h.shape[-1:], eps=EPS) * (1 + scale) + shift


@dataclass
class DitCache:
    """Modulations of all blocks side by side: ``by_time (S, F)`` with the bias, ``by_cond (N, F)`` or ``None``."""

    by_time: Tensor
    by_cond: Tensor | None

    def tables(self, step: int) -> Tensor:
        """``(N or 1, F)`` of grid time ``step``."""
        row = self.by_time[step : step + 1]
        return row if self.by_cond is None else row + self.by_cond


class Dit(nn.Module):
    """Denoiser ``(noisy chunk (N, H, input_dim), time, condition (N, cond_dim)) -> (N, H, input_dim)``.

    ``H`` is at most ``horizon``.  ``cond_dim=0`` means no condition.  ``positions`` adds learned positions to the
    rotary ones.
    """

    cond_kind: ClassVar[Literal["vector"]] = "vector"
    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        input_dim: int,
        cond_dim: int,
        horizon: int,
        n_layer: int = 6,
        n_head: int = 8,
        n_emb: int = 512,
        step_embed_dim: int = 256,
        dropout: float = 0.1,
        positions: bool = False,
    ) -> None:
        super().__init__()
        check_embedding_dim("step_embed_dim", step_embed_dim)
        if n_emb % (2 * n_head):
            raise ConfigError(f"n_emb={n_emb} must be a multiple of 2 * n_head={2 * n_head} (rotary pairs)")
        self.input_dim, self.cond_dim, self.horizon, self.step_embed_dim = input_dim, cond_dim, horizon, step_embed_dim
        self.time = nn.Sequential(
            nn.Linear(step_embed_dim, 2 * step_embed_dim), nn.GELU(), nn.Linear(2 * step_embed_dim, step_embed_dim)
        )
        self.enter = nn.Linear(input_dim, n_emb)
        self.position = nn.Parameter(torch.zeros(1, horizon, n_emb)) if positions else None
        width = step_embed_dim + cond_dim
        self.blocks = nn.ModuleList(DitBlock(n_emb, n_head, width, dropout) for _ in range(n_layer))
        self.leave = nn.Linear(n_emb, input_dim)
        code = step_code(horizon, n_emb // n_head)
        self.register_buffer("cos", code.cos, persistent=False)
        self.register_buffer("sin", code.sin, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform matrices, zero biases, zero modulations (so every block starts as the identity)."""
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2 or "modulation" in name:
                nn.init.zeros_(parameter)
            elif name == "position":
                nn.init.normal_(parameter, std=0.02)
            else:
                nn.init.xavier_uniform_(parameter)

    def check_horizon(self, horizon: int) -> None:
        """Raise ``ConfigError`` if the network was built for shorter chunks."""
        if not 1 <= horizon <= self.horizon:
            raise ConfigError(f"horizon: the DiT was built for 1..{self.horizon} steps, got {horizon}; rebuild it")

    def _check_chunk(self, x: Tensor) -> None:
        check_chunk(x, self.input_dim, "DiT")
        self.check_horizon(x.shape[1])

    def embed_time(self, t: Tensor) -> Tensor:
        """Times ``(S,)`` as ``(S, step_embed_dim)``."""
        out: Tensor = self.time(sinusoid(t, self.step_embed_dim).to(self.enter.weight.dtype))
        return out

    def forward(self, x: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Tensor:
        """Predict ``(N, H, input_dim)`` from ``x (N, H, input_dim)``, time ``t`` (scalar or ``(N,)``), ``cond``.

        Raises ``ConfigError`` naming the argument when a shape does not fit the network.
        """
        self._check_chunk(x)
        check_condition(cond, (x.shape[0], self.cond_dim), "DiT", "cond_dim")
        vector = self.embed_time(batch_times(t, x.shape[0], x.device))
        if cond is not None:
            vector = torch.cat((vector, cond.to(vector.dtype)), dim=-1)
        active = F.silu(vector)
        return self._trunk(x, [block.modulation(active) for block in self._blocks()])

    def _blocks(self) -> list[DitBlock]:
        return [block for block in self.blocks if isinstance(block, DitBlock)]

    def _trunk(self, x: Tensor, tables: list[Tensor]) -> Tensor:
        h = self.enter(x)
        if self.position is not None:
            h = h + self.position[:, : x.shape[1]]
        code = RotaryCode(self.cos[:, : x.shape[1]], self.sin[:, : x.shape[1]])
        for block, table in zip(self._blocks(), tables, strict=True):
            h = block(h, table, code)
        out: Tensor = self.leave(h)
        return out

    @torch.no_grad()
    def prepare(self, cond: Tensor | None, times: Tensor) -> DitCache:
        """Tabulate what ``forward_cached`` needs for conditions ``(N, cond_dim)`` and grid ``times (S,)``."""
        split, layers = self.step_embed_dim, [block.modulation for block in self._blocks()]
        active = F.silu(self.embed_time(times.to(self.enter.weight.device)))
        by_time = torch.cat([F.linear(active, m.weight[:, :split], m.bias) for m in layers], dim=1)
        if cond is None:
            return DitCache(by_time, None)
        active = F.silu(cond.to(active.dtype))
        return DitCache(by_time, torch.cat([F.linear(active, m.weight[:, split:]) for m in layers], dim=1))

    @torch.no_grad()
    def forward_cached(self, x: Tensor, step_index: int, cache: DitCache) -> Tensor:
        """``forward(x, times[step_index], cond)`` of the ``prepare``d grid: same values within 1e-5."""
        self._check_chunk(x)
        return self._trunk(x, list(cache.tables(step_index).chunk(len(self.blocks), dim=1)))

    def optim_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Two optimiser groups: matrices decay; biases and positions do not."""
        matrices = [p for p in self.parameters() if p.ndim == 2]
        rest = [p for p in self.parameters() if p.ndim != 2]
        return [{"params": matrices, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
