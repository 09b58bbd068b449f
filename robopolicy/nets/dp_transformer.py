"""Diffusion Policy's transformer denoiser (arXiv 2303.04137; minGPT-style as in BeT, 2206.11251).

Same function, initialisation and parameter count as the published network.  Differs in speed only:
``prepare``/``forward_cached`` fold keys, values and time into per-chunk tables.  Use it for abrupt action
sequences; the U-Net is the easier one to tune.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robopolicy.core.errors import ConfigError
from robopolicy.nets.attention import DecoderLayer, EncoderLayer, FeedForward
from robopolicy.nets.checks import check_chunk, check_condition
from robopolicy.nets.embeddings import batch_times, check_embedding_dim, sinusoid
from robopolicy.nets.masks import causal_mask, condition_mask
from robopolicy.nets.min_gpt import init_min_gpt, min_gpt_groups
from robopolicy.nets.packed import fingerprint
from robopolicy.nets.transformer_cached import TransformerCache, TransformerStore, make_store, run_step, tabulate


class ConditionMLP(FeedForward):
    """The token-wise perceptron of the condition: as ``FeedForward`` but with Mish and no dropout."""

    def forward(self, x: Tensor) -> Tensor:
        """``(..., dim) -> (..., dim)``."""
        out: Tensor = self.down(F.mish(self.up(x)))
        return out


class DPTransformer(nn.Module):
    """Denoiser ``(noisy chunk (N, H, input_dim), time, tokens (N, n_obs_steps, cond_dim)) -> (N, H, output_dim)``.

    ``time_as_cond=False`` (needs ``cond_dim=0``) builds the encoder-only variant: the time is the first token of
    the sequence and there is no memory.
    """

    cond_kind: ClassVar[Literal["tokens"]] = "tokens"
    self_mask: Tensor | None
    memory_mask: Tensor | None
    memory_block: Tensor | None  # the same, to be added to scores

    def __init__(
        self,
        input_dim: int,
        cond_dim: int,
        horizon: int,
        n_obs_steps: int,
        n_layer: int = 8,
        n_head: int = 4,
        n_emb: int = 256,
        p_drop_emb: float = 0.0,
        p_drop_attn: float = 0.3,
        causal_attn: bool = True,
        n_cond_layers: int = 0,
        output_dim: int | None = None,
        time_as_cond: bool = True,
    ) -> None:
        super().__init__()
        check_embedding_dim("n_emb", n_emb)
        if cond_dim and not time_as_cond:
            raise ConfigError(f"time_as_cond=False has no observations, got cond_dim={cond_dim}; set cond_dim=0")
        self.input_dim, self.cond_dim, self.horizon = input_dim, cond_dim, horizon
        self.output_dim = input_dim if output_dim is None else output_dim
        self.n_obs_steps = n_obs_steps if cond_dim else 0
        self.n_emb, self.time_as_cond, self.n_cond_layers = n_emb, time_as_cond, n_cond_layers
        self.inference_dtype = torch.float32
        self._store: TransformerStore | None = None
        length = horizon if time_as_cond else horizon + 1
        self.embed_action = nn.Linear(input_dim, n_emb)
        self.position = nn.Parameter(torch.zeros(1, length, n_emb))
        self.drop = nn.Dropout(p_drop_emb)
        self.embed_cond = nn.Linear(cond_dim, n_emb) if cond_dim else None
        if time_as_cond:
            self.cond_position = nn.Parameter(torch.zeros(1, 1 + self.n_obs_steps, n_emb))
            self.cond_encoder: nn.Module = (
                nn.Sequential(*(EncoderLayer(n_emb, n_head, p_drop_attn) for _ in range(n_cond_layers)))
                if n_cond_layers
                else ConditionMLP(n_emb, 0.0)
            )
        layer = DecoderLayer if time_as_cond else EncoderLayer
        self.layers = nn.ModuleList(layer(n_emb, n_head, p_drop_attn) for _ in range(n_layer))
        self.norm = nn.LayerNorm(n_emb)
        self.head = nn.Linear(n_emb, self.output_dim)
        self.register_buffer("self_mask", causal_mask(length) if causal_attn else None, persistent=False)
        memory_mask = condition_mask(horizon, self.n_obs_steps) if causal_attn and time_as_cond else None
        self.register_buffer("memory_mask", memory_mask, persistent=False)
        block = None if memory_mask is None else torch.zeros(memory_mask.shape).masked_fill(~memory_mask, -torch.inf)
        self.register_buffer("memory_block", block, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """N(0, 0.02) for linear and position weights, zero biases, unit LayerNorm (minGPT)."""
        init_min_gpt(self)

    def check_horizon(self, horizon: int) -> None:
        """Raise ``ConfigError`` if chunks of ``horizon`` steps do not fit the learned positions."""
        if not 1 <= horizon <= self.horizon:
            raise ConfigError(
                f"horizon: the transformer was built for 1..{self.horizon} steps, got {horizon}; rebuild it"
            )

    def _check_chunk(self, x: Tensor) -> None:
        check_chunk(x, self.input_dim, "transformer")
        self.check_horizon(x.shape[1])

    def _check(self, x: Tensor, cond: Tensor | None) -> None:
        self._check_chunk(x)
        check_condition(cond, (x.shape[0], self.n_obs_steps, self.cond_dim), "transformer", "cond_dim")

    def memory(self, time: Tensor, cond: Tensor | None) -> Tensor:
        """Condition tokens ``(N, 1 + n_obs_steps, n_emb)`` from the time's sinusoid ``(N, n_emb)`` and ``cond``."""
        tokens = time.unsqueeze(1)
        if cond is not None and self.embed_cond is not None:
            tokens = torch.cat((tokens, self.embed_cond(cond.to(self.position.dtype))), dim=1)
        out: Tensor = self.cond_encoder(self.drop(tokens + self.cond_position))
        return out

    def forward(self, x: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Tensor:
        """Predict ``(N, H, output_dim)`` from ``x (N, H, input_dim)``, time ``t`` (scalar or ``(N,)``), ``cond``.

        Raises ``ConfigError`` naming the argument when a shape does not fit the network.
        """
        self._check(x, cond)
        time = sinusoid(batch_times(t, x.shape[0], x.device), self.n_emb).to(self.position.dtype)
        h = self.embed_action(x)
        if self.time_as_cond:
            memory = self.memory(time, cond)
            length = x.shape[1]
            masks = (_crop(self.self_mask, length, length), _crop(self.memory_mask, length, memory.shape[1]))
            h = self.drop(h + self.position[:, :length])
            for layer in self.layers:
                h = layer(h, memory, *masks)
        else:
            h = torch.cat((time.unsqueeze(1), h), dim=1)
            length = h.shape[1]
            h = self.drop(h + self.position[:, :length])
            for layer in self.layers:
                h = layer(h, _crop(self.self_mask, length, length))
            h = h[:, 1:]
        out: Tensor = self.head(self.norm(h))
        return out

    def decoder_layers(self) -> list[DecoderLayer]:
        """The layers with cross-attention (none in the encoder-only variant)."""
        return [layer for layer in self.layers if isinstance(layer, DecoderLayer)]

    def train(self, mode: bool = True) -> DPTransformer:
        """Switch mode; a change of mode drops packed weights."""
        if mode != self.training:
            self._store = None
        super().train(mode)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles leave the packed weights behind."""
        return {**self.__dict__, "_store": None}

    @torch.no_grad()
    def prepare(self, cond: Tensor | None, times: Tensor) -> TransformerCache:
        """Tabulate what ``forward_cached`` needs for tokens ``(N, n_obs_steps, C)`` and grid ``times (S,)``.

        No gradients flow, no dropout is applied.  With ``inference_dtype = torch.bfloat16`` the products run in
        bfloat16 (about 1e-2).
        """
        stamp = fingerprint(self)
        store = self._store
        if store is None or store.stamp != stamp or store.dtype != self.inference_dtype:
            store = self._store = make_store(self, stamp, self.inference_dtype)
        if not self.time_as_cond:
            return TransformerCache(store, times, None, None, None)
        with torch.autocast(self.position.device.type, enabled=False):
            return tabulate(self, store, cond, times)

    @torch.no_grad()
    def forward_cached(self, x: Tensor, step_index: int, cache: TransformerCache) -> Tensor:
        """``forward(x, times[step_index], cond)`` of the ``prepare``d grid: same values within 1e-5 in float32."""
        if not self.time_as_cond:
            return self.forward(x, cache.times[step_index])
        self._check_chunk(x)
        return run_step(self, x, step_index, cache)

    def optim_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Two optimiser groups: linear and attention weights decay; biases, norms and positions do not."""
        return min_gpt_groups(self, weight_decay)


def _crop(mask: Tensor | None, rows: int, columns: int) -> Tensor | None:
    return None if mask is None else mask[:rows, :columns]
