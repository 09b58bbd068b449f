"""Energies of action chunks: a transformer, or the 1-D U-Net, reduced to one number a chunk.

Source: EBT-Policy (arXiv 2510.27545), the simulation variant "S": an encoder of observation tokens, then blocks of
self-attention over action tokens, cross-attention to the observations and a perceptron.  Differs: attention is written
out as products and softmax, because fused kernels have no second derivative; the published count has 256 parameters a
block fewer than a bias everywhere would give, and we leave out the query bias of cross-attention.  There is no time or
noise input: one landscape serves every step of the descent.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robopolicy.nets.attention import Attention, TanhFeedForward
from robopolicy.nets.checks import check_chunk, check_condition
from robopolicy.nets.embeddings import check_embedding_dim, sinusoid
from robopolicy.nets.masks import causal_mask, condition_mask
from robopolicy.nets.unet1d import ConditionalUnet1d


class PlainAttention(Attention):
    """Attention with normalised queries and keys in products and softmax only, so that it has second derivatives."""

    def __init__(self, dim: int, n_head: int, dropout: float, query_bias: bool = True) -> None:
        super().__init__(dim, n_head, dropout)
        if not query_bias:
            self.query = nn.Linear(dim, dim, bias=False)
        self.query_norm = nn.RMSNorm(dim // n_head)
        self.key_norm = nn.RMSNorm(dim // n_head)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        """As ``Attention``: from ``x (N, L, dim)`` to ``memory (N, S, dim)``, ``mask (L, S)`` True where allowed."""
        key, value = self.key_value(memory).chunk(2, dim=-1)
        query = self.query_norm(self.heads(self.query(x)))
        scores = query @ self.key_norm(self.heads(key)).transpose(-1, -2) / math.sqrt(query.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        weights = F.dropout(scores.softmax(-1), self.dropout, self.training)
        out: Tensor = self.out((weights @ self.heads(value)).transpose(1, 2).flatten(2))
        return out


class PlainEncoderLayer(nn.Module):
    """Self-attention and a perceptron of equal width, RMSNorm before each, residuals."""

    def __init__(self, dim: int, n_head: int, dropout: float) -> None:
        super().__init__()
        self.norm_self = nn.RMSNorm(dim)
        self.self_attention = PlainAttention(dim, n_head, dropout)
        self.norm_mlp = nn.RMSNorm(dim)
        self.mlp = TanhFeedForward(dim, 0.0, ratio=1)

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The self-attention half."""
        h = self.norm_self(x)
        out: Tensor = x + self.self_attention(h, h, mask)
        return out

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(N, L, dim) -> (N, L, dim)``."""
        x = self.attend(x, mask)
        out: Tensor = x + self.mlp(self.norm_mlp(x))
        return out


class PlainDecoderLayer(PlainEncoderLayer):
    """The same with cross-attention between the two."""

    def __init__(self, dim: int, n_head: int, dropout: float) -> None:
        super().__init__(dim, n_head, dropout)
        self.norm_cross = nn.RMSNorm(dim)
        self.cross_attention = PlainAttention(dim, n_head, dropout, query_bias=False)

    def forward(  # type: ignore[override]
        self, x: Tensor, memory: Tensor, memory_mask: Tensor | None
    ) -> Tensor:
        """``(N, L, dim), (N, S, dim) -> (N, L, dim)``; action tokens see each other without a mask."""
        x = self.attend(x, None)
        x = x + self.cross_attention(self.norm_cross(x), memory, memory_mask)
        out: Tensor = x + self.mlp(self.norm_mlp(x))
        return out


class ObservationTokens(nn.Module):
    """``(N, n_obs_steps, cond_dim) -> (N, n_obs_steps, n_emb)``; a frame sees itself and older ones."""

    mask: Tensor

    def __init__(
        self, cond_dim: int, n_obs_steps: int, n_layer: int = 8, n_head: int = 4, n_emb: int = 256, dropout: float = 0.3
    ) -> None:
        super().__init__()
        self.shape = (n_obs_steps, cond_dim)
        self.embed = nn.Linear(cond_dim, n_emb)
        self.position = nn.Parameter(torch.zeros(1, n_obs_steps, n_emb))
        self.layers = nn.ModuleList(PlainEncoderLayer(n_emb, n_head, dropout) for _ in range(n_layer))
        self.register_buffer("mask", causal_mask(n_obs_steps), persistent=False)

    def forward(self, cond: Tensor) -> Tensor:
        """Raises ``ConfigError`` when the shape does not fit."""
        check_condition(cond, (cond.shape[0], *self.shape), "observation tokens", "cond_dim")
        h = self.embed(cond) + self.position
        for layer in self.layers:
            h = layer(h, self.mask)
        return h


class EnergyTransformer(nn.Module):
    """``(chunk (N, H, input_dim), context (N, n_obs_steps, n_emb)) -> energy (N,)``: the mean of all outputs."""

    memory_mask: Tensor

    def __init__(
        self,
        input_dim: int,
        horizon: int,
        n_obs_steps: int,
        n_layer: int = 8,
        n_head: int = 4,
        n_emb: int = 256,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        check_embedding_dim("n_emb", n_emb)
        self.input_dim, self.horizon = input_dim, horizon
        self.embed_action = nn.Sequential(
            nn.Linear(input_dim, n_emb), nn.LayerNorm(n_emb), nn.GELU(), nn.Linear(n_emb, n_emb), nn.GELU()
        )
        position = sinusoid(torch.arange(horizon), n_emb).unsqueeze(0)
        self.position = nn.Parameter(position, requires_grad=False)
        self.layers = nn.ModuleList(PlainDecoderLayer(n_emb, n_head, dropout) for _ in range(n_layer))
        self.norm = nn.RMSNorm(n_emb)
        self.head = nn.Sequential(nn.Linear(n_emb, n_emb), nn.GELU(approximate="tanh"), nn.Linear(n_emb, input_dim))
        self.register_buffer("memory_mask", condition_mask(horizon, n_obs_steps, n_time=0), persistent=False)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Raises ``ConfigError`` when the chunk does not fit."""
        check_chunk(x, self.input_dim, "energy transformer")
        h = self.embed_action(x) + self.position
        for layer in self.layers:
            h = layer(h, context, self.memory_mask)
        return self.head(self.norm(h)).mean((1, 2))


class EnergyNet(nn.Module):
    """What an energy head uses: ``context`` once an observation, ``energy`` for every chunk.

    ``cond_kind`` says which features it reads: "tokens" ``(N, n_obs_steps, cond_dim)`` or "vector".
    """

    cond_kind: ClassVar[Literal["tokens", "vector"]]

    @property
    def offset(self) -> nn.Parameter:
        """The bias of the outputs, a constant in the energy."""
        raise NotImplementedError

    def context(self, cond: Tensor) -> Tensor:
        """What the energy reads of the observation ``(N, ...)``."""
        raise NotImplementedError

    def energy(self, x: Tensor, context: Tensor) -> Tensor:
        """Energies ``(N,)`` of chunks ``(N, H, D)``."""
        raise NotImplementedError


class TransformerEnergy(EnergyNet):
    """``ObservationTokens`` and ``EnergyTransformer``."""

    cond_kind = "tokens"

    def __init__(
        self,
        input_dim: int,
        cond_dim: int,
        horizon: int,
        n_obs_steps: int,
        n_layer: int = 8,
        n_obs_layer: int = 8,
        n_head: int = 4,
        n_emb: int = 256,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.observations = ObservationTokens(cond_dim, n_obs_steps, n_obs_layer, n_head, n_emb, dropout)
        self.actions = EnergyTransformer(input_dim, horizon, n_obs_steps, n_layer, n_head, n_emb, dropout)

    @property
    def offset(self) -> nn.Parameter:
        bias = self.actions.head[-1].bias
        assert isinstance(bias, nn.Parameter)
        return bias

    def context(self, cond: Tensor) -> Tensor:
        out: Tensor = self.observations(cond)
        return out

    def energy(self, x: Tensor, context: Tensor) -> Tensor:
        out: Tensor = self.actions(x, context)
        return out


class UnetEnergy(EnergyNet):
    """The mean output of Diffusion Policy's U-Net, its time input held at 0."""

    cond_kind = "vector"

    def __init__(self, input_dim: int, cond_dim: int, **unet: Any) -> None:
        super().__init__()
        self.unet = ConditionalUnet1d(input_dim, cond_dim, **unet)
        self.unet.double_backward = True

    @property
    def offset(self) -> nn.Parameter:
        bias = self.unet.project.bias
        assert bias is not None
        return bias

    def context(self, cond: Tensor) -> Tensor:
        return cond

    def energy(self, x: Tensor, context: Tensor) -> Tensor:
        return self.unet(x, 0.0, context).mean((1, 2))
