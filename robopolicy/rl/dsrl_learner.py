"""DSRL's two learners: soft actor-critic on latents, and its noise-aliased form.

Source: Wagenmaker et al. 2025, DSRL (arXiv 2506.15799), Algorithm 1, with the entropy terms of its implementation
(project's notes, section 3.2):

    Q^A(s, a):  sum_j 1/2 (Q^A_j - R - gamma^n (min Q^A'(s', decode(s', w')) - alpha log pi(w'|s')))^2,   w' ~ pi_W(s')
    pi_W:       alpha log pi(w|s) - min Q^W(s, w)
    Q^W_j:      1/2 (Q^W_j(s, w) - Q^A_j(s, decode(s, w)))^2,   w ~ N(0, I), outside the actor's box too

What differs: distillation steps are spread among the updates and use the update's own observations, so that each is
encoded once; next actions of transitions without a future are not decoded; ``refresh`` (see ``DSRLConfig``).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam

from robopolicy.rl.dsrl_config import DSRLConfig
from robopolicy.rl.dsrl_decoding import ReplayDecoder, RowMemory
from robopolicy.rl.sac import SACBatch, SACLearner
from robopolicy.rl.targets import bellman, with_entropy


@dataclass(frozen=True)
class LatentBatch(SACBatch):
    """Also the base's contexts here and next (na), and names of the rows' observations (``refresh`` above 1)."""

    ctx: Any = None
    next_ctx: Any = None
    names: list[bytes] | None = None
    next_names: list[bytes] | None = None


class LatentSAC(SACLearner):
    """SAC whose actions are latents; ``LatentBatch.action`` are the stored numbers ``(B, L)``."""

    config: DSRLConfig


class AliasedSAC(SACLearner):
    """Noise aliasing: ``critic`` values executed actions ``(B, k * D)``, ``noise_critic`` latents ``(B, L)``."""

    config: DSRLConfig

    def __init__(
        self,
        config: DSRLConfig,
        feature_dim: int,
        dims: int,
        decoder: ReplayDecoder,
        taught: Iterable[nn.Parameter] = (),
    ) -> None:
        """``taught``: weights of the encoder, which learn with the critic of actions."""
        super().__init__(config, feature_dim, dims, critic_dim=decoder.width, taught=taught)
        self.noise_critic = self.ensemble(feature_dim, dims)
        self._optimizers["noise_critic"] = Adam(self.noise_critic.parameters(), config.critic_lr, fused=True)
        self._decoder = (decoder,)  # in a tuple: no part of this module's weights
        self.lagging = copy.deepcopy(self.actor).requires_grad_(False) if config.refresh > 1 else None
        self._next, self._pairs = RowMemory(), RowMemory()
        self._draws: torch.Generator | None = None
        self.updates = 0

    @property
    def decoder(self) -> ReplayDecoder:
        """The frozen policy at observations of the replay."""
        return self._decoder[0]

    def forget(self) -> None:
        """Drop what earlier updates decoded; the next one decodes anew."""
        self._next.clear()
        self._pairs.clear()

    # ------------------------------------------------------------------------------------------------- what SAC asks

    def values(self, batch: SACBatch) -> Tensor:
        """Q^A of the executed actions ``(E, B)``."""
        out: Tensor = self.critic(batch.features, batch.action[:, None])
        return out[:, :, 0, 0]

    def slow_values(self, batch: SACBatch, actions: Tensor) -> Tensor:
        """Slow Q^A ``(E, B)`` of executed ``actions`` ``(B, k * D)`` at the next observations."""
        out: Tensor = self.slow(batch.bootstrap, actions[:, None])
        return out[:, :, 0, 0]

    def judge(self, features: Tensor, actions: Tensor) -> Tensor:
        """Q^W ``(E, B)`` of latents, with gradient to them alone."""
        return self.of_actions(self.noise_critic, features, actions, frozen=True)

    @torch.no_grad()
    def target(self, batch: SACBatch, eps_next: Tensor, members: Tensor, alpha: Tensor) -> Tensor:
        """``R + discount (min Q^A'(s', decode(s', w')) - alpha log pi(w'))`` ``(B,)``, the future decoded once."""
        assert isinstance(batch, LatentBatch)
        actions, log_prob = self._next_actions(batch, eps_next)
        value = self.members(self.slow_values(batch, actions), members)
        if self.config.entropy_backup:
            value = with_entropy(value, alpha, log_prob)
        return bellman(batch.reward, batch.discount, value)

    # ---------------------------------------------------------------------------------------------------- decoding

    def _next_actions(self, batch: LatentBatch, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Executed next actions ``(B, k * D)`` and log-densities ``(B,)``; 0 where there is no future."""
        goes_on = (batch.discount > 0).cpu()
        actor = self.actor if self.lagging is None else self.lagging

        def make(rows: Tensor) -> tuple[Tensor, Tensor]:
            rows = rows.to(eps.device)
            numbers, log_prob = actor(batch.next_features[rows], eps[rows])
            return self._decode(batch.next_ctx, rows, numbers[:, 0]), log_prob[:, 0]

        if batch.next_names is not None:
            actions, log_prob = self._next.rows(batch.next_names, goes_on.numpy(), make)
            return actions, log_prob
        rows = goes_on.nonzero().squeeze(1)
        actions, log_prob = eps.new_zeros(len(eps), self.decoder.width), eps.new_zeros(len(eps))
        if len(rows):
            actions[rows], log_prob[rows] = make(rows)
        return actions, log_prob

    def _pairs_of(self, batch: LatentBatch) -> tuple[Tensor, Tensor]:
        """Latents ``(B, L)`` from N(0, I) and the executed actions ``(B, k * D)`` they decode to."""
        drawn = torch.randn((len(batch.features), self.dims), generator=self._draws).to(batch.features)

        def make(rows: Tensor) -> tuple[Tensor, Tensor]:
            rows = rows.to(drawn.device)
            return drawn[rows], self._decode(batch.ctx, rows, drawn[rows])

        if batch.names is None:
            return make(torch.arange(len(drawn)))
        numbers, actions = self._pairs.rows(batch.names, np.ones(len(drawn), bool), make)
        return numbers, actions

    def _decode(self, ctx: Any, rows: Tensor, numbers: Tensor) -> Tensor:
        whole = len(rows) == ctx.batch_size
        return self.decoder.actions(ctx if whole else ctx.index_select(rows), numbers, self._draws)

    # ---------------------------------------------------------------------------------------------------- updates

    def update(self, batch: SACBatch, generator: torch.Generator) -> dict[str, float]:
        """One update of temperature, Q^A, actor and slow critic, then the distillation steps that are due."""
        assert isinstance(batch, LatentBatch)
        self._draws = generator
        if self.lagging is not None and self.updates % self.config.refresh == 0:
            self.lagging.load_state_dict(self.actor.state_dict())
            self.lagging.bound.copy_(self.actor.bound)
            self.forget()
        told = super().update(batch, generator)
        due = math.floor((self.updates + 1) * self.config.distill) - math.floor(self.updates * self.config.distill)
        self.updates += 1
        if due:
            told["distillation_loss"] = sum(self.distil(batch) for _ in range(due)) / due
        return told

    def distil(self, batch: LatentBatch) -> float:
        """One step of Q^W towards Q^A, head by head; returns the loss."""
        features = batch.features.detach()
        numbers, actions = self._pairs_of(batch)
        with torch.no_grad():
            wanted = self.critic(features, actions[:, None])[:, :, 0, 0]
        found = self.of_actions(self.noise_critic, features, numbers)
        loss = 0.5 * (found - wanted).square().sum(0).mean()
        self._descend("noise_critic", loss)
        return float(loss.detach())


Learner = LatentSAC | AliasedSAC
