"""Evaluation of the transformer over a fixed grid of times with everything about the condition folded into tables.

The memory has few tokens (the time and ``n_obs_steps`` observations), so cross-attention is rewritten around it: with
keys ``k`` and values ``v`` of the memory known, ``(x Wq) k`` is ``x (Wq k)`` and ``(p v) Wo`` is ``p (v Wo)``.  The
brackets are computed once per chunk for observations and once per grid for times, and both big projections of
cross-attention vanish from the step.  Exact up to rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robopolicy.nets.attention import Attention, DecoderLayer
from robopolicy.nets.embeddings import sinusoid
from robopolicy.nets.packed import PackedMatrix, version

if TYPE_CHECKING:
    from robopolicy.nets.dp_transformer import DPTransformer


@dataclass
class Folded:
    """Cross-attention of all layers for ``M`` memory tokens and ``h`` heads, one row per batch element or time.

    ``keys (B, L, d, h, M)``, ``values (B, L, h, M, d)``, ``bias (B, L, h, M)``: scores are ``x keys + bias``.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor


def fold_memory(layers: list[DecoderLayer], memory: Tensor) -> Folded:
    """Fold ``memory (B, M, d)`` into every layer's cross-attention."""
    parts = [_fold(layer.cross_attention, memory) for layer in layers]
    keys, values, bias = (torch.stack(p, dim=1) for p in zip(*parts, strict=True))
    return Folded(keys, values, bias)


def _fold(attention: Attention, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    h, d = attention.n_head, memory.shape[-1]
    key, value = attention.key_value(memory).chunk(2, dim=-1)
    key = key.unflatten(-1, (h, -1)) / math.sqrt(d // h)
    value = value.unflatten(-1, (h, -1))
    query_weight = attention.query.weight.unflatten(0, (h, -1))
    keys = torch.einsum("hkd,bmhk->bdhm", query_weight, key)
    bias = torch.einsum("hk,bmhk->bhm", attention.query.bias.unflatten(0, (h, -1)), key)
    # Each head's weights sum to one, so a share of the output bias in every value adds up to the bias.
    values = torch.einsum("dhk,bmhk->bhmd", attention.out.weight.unflatten(1, (h, -1)), value)
    return keys, values + attention.out.bias / h, bias


@dataclass
class LayerMatrices:
    """The products of one layer's step."""

    query_key_value: PackedMatrix
    out: PackedMatrix
    up: PackedMatrix
    down: PackedMatrix


@dataclass
class TransformerStore:
    """What is derived from one state of the weights."""

    dtype: torch.dtype
    stamp: tuple[object, ...]
    layers: list[LayerMatrices]
    time_tables: list[tuple[Tensor, int, Folded]] = field(default_factory=list)


def make_store(net: DPTransformer, stamp: tuple[object, ...], dtype: torch.dtype) -> TransformerStore:
    """Lay out the weights of all layers as matrices that multiply rows."""

    def matrix(*linears: nn.Linear) -> PackedMatrix:
        weight = torch.cat([m.weight for m in linears]).t().contiguous()
        low = torch.bfloat16 if dtype == torch.bfloat16 else weight.dtype
        return PackedMatrix(weight, torch.cat([m.bias for m in linears]), low)

    layers = []
    for layer in net.decoder_layers():
        a, mlp = layer.self_attention, layer.mlp
        layers.append(LayerMatrices(matrix(a.query, a.key_value), matrix(a.out), matrix(mlp.up), matrix(mlp.down)))
    return TransformerStore(dtype, stamp, layers)


@dataclass
class TransformerCache:
    """What the steps of one chunk share."""

    store: TransformerStore
    times: Tensor  # (S,)
    cond: Tensor | None  # (N, n_obs_steps, C): kept only where the memory mixes time and observations
    by_time: Folded | None  # B = S, M = 1
    by_cond: Folded | None  # B = N, M = n_obs_steps

    def folded(self, net: DPTransformer, step: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Tables of this step: keys ``(N, L, d, h, M)``, values ``(N, L, h, M, d)``, bias ``(N, L, h, M)``."""
        if self.by_time is None:
            time = sinusoid(self.times[step].expand(n), net.n_emb).to(net.position.dtype)
            whole = fold_memory(net.decoder_layers(), net.memory(time, self.cond))
            return whole.keys, whole.values, whole.bias
        t, c = self.by_time, self.by_cond
        row = slice(step, step + 1)
        keys, values, bias = (x[row].expand(n, *x.shape[1:]) for x in (t.keys, t.values, t.bias))
        if c is None:
            return keys, values, bias
        return torch.cat((keys, c.keys), -1), torch.cat((values, c.values), -2), torch.cat((bias, c.bias), -1)


def tabulate(net: DPTransformer, store: TransformerStore, cond: Tensor | None, times: Tensor) -> TransformerCache:
    """Fold the memory: times once per grid, observations once per chunk; jointly at each step if layers mix them."""
    device = net.position.device
    if net.n_cond_layers:
        return TransformerCache(store, times.to(device), cond, None, None)
    layers = net.decoder_layers()
    by_time = next((f for t, v, f in store.time_tables if t is times and v == version(times)), None)
    if by_time is None:
        tokens = sinusoid(times.to(device), net.n_emb).to(net.position.dtype).unsqueeze(1)
        by_time = fold_memory(layers, net.cond_encoder(tokens + net.cond_position[:, :1]))
        store.time_tables = [*store.time_tables[-3:], (times, version(times), by_time)]
    by_cond = None
    if cond is not None and net.embed_cond is not None:
        tokens = net.embed_cond(cond.to(net.position.dtype)) + net.cond_position[:, 1:]
        by_cond = fold_memory(layers, net.cond_encoder(tokens))
    return TransformerCache(store, times, None, by_time, by_cond)


def run_step(net: DPTransformer, x: Tensor, step: int, cache: TransformerCache) -> Tensor:
    """One denoising step ``(N, H, input_dim) -> (N, H, output_dim)`` with tables instead of cross-projections."""
    n, length, d = x.shape[0], x.shape[1], net.n_emb
    keys, values, bias = cache.folded(net, step, n)
    heads, slots = bias.shape[2], bias.shape[3]
    blocked = net.memory_block[:length, None, :slots] if net.memory_block is not None else 0.0
    scores_bias = (bias.unsqueeze(2) + blocked).flatten(3)  # (N, L, H or 1, h * M)
    keys, values = keys.flatten(3), values.flatten(2, 3)
    h = net.embed_action(x) + net.position[:, :length]
    for i, (layer, matrices) in enumerate(zip(net.decoder_layers(), cache.store.layers, strict=True)):
        rows = layer.norm_self(h).view(n * length, d)
        packed = matrices.query_key_value(rows).view(n, length, 3, heads, d // heads)
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=net.self_mask is not None)
        h = h + matrices.out(mixed.transpose(1, 2).reshape(n * length, d)).view_as(h)
        scores = torch.baddbmm(scores_bias[:, i].expand(n, length, -1), layer.norm_cross(h), keys[:, i])
        weights = scores.view(n, length, heads, slots).softmax(-1).view(n, length, heads * slots)
        h = torch.baddbmm(h, weights, values[:, i])
        rows = F.gelu(matrices.up(layer.norm_mlp(h).view(n * length, d)))
        h = h + matrices.down(rows).view_as(h)
    out: Tensor = net.head(net.norm(h))
    return out
