"""What one step of training asks of a critic: per-sample losses of a batch, all randomness given from outside.

Sources: IQL (arXiv 2110.06169, equations 5 and 6), Cal-QL (arXiv 2303.05479) with V-GPS's settings.
Differs: one backward pass for all parts, kept apart by detached inputs and weights; the proxy actor reads the critic's
features without teaching its encoder (V-GPS has two encoders); its actions at the next observation serve both the
regulariser and the backup; IQL's value and action value are updated together, from weights before the step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robopolicy.core.errors import MissingRewards
from robopolicy.core.specs import ACTION
from robopolicy.policies.base import CROP
from robopolicy.policies.optim import encoder_groups
from robopolicy.rl import losses
from robopolicy.rl.critic import Critic
from robopolicy.rl.networks import ProxyActor
from robopolicy.rl.targets import bellman, best_of
from robopolicy.rl.transitions import DISCOUNT, MC_RETURN, NEXT, REWARD

Noise = Mapping[str, Tensor]
MEMBERS = "members"


class Learner(nn.Module):
    """A critic and what only its training needs; ``forward`` gives per-sample losses ``(B,)``.

    ``watched`` holds per-sample values of the newest batch, ``(B,)`` each: ``td`` (value less target), ``q`` (mean of
    the members at the data action), ``target``; with Cal-QL also ``regulariser``, ``bound_rate`` and ``entropy``.
    """

    def __init__(self, critic: Critic) -> None:
        super().__init__()
        self.critic, self.watched = critic, dict[str, Tensor]()

    @staticmethod
    def of(critic: Critic) -> Learner:
        """The learner of the critic's type."""
        return IQLLearner(critic) if critic.config.type == "iql" else CalQLLearner(critic)

    def draw_noise(self, n: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Everything random in one loss of ``n`` transitions, each entry ``(n, ...)``.

        The members of a target's subset are the same in every row: one draw an update.
        """
        critic = self.critic
        noise = {MEMBERS: critic.target.draw(generator).repeat(n, 1)}
        for camera in critic.newest.encoder.cameras:
            for prefix in ("", NEXT):
                noise[prefix + CROP + camera.key] = torch.rand(n, critic.n_obs_steps, 2, generator=generator)
        return noise

    def forward(self, batch: Mapping[str, Any], noise: Noise) -> Tensor:
        """Losses of physical transitions (see ``transitions``): observations, ``next.*``, ``action``, ``reward``..."""
        raise NotImplementedError

    def optim_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """The newest weights of the critic, trunks at their own rate; the slow ones follow, they do not learn."""
        nets = self.critic.newest
        heads = [p for part in (nets.q, nets.v) if part is not None for p in part.parameters()]
        own = {"name": "heads", "params": heads, "lr": lr, "weight_decay": weight_decay}
        return [*encoder_groups(nets.encoder, lr, weight_decay), own]

    # ------------------------------------------------------------------------------------------------- shared

    def _inputs(self, batch: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        keys = self.critic.observation_spec.keys
        return self.critic.inputs({k: batch[prefix + k] for k in keys if prefix + k in batch}, values=False)

    def _crops(self, noise: Noise, prefix: str = "") -> dict[str, Tensor] | None:
        cameras = self.critic.newest.encoder.cameras
        if not self.training or not cameras:
            return None
        return {c.key: noise[prefix + CROP + c.key].to(self.critic.device) for c in cameras}

    def _actions(self, batch: Mapping[str, Any]) -> Tensor:
        """The data's actions as the networks take them, ``(B, 1, k * D)``."""
        action = torch.as_tensor(batch[ACTION]).to(self.critic.device, torch.float32, non_blocking=True)
        return self.critic.flat(self.critic.norm.to_model(action)[:, None])

    def _numbers(self, batch: Mapping[str, Any], key: str) -> Tensor:
        if key not in batch:
            raise MissingRewards(f"the batch has no '{key}'; transitions carry reward, discount and mc_return")
        return torch.as_tensor(batch[key]).to(self.critic.device, torch.float32, non_blocking=True)

    def _backup(self, batch: Mapping[str, Any], value: Tensor) -> Tensor:
        return bellman(self._numbers(batch, REWARD), self._numbers(batch, DISCOUNT), value).detach()

    def _q_loss(self, raw: Tensor, target: Tensor) -> Tensor:
        """Loss ``(B,)`` of outputs ``(E, B, outputs)``, summed over members; also watches ``td`` and ``q``."""
        bins = self.critic.bins
        q = self.critic.values_of(raw)
        mean = q.detach().mean(0)
        self.watched = {"q": mean, "target": target, "td": mean - target}
        return losses.squared_error(q, target) if bins is None else bins.cross_entropy(raw, target).sum(0)


class IQLLearner(Learner):
    """IQL: an expectile of the data's action values as the state value, which is what values bootstrap from."""

    def forward(self, batch: Mapping[str, Any], noise: Noise) -> Tensor:
        """Per-sample losses ``(B,)``: expectile regression of V plus the error of Q."""
        critic, config = self.critic, self.critic.config.iql
        inputs, ahead = self._inputs(batch), self._inputs(batch, NEXT)
        crops, crops_ahead = self._crops(noise), self._crops(noise, NEXT)
        actions = self._actions(batch)
        features = critic.newest.encode(inputs, crops)
        assert critic.newest.v is not None
        assert critic.slow.v is not None
        with torch.no_grad():
            slow = features if critic.encodes_alike else critic.slow.encode(inputs, crops)
            judged = critic.values_of(critic.raw_q(slow, actions, target=True))[..., 0]
            judged = critic.target(judged, noise[MEMBERS][0].to(critic.device))
            nets = critic.slow if config.target_value else critic.newest
            target = self._backup(batch, nets.v(nets.encode(ahead, crops_ahead))[0, :, 0, 0])  # type: ignore[misc]
        value = critic.newest.v(features)[0, :, 0, 0]
        q_loss = self._q_loss(critic.raw_q(features, actions)[:, :, 0], target)
        return q_loss + losses.expectile(judged - value, config.expectile)


class ConservativeLearner(Learner):
    """What Cal-QL is wherever its policy's actions come from: the uniform actions, and the regulariser."""

    def __init__(self, critic: Critic) -> None:
        super().__init__(critic)
        self.dims = int(critic.active.sum())
        self.uniform_log_prob = losses.uniform_log_prob(self.dims)

    def draw_noise(self, n: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Also uniform actions."""
        critic = self.critic
        shape = (n, critic.config.cal_ql.samples, critic.k * critic.action_space.dim)
        noise = super().draw_noise(n, generator)
        noise["uniform"] = torch.rand(shape, generator=generator) * 2 - 1
        return noise

    def _uniform(self, noise: Noise) -> Tensor:
        return noise["uniform"].to(self.critic.device) * self.critic.active

    def _target(self, batch: Mapping[str, Any], slow_ahead: Tensor, following: Tensor, noise: Noise) -> Tensor:
        """What the data action's value is drawn to ``(B,)``: the best (or the first) of the next actions ``(B, n, A)``
        by the slow weights."""
        critic, several = self.critic, self.critic.config.cal_ql.max_target_backup
        used = following if several else following[:, :1]
        values = critic.values_of(critic.raw_q(slow_ahead, used, target=True))
        values = critic.target(values, noise[MEMBERS][0].to(critic.device))
        return self._backup(batch, best_of(values, several))

    def _regulariser(
        self, batch: Mapping[str, Any], raw: Tensor, log_probs: Sequence[Tensor | None], counts: Sequence[int]
    ) -> Tensor:
        """``(B,)``, summed over members; policy actions of the next observation are judged at this one.

        ``raw``: outputs at the data action, the uniform ones, and ``counts`` actions of each policy source, whose
        log-densities are ``log_probs``.
        """
        config = self.critic.config.cal_ql
        returns = self._numbers(batch, MC_RETURN) if config.calibrated else None
        data, uniform, *theirs = self.critic.values_of(raw).split([1, config.samples, *counts], dim=-1)
        candidates = [losses.Candidates(uniform, self.uniform_log_prob, bounded=config.bound_uniform)]
        candidates += [losses.Candidates(q, log_prob) for q, log_prob in zip(theirs, log_probs, strict=True)]
        members = losses.conservative(
            data[..., 0],
            candidates,
            returns,
            calibrated=config.calibrated,
            estimator=config.estimator,
            temperature=config.temperature,
        )
        self.watched["regulariser"] = members.detach().mean(0)
        if returns is not None:
            self.watched["bound_rate"] = losses.bound_rate(candidates, returns)
        return members.sum(0)


class CalQLLearner(ConservativeLearner):
    """Cal-QL: temporal differences, a regulariser on unseen actions, and the actor that proposes them."""

    def __init__(self, critic: Critic) -> None:
        super().__init__(critic)
        config, active = critic.config, critic.active
        width = critic.newest.q.feature_dim
        self.actor = ProxyActor(width, active, config.cal_ql.actor_hidden, config.activation)
        self.log_temperature = nn.Parameter(torch.zeros(()))
        entropy = config.cal_ql.target_entropy
        self.target_entropy = -float(self.dims) if entropy is None else entropy

    def optim_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Also the actor at ``actor_lr`` and its temperature at the critic's rate."""
        actor = {"name": "actor", "params": list(self.actor.parameters()), "lr": self.critic.config.cal_ql.actor_lr}
        temperature = {"name": "temperature", "params": [self.log_temperature], "lr": lr}
        groups = [{**g, "weight_decay": 0.0} for g in (actor, temperature)]
        return [*super().optim_groups(lr, weight_decay), *groups]

    def draw_noise(self, n: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Also the actor's unit-normal noise here and at the next observation."""
        noise = super().draw_noise(n, generator)
        shape = noise["uniform"].shape
        noise["eps"] = torch.randn(shape, generator=generator)
        noise["eps_next"] = torch.randn(shape, generator=generator)
        return noise

    def forward(self, batch: Mapping[str, Any], noise: Noise) -> Tensor:
        """Per-sample losses ``(B,)``: error of Q, ``alpha`` times the regulariser, the actor's, its temperature's."""
        critic, alpha, device = self.critic, self.critic.config.alpha, self.critic.device
        inputs, ahead = self._inputs(batch), self._inputs(batch, NEXT)
        crops, crops_ahead = self._crops(noise), self._crops(noise, NEXT)
        features = critic.newest.encode(inputs, crops)
        eps, eps_next = noise["eps"].to(device), noise["eps_next"].to(device)
        proposed, log_prob = self.actor(features.detach(), eps)
        with torch.no_grad():
            slow_ahead = critic.slow.encode(ahead, crops_ahead)
            seen_ahead = slow_ahead if critic.encodes_alike else critic.newest.encode(ahead, crops_ahead)
            following, log_prob_next = self.actor(seen_ahead, eps_next)
            target = self._target(batch, slow_ahead, following, noise)
        asked = [self._actions(batch)]
        asked += [self._uniform(noise), proposed.detach(), following] if alpha > 0 else []
        raw = critic.raw_q(features, torch.cat(asked, dim=1))
        loss = self._q_loss(raw[:, :, 0], target)
        if alpha > 0:
            densities, counts = (log_prob.detach(), log_prob_next), (proposed.shape[1], following.shape[1])
            loss = loss + alpha * self._regulariser(batch, raw, densities, counts)
        return loss + self._actor_loss(features.detach(), proposed[:, :1], log_prob[:, 0])

    def _actor_loss(self, features: Tensor, actions: Tensor, log_prob: Tensor) -> Tensor:
        """``(B,)``: the least member's value plus entropy; gradients stop at the critic's weights."""
        q = self.critic.values_of(self.critic.raw_q(features, actions, frozen=True))[..., 0].min(0).values
        temperature = self.log_temperature.exp()
        self.watched["entropy"] = -log_prob.detach()
        held = temperature * (-log_prob.detach() - self.target_entropy)
        return temperature.detach() * log_prob - q + held
