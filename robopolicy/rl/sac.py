"""Soft actor-critic on feature vectors: one update is temperature, critic, actor, slow critic, in this order.

Source: SAC (Haarnoja et al. 2018, arXiv 1812.05905, section 5 and equation 18); order, losses and what carries
gradients are those of Stable-Baselines3, with which one update agrees number for number (tests/rl/test_sac_parity.py).
Differs: the log-density of the tanh is exact (there is no 1e-6 in it); targets take a discount per transition, so that
chunks of different lengths and ends mix; all noise comes from a generator given; the members compute together.
When to use: the actor chooses what a policy starts from (DSRL), or anything else with a box of actions.

A learner for another critic overrides ``values``, ``slow_values`` and ``judge``: what is learned from data, what it
bootstraps from, and what teaches the actor (DSRL-NA: the first two decode, the last is a second ensemble).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from robopolicy.core.errors import ConfigError
from robopolicy.rl.losses import squared_error
from robopolicy.rl.networks import EnsembleMLP, TanhActor
from robopolicy.rl.sac_config import SACConfig
from robopolicy.rl.targets import CriticTarget, bellman, reduce_members, with_entropy

Noise = Mapping[str, Tensor]
Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True)
class SACBatch:
    """``B`` transitions as the networks take them, on the learner's device.

    ``features``, ``next_features`` ``(B, F)``: what actor and critic see; a graph behind ``features`` is taught by the
    critic's loss alone.  ``slow_next`` ``(B, F)``: the next features by a slow encoder, where there is one.  ``action``
    ``(B, A)``: what the critic values, for plain SAC the action inside ``[-bound, bound]``.  ``reward``, ``discount``
    ``(B,)``: those of ``rl.transitions`` (``discount`` is 0 where the future ended).
    """

    features: Tensor
    next_features: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    slow_next: Tensor | None = None

    @property
    def bootstrap(self) -> Tensor:
        """What the slow critic sees next."""
        return self.next_features if self.slow_next is None else self.slow_next


class Temperature(nn.Module):
    """The weight of the entropy: learned to hold a target, or fixed."""

    def __init__(self, target_entropy: float, fixed: float | None = None, initial: float = 1.0) -> None:
        super().__init__()
        self.target_entropy, self.fixed = target_entropy, fixed
        self.log = nn.Parameter(torch.tensor(math.log(initial)), requires_grad=fixed is None)

    @property
    def value(self) -> Tensor:
        """Now, without gradient, ``()``."""
        return self.log.detach().exp() if self.fixed is None else self.log.new_tensor(self.fixed)

    def loss(self, log_prob: Tensor) -> Tensor:
        """``-log(alpha) (log pi + H)`` averaged over ``log_prob`` ``(B,)``; entropy above ``H`` lowers ``alpha``."""
        return -(self.log * (log_prob.detach() + self.target_entropy)).mean()


@torch.no_grad()
def polyak(newest: nn.Module, slow: nn.Module, share: float) -> None:
    """Move every parameter of ``slow`` by ``share`` of the way to ``newest``.

    Not through ``.data``: networks keep tables of their weights for inference and see writes by the tensor's version.
    """
    torch._foreach_lerp_(list(slow.parameters()), [p.data for p in newest.parameters()], share)


def slow_copy(newest: Net) -> Net:
    """A copy that only ``polyak`` moves."""
    return copy.deepcopy(newest).eval().requires_grad_(False)


def updates_due(transitions: int, brought: int, utd: float) -> int:
    """Updates for the last ``brought`` of ``transitions`` at ``utd`` an update ratio; fractions carry over rounds."""
    return math.floor(transitions * utd) - math.floor((transitions - brought) * utd)


class SACLearner(nn.Module):
    """Actor, critic, slow critic, temperature and their optimisers; ``update`` is one step of all."""

    def __init__(
        self,
        config: SACConfig,
        feature_dim: int,
        active: Tensor | int,
        *,
        critic_dim: int | None = None,
        taught: Iterable[nn.Parameter] = (),
    ) -> None:
        """``active``: numbers of an action, or ``(A,)`` with 0 for those that are padding.

        ``critic_dim``: numbers the critic values, where they are not the actor's.  ``taught``: weights behind
        ``SACBatch.features`` that learn with the critic (an encoder's).
        """
        super().__init__()
        active = torch.ones(active) if isinstance(active, int) else active.float()
        self.config, self.dims = config, int(active.sum())
        if not self.dims:
            raise ConfigError("an actor needs at least one action number, got none that is active")
        self.members = CriticTarget(config.ensemble, config.subset, config.reduce)
        self.actor = TanhActor(
            feature_dim,
            active,
            config.actor_hidden or config.hidden,
            config.activation,
            layer_norm=config.layer_norm,
            log_std=config.log_std,
            bound=config.bound,
            scaled_density=config.density == "scaled",
        )
        self.critic = self.ensemble(feature_dim, len(active) if critic_dim is None else critic_dim)
        self.slow = slow_copy(self.critic)
        entropy = -float(self.dims) if config.target_entropy is None else config.target_entropy
        self.temperature = Temperature(entropy, config.temperature, config.initial_temperature)
        self._optimizers = {
            "actor": Adam(self.actor.parameters(), config.actor_lr, fused=True),
            "critic": Adam([*self.critic.parameters(), *taught], config.critic_lr, fused=True),
        }
        if config.temperature is None:
            self._optimizers["temperature"] = Adam(self.temperature.parameters(), config.temperature_lr, fused=True)

    def ensemble(self, feature_dim: int, action_dim: int) -> EnsembleMLP:
        """A critic's network with the configured members and widths."""
        c = self.config
        return EnsembleMLP(c.ensemble, feature_dim, action_dim, c.hidden, 1, c.activation, c.layer_norm)

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.temperature.log.device

    def optimizers(self) -> dict[str, Optimizer]:
        """By name: actor, critic and, where it is learned, temperature."""
        return dict(self._optimizers)

    # ----------------------------------------------------------------------------------- what learners may override

    def values(self, batch: SACBatch) -> Tensor:
        """The critic's values ``(E, B)`` of the stored actions, with gradient."""
        return self.of_actions(self.critic, batch.features, batch.action)

    def slow_values(self, batch: SACBatch, actions: Tensor) -> Tensor:
        """The slow critic's values ``(E, B)`` of the actor's next ``actions`` ``(B, A)``; called without gradient."""
        return self.of_actions(self.slow, batch.bootstrap, actions)

    def judge(self, features: Tensor, actions: Tensor) -> Tensor:
        """Values ``(E, B)`` of the actor's ``actions`` ``(B, A)``, with gradient to them and to no weight."""
        return self.of_actions(self.critic, features, actions, frozen=True)

    def of_actions(self, critic: EnsembleMLP, features: Tensor, actions: Tensor, frozen: bool = False) -> Tensor:
        """``(E, B)``; ensembles see actions in units of the configured bound, whatever the actor's bound is now."""
        out: Tensor = critic(features, actions[:, None] / self.config.bound, frozen)
        return out[:, :, 0, 0]

    # ----------------------------------------------------------------------------------------------------- one update

    def draw_noise(self, rows: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Everything random in one update of ``rows`` transitions."""
        shape = (rows, len(self.actor.active))
        return {
            "eps": torch.randn(shape, generator=generator),
            "eps_next": torch.randn(shape, generator=generator),
            "members": self.members.draw(generator),
        }

    def update(self, batch: SACBatch, generator: torch.Generator) -> dict[str, float]:
        """One update with noise from ``generator`` (a CPU one); scalars for logs."""
        return self.step(batch, self.draw_noise(len(batch.reward), generator))

    def step(self, batch: SACBatch, noise: Noise) -> dict[str, float]:
        """One update with this noise: temperature, critic, actor, slow critic."""
        eps, eps_next = (noise[k].to(self.device)[:, None] for k in ("eps", "eps_next"))
        actions, log_prob = (x[:, 0] for x in self.actor(batch.features.detach(), eps))
        # The temperature that this update uses is the one from before its own step, as in Stable-Baselines3.
        alpha = self.temperature.value
        if self.config.temperature is None:
            self._descend("temperature", self.temperature.loss(log_prob))
        target = self.target(batch, eps_next, noise["members"].to(self.device), alpha)
        q = self.values(batch)
        critic_loss = 0.5 * squared_error(q, target).mean()
        self._descend("critic", critic_loss)
        judged = reduce_members(self.judge(batch.features.detach(), actions), self.config.reduce)
        actor_loss = (alpha * log_prob - judged).mean()
        self._descend("actor", actor_loss)
        polyak(self.critic, self.slow, self.config.polyak)
        told = {
            "critic_loss": critic_loss,
            "actor_loss": actor_loss,
            "q": q.mean(),
            "target": target.mean(),
            "entropy": -log_prob.mean(),
            "temperature": alpha,
        }
        return dict(zip(told, torch.stack([v.detach() for v in told.values()]).tolist(), strict=True))

    @torch.no_grad()
    def target(self, batch: SACBatch, eps_next: Tensor, members: Tensor, alpha: Tensor) -> Tensor:
        """``y = R + discount (Q'(s', a') - alpha log pi(a'))``, ``(B,)``, for noise ``eps_next`` ``(B, 1, A)``."""
        actions, log_prob = (x[:, 0] for x in self.actor(batch.next_features, eps_next))
        value = self.members(self.slow_values(batch, actions), members)
        if self.config.entropy_backup:
            value = with_entropy(value, alpha, log_prob)
        return bellman(batch.reward, batch.discount, value)

    def _descend(self, name: str, loss: Tensor) -> None:
        optimizer = self._optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
