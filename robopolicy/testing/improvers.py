"""A fine-tuning method for tests: imitates what was executed, and regresses returns with noise; learns in milliseconds.

It has all that resumption must restore: two kinds of updates with an optimiser each, weights that decide how the next
episodes are collected, draws from the generators given, a counter of its own, and a frozen base.  Registered as
``imitate_all`` when this module is imported (on the command line: ``ROBOPOLICY_PLUGINS=robopolicy.testing.improvers``).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn
from torch.optim import Adam, Optimizer

from robopolicy.core.chunk import ActionChunk
from robopolicy.core.configs import config_dataclass
from robopolicy.core.improver import (
    IMPROVERS,
    Beginning,
    Explored,
    Explorer,
    Improver,
    ImproverKind,
    ReplayLayout,
    Work,
)
from robopolicy.core.seeding import generator as keyed_generator
from robopolicy.core.specs import FeatureKind
from robopolicy.policies.io import save_policy
from robopolicy.rl.explorers import PolicyExplorer
from robopolicy.wrappers.rerank import ValueGuidedPolicy
from robopolicy.wrappers.rerank_scorers import RandomSelector


@config_dataclass
class ImitateAllConfig:
    """Imitates every executed action."""

    lr: float = 1e-3
    """Learning rate of both optimisers."""
    batch_size: int = 8
    """Rows of an update."""
    offline_steps: int = 0
    """Updates before the first episode."""
    steps: int = 3
    """Updates of each kind after a round."""
    mixing: float = 0.5
    """Share of offline rows."""
    noise: float = 0.2
    """Spread of the noise that is added to actions while collecting."""
    break_base: bool = False
    """Change the frozen base in the first update, which a run must notice."""
    break_loss: bool = False
    """Return a loss that is not a number."""


class NoisyExplorer(PolicyExplorer):
    """A policy with keyed Gaussian noise on its actions, which is also the latent that is stored."""

    def __init__(self, policy: Any, noise: float) -> None:
        super().__init__(policy)
        self._noise = noise

    def explore(self, obs: Any, noise_keys: Any, episodes: Any = None) -> Explored:
        """See ``core.improver.Explorer``."""
        chunk = super().explore(obs, noise_keys, episodes).chunk
        spec = self.action_spec
        drawn = np.stack(
            [keyed_generator("noise", *key).standard_normal((spec.horizon, spec.dim), np.float32) for key in noise_keys]
        )
        low, high = (np.asarray(b, np.float32) for b in (spec.space.low, spec.space.high))
        actions = (chunk.actions + self._noise * drawn).clip(low, high)
        return Explored(ActionChunk(actions, chunk.stamps, spec), drawn)


class ImitateAll(Improver):
    """See the module's text."""

    name = "imitate_all"

    def __init__(self, config: ImitateAllConfig, beginning: Beginning) -> None:
        self.config, self.base, self.batch_size = config, beginning.base, config.batch_size
        spec = self.base.action_spec
        features = tuple(f for f in self.base.observation_spec.features if f.kind is not FeatureKind.LANGUAGE)
        shape = (spec.horizon, spec.dim)
        self.layout = ReplayLayout(features, spec.n_obs_steps, spec.n_action_steps, spec.dim, shape, 0.95)
        self.policy = copy.deepcopy(self.base)
        self.critic = nn.Linear(sum(f.shape[0] for f in features if len(f.shape) == 1), 1)
        self._modules = nn.ModuleDict({"policy": self.policy, "critic": self.critic})
        self._optimizers = {
            "policy": Adam([p for p in self.policy.parameters() if p.requires_grad], lr=config.lr),
            "critic": Adam(self.critic.parameters(), lr=config.lr),
        }
        self.calls, self.bounded = 0, 2.0

    def explorer(self, warmup: bool) -> Explorer:
        """Noisy, of the base or of the policy."""
        return NoisyExplorer(self.base if warmup else self.policy, self.config.noise)

    def offline_work(self) -> Sequence[Work]:
        """Critic only."""
        return (Work("critic", self.config.offline_steps, 1.0),) if self.config.offline_steps else ()

    def online_work(self, transitions: int, env_steps: int) -> Sequence[Work]:
        """Both kinds."""
        return tuple(Work(kind, self.config.steps, self.config.mixing) for kind in ("policy", "critic"))

    def step(self, kind: str, batch: Mapping[str, np.ndarray], generator: torch.Generator) -> dict[str, float]:
        """One update."""
        self.calls += 1
        if self.config.break_base:
            with torch.no_grad():
                next(self.base.parameters()).add_(1.0)
        if self.config.break_loss:
            return {"policy_loss": float("nan")}
        loss = self._policy_loss(batch, generator) if kind == "policy" else self._critic_loss(batch, generator)
        optimizer = self._optimizers[kind]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {f"{kind}_loss": float(loss.detach())}

    def _policy_loss(self, batch: Mapping[str, np.ndarray], generator: torch.Generator) -> torch.Tensor:
        spec, actions = self.policy.action_spec, torch.from_numpy(batch["action"])
        before, behind = spec.exec_start, spec.horizon - spec.exec_start - self.layout.k
        parts = [actions[:, :1].expand(-1, before, -1), actions, actions[:, -1:].expand(-1, behind, -1)]
        target = self.policy.norm.to_model(torch.cat(parts, 1))
        obs = {f.key: torch.from_numpy(batch[f.key]) for f in self.layout.features}
        noise = self.policy.draw_training_noise(len(actions), generator)
        loss: torch.Tensor = self.policy.supervised_loss(obs, target, noise=noise).mean()
        return loss

    def _critic_loss(self, batch: Mapping[str, np.ndarray], generator: torch.Generator) -> torch.Tensor:
        vectors = [batch[f.key][:, -1] for f in self.layout.features if len(f.shape) == 1]
        inputs = torch.from_numpy(np.concatenate(vectors, axis=1))
        inputs = inputs + 0.1 * torch.randn(inputs.shape, generator=generator)
        wanted = torch.from_numpy(batch["mc_return"] + batch["reward"] + batch["discount"])
        return (self.critic(inputs)[:, 0] - wanted).square().mean()

    def candidates(self) -> Mapping[str, Any]:
        """The policy with a coin's choice between two chunks (a nesting, so that saving has one), and the base."""
        return {"tuned": ValueGuidedPolicy(self.policy.eval(), RandomSelector(), num_samples=2), "base": self.base}

    def modules(self) -> nn.Module:
        """Policy and critic."""
        return self._modules

    def optimizers(self) -> Mapping[str, Optimizer]:
        """One each."""
        return self._optimizers

    def extra_state(self) -> dict[str, Any]:
        """Updates done."""
        return {"calls": self.calls}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """See ``extra_state``."""
        self.calls = int(state["calls"])

    @property
    def bound(self) -> float | None:
        """Where a curriculum ends."""
        return 2.0

    def set_bound(self, bound: float) -> None:
        """Keep it, for tests to read."""
        self.bounded = bound

    def save(self, directory: Path, base: str) -> Path:
        """The policy, and a nesting around it that also names the base."""
        save_policy(self.policy, directory / "policy")
        nesting = {"type": "value_guided", "policy": "policy", "critic": "random", "num_samples": 2}
        file = directory / "tuned.yaml"
        file.write_text(yaml.safe_dump(nesting, sort_keys=False))
        return file

    def frozen_hash_parts(self) -> nn.Module | None:
        """The base."""
        part: nn.Module = self.base
        return part


def build(config: ImitateAllConfig, beginning: Beginning) -> ImitateAll:
    """A new one."""
    return ImitateAll(config, beginning)


IMPROVERS.add(
    "imitate_all", ImproverKind("robopolicy.testing.improvers:ImitateAllConfig", "robopolicy.testing.improvers:build")
)
