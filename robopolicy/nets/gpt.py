"""BESO's denoising network: a causal transformer that reads states, goals and noisy actions as one sequence.

    sigma, g_1 ... g_G, s_1, a_1, ..., s_To, a_To, a_To+1, ..., a_H

Source: Reuss et al. 2023 (arXiv 2304.02532), in minGPT's form (spec of BESO, section 3): states and goals share one
embedding, an action has the position of its state, outputs are read at the action tokens.  What differs: chunks may
be longer than the window of observations (``horizon > n_obs_steps``): the further actions follow the newest state and
count on.  With ``horizon == n_obs_steps`` it is the published network, parameter by parameter.
When to use: the BESO head with vector observations or one token a step; every action sees the states up to its own
step, so abrupt changes are followed well.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from robopolicy.core.errors import ConfigError
from robopolicy.nets.attention import EncoderLayer, FeedForward
from robopolicy.nets.checks import check_chunk, check_condition
from robopolicy.nets.embeddings import batch_times
from robopolicy.nets.masks import causal_mask
from robopolicy.nets.min_gpt import init_min_gpt, min_gpt_groups


class GPTBlock(EncoderLayer):
    """minGPT's block: dropout on the attention weights and on both residual branches, none inside the perceptron."""

    def __init__(self, dim: int, n_head: int, p_drop_attn: float, p_drop_resid: float) -> None:
        super().__init__(dim, n_head, p_drop_attn)
        self.mlp = FeedForward(dim, 0.0)
        self.drop = nn.Dropout(p_drop_resid)


class DiffusionGPT(nn.Module):
    """Denoiser ``(noisy chunk (N, H, D), label, tokens (N, n_goals + n_obs_steps, cond_dim)) -> (N, H, D)``.

    The label (``ln sigma / 4`` in BESO) enters through a linear layer, so it should be of order one.
    """

    cond_kind: ClassVar[Literal["tokens"]] = "tokens"
    mask: Tensor
    is_action: Tensor
    rows: Tensor

    def __init__(
        self,
        input_dim: int,
        cond_dim: int,
        horizon: int,
        n_obs_steps: int,
        n_goals: int = 0,
        n_layer: int = 6,
        n_head: int = 6,
        n_emb: int = 360,
        p_drop_attn: float = 0.3,
        p_drop_resid: float = 0.0,
    ) -> None:
        """``n_goals`` leading tokens of the condition are goals; the others are states, oldest first."""
        super().__init__()
        if not 1 <= n_obs_steps <= horizon or n_goals < 0:
            raise ConfigError(f"expected 1 <= n_obs_steps <= horizon, got {n_obs_steps} and {horizon}")
        self.input_dim, self.cond_dim, self.horizon = input_dim, cond_dim, horizon
        self.n_obs_steps, self.n_goals, self.n_emb = n_obs_steps, n_goals, n_emb
        self.embed_label = nn.Linear(1, n_emb)
        self.embed_step = nn.Linear(cond_dim, n_emb)  # states and goals
        self.embed_action = nn.Linear(input_dim, n_emb)
        # One row more than is read, as in the published network.
        self.position = nn.Parameter(torch.zeros(1, n_goals + horizon + 1, n_emb))
        self.layers = nn.ModuleList(GPTBlock(n_emb, n_head, p_drop_attn, p_drop_resid) for _ in range(n_layer))
        self.norm = nn.LayerNorm(n_emb)
        self.head = nn.Linear(n_emb, input_dim)
        slots = _interleaved(n_goals, n_obs_steps, horizon)
        self.register_buffer("rows", torch.tensor([row for row, _ in slots], device="cpu"), persistent=False)
        is_action = torch.tensor([kind == "action" for _, kind in slots], device="cpu")
        self.register_buffer("is_action", is_action, persistent=False)
        self.register_buffer("mask", causal_mask(1 + len(slots)), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """N(0, 0.02) for linear and position weights, zero biases, unit LayerNorm (minGPT)."""
        init_min_gpt(self)

    def forward(self, x: Tensor, t: Tensor | float, cond: Tensor) -> Tensor:
        """Predict ``(N, H, D)`` from ``x (N, H, D)``, label ``t`` (scalar or ``(N,)``) and ``cond``.

        Raises ``ConfigError`` naming the argument when a shape does not fit the network.
        """
        self._check(x, cond)
        label = batch_times(t, x.shape[0], x.device).to(self.position.dtype)
        steps, actions = self.embed_step(cond.to(self.position.dtype)), self.embed_action(x)
        sequence = torch.cat([self.embed_label(label.reshape(-1, 1, 1)), self._interleave(steps, actions)], dim=1)
        for layer in self.layers:
            sequence = layer(sequence, self.mask)
        out: Tensor = self.head(self.norm(sequence[:, 1:][:, self.is_action]))
        return out

    def _interleave(self, steps: Tensor, actions: Tensor) -> Tensor:
        """Goals, then states and actions in turn, then the further actions; each with its position."""
        g, to = self.n_goals, self.n_obs_steps
        pairs = torch.stack([steps[:, g:], actions[:, :to]], dim=2).flatten(1, 2)
        tokens = torch.cat([steps[:, :g], pairs, actions[:, to:]], dim=1)
        return tokens + self.position[:, self.rows]

    def _check(self, x: Tensor, cond: Tensor) -> None:
        check_chunk(x, self.input_dim, "gpt")
        if x.shape[1] != self.horizon:
            raise ConfigError(f"horizon: the gpt was built for {self.horizon} steps, got {x.shape[1]}; rebuild it")
        check_condition(cond, (x.shape[0], self.n_goals + self.n_obs_steps, self.cond_dim), "gpt", "cond_dim")

    def optim_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Two optimiser groups: linear weights decay; biases, norms and positions do not."""
        return min_gpt_groups(self, weight_decay)


def _interleaved(n_goals: int, n_obs_steps: int, horizon: int) -> list[tuple[int, str]]:
    """``(row of the position table, kind)`` of every token after the label."""
    slots = [(i, "goal") for i in range(n_goals)]
    for step in range(horizon):
        if step < n_obs_steps:
            slots.append((n_goals + step, "state"))
        slots.append((n_goals + step, "action"))
    return slots
