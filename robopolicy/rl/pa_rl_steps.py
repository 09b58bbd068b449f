"""The updates of PA-RL: the critic's, distillation, and the control that imitates data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from robopolicy.core.specs import ACTION
from robopolicy.policies.base import Policy
from robopolicy.rl.critic import Critic
from robopolicy.rl.pa_rl_candidates import Candidates, summary
from robopolicy.rl.pa_rl_config import PARLConfig
from robopolicy.rl.pa_rl_parts import chunk_weights, steps_executed
from robopolicy.rl.pa_rl_samples import windows
from robopolicy.rl.policy_learner import PolicyLearner
from robopolicy.rl.sac import polyak
from robopolicy.rl.transitions import NEXT
from robopolicy.wrappers.optimise_actions import DATA
from robopolicy.wrappers.selectors import choose, random_gumbel

Batch = Mapping[str, Any]
Scalars = dict[str, float]


class CriticUpdates:
    """Temporal differences towards the optimised policy's next actions, and what the critic's type adds."""

    def __init__(self, critic: Critic, candidates: Candidates, config: PARLConfig) -> None:
        self.critic, self.candidates, self.clip = critic, candidates, config.grad_clip
        self.learner = PolicyLearner.of(critic).eval()
        self.optimizer = AdamW(self.learner.optim_groups(config.critic_lr, 0.0), lr=config.critic_lr, fused=True)

    def __call__(self, batch: Batch, generator: torch.Generator) -> Scalars:
        """One update on a physical batch; the slow weights follow."""
        learner, critic = self.learner, self.critic
        data = {k: torch.as_tensor(v) for k, v in batch.items() if np.asarray(v).dtype.kind in "fiub"}
        told: Scalars = {}
        if isinstance(learner, PolicyLearner):
            actions, told = self.candidates.policy_actions(batch, generator)
            data |= actions
        noise = learner.draw_noise(len(data[ACTION]), generator)
        learner.train()
        try:
            loss = learner(self._seen(data), noise).mean()
            norm = descend(loss, self.optimizer, self.clip)
        finally:
            learner.eval()
        polyak(critic.newest, critic.slow, critic.config.polyak)
        td = float(learner.watched["td"].float().square().mean().sqrt())
        watched = {name: float(value.float().mean()) for name, value in learner.watched.items() if name != "td"}
        return {"critic_loss": float(loss.detach()), "td_error": td, "critic_grad": norm, **watched, **told}

    def _seen(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The newest of the stored observation steps, as many as the critic looks at."""
        steps, keys = self.critic.n_obs_steps, self.critic.observation_spec.keys
        return {**batch, **{p + key: batch[p + key][:, -steps:] for p in ("", NEXT) for key in keys}}


class BaseUpdates:
    """The head's own loss, on what the optimised policy does or on the data; the average follows."""

    def __init__(self, live: Policy, average: Policy, candidates: Candidates, config: PARLConfig) -> None:
        self.live, self.average, self.candidates, self.config = live, average, candidates, config
        ours, theirs = live.norm, candidates.proposer.norm
        self._same_units = torch.equal(ours.scale, theirs.scale) and torch.equal(ours.shift, theirs.shift)
        groups = live.optim_groups(config.base_lr, config.weight_decay)
        groups = [{**g, "params": [p for p in g["params"] if p.requires_grad]} for g in groups]
        self.optimizer = AdamW([g for g in groups if g["params"]], lr=config.base_lr, fused=True)

    def distil(self, batch: Batch, generator: torch.Generator) -> Scalars:
        """One update on optimised chunks, the data's own action among the candidates."""
        target, weights, told = self.targets(batch, generator)
        loss = self._loss(batch, target, weights, generator).mean()
        return {"base_loss": float(loss.detach()), "base_grad": self._learn(loss), **told}

    @torch.no_grad()
    def targets(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor, Scalars]:
        """Chunks ``(B, H, D)`` to imitate, in the model space of who learns, and the weights ``(B, H)`` of their steps.

        The executed part is optimised, the rest is the candidate's own and counts ``tail_weight``.  Where the data's
        action won, only the steps that were executed count: the rest of that chunk is nobody's.
        """
        config, live, proposer = self.config, self.live, self.candidates.proposer
        action = torch.as_tensor(batch[ACTION]).to(proposer.device, torch.float32)
        found = self.candidates(batch, data=proposer.norm.to_model(action) if config.data_in_pool else None)
        several = found.values.shape[1] > 1 and config.distil == "softmax"
        gumbel = random_gumbel(len(action), found.values.shape[1], generator) if several else None
        choice = choose(found.values, config.temperature if several else 0.0, gumbel)
        is_data, target = choice.take(found.index) == DATA, choice.take(found.chunks)
        if not self._same_units:
            target = live.norm.to_model(proposer.norm.to_phys(target))
        executed = steps_executed(batch, live.device)
        weights = chunk_weights(live, len(target), config.tail_weight, executed, is_data.to(live.device))
        told = {"data_share": float(is_data.float().mean()), "ess": float(choice.ess.mean()), **summary(found)}
        return target, weights, told

    def imitate(self, batch: Batch, generator: torch.Generator) -> Scalars:
        """The control: one update on the executed actions of successful episodes."""
        live, spec = self.live, self.live.action_spec
        good = torch.as_tensor(batch["success"]).to(live.device, torch.float32)
        count = float(good.sum())
        if not count:
            return {"base_loss": 0.0, "base_grad": 0.0, "rows": 0.0}
        action = torch.as_tensor(batch[ACTION]).to(live.device, torch.float32)
        target = torch.zeros(len(action), spec.horizon, spec.dim, device=live.device)
        target[:, spec.exec_slice] = live.norm.to_model(action)
        every = torch.ones(len(action), dtype=torch.bool, device=live.device)
        weights = chunk_weights(live, len(action), 0.0, steps_executed(batch, live.device), every)
        loss = (self._loss(batch, target, weights, generator) * good).sum() / count
        return {"base_loss": float(loss.detach()), "base_grad": self._learn(loss), "rows": count}

    def _loss(self, batch: Batch, target: Tensor, weights: Tensor, generator: torch.Generator) -> Tensor:
        """Per-sample loss ``(B,)`` of the head in training mode; dropout follows the generator too."""
        live = self.live
        noise = {k: v.to(live.device) for k, v in live.draw_training_noise(len(target), generator).items()}
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        live.train()
        try:
            obs: Any = windows(batch, live.observation_spec.keys)
            return live.supervised_loss(obs, target, mask=weights, noise=noise)
        finally:
            live.eval()

    def _learn(self, loss: Tensor) -> float:
        norm = descend(loss, self.optimizer, self.config.grad_clip)
        polyak(self.live, self.average, 1.0 if self.config.ema is None else self.config.ema)
        return norm


def descend(loss: Tensor, optimizer: Optimizer, clip: float | None) -> float:
    """Backward and one step; returns the gradient's norm before clipping."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    weights = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in weights if p.grad is not None])
    if clip is not None:
        torch.nn.utils.clip_grads_with_norm_(weights, clip, norm)
    optimizer.step()
    return float(norm)
