"""PA-RL: optimise the actions of any policy with a critic, and teach the policy the result by its own loss.

Source: Sobol Mark et al. 2024, *Policy Agnostic RL: Offline RL and Online RL Fine-Tuning of Any Class and Backbone*
(arXiv 2412.06685) and its released code.  One round is distillation first, then the critic; before the first episode
the critic alone learns from offline data, and its optimiser begins anew with the first online update.
What differs: chunks (``wrappers.optimise_actions``); a head's samples are kept by observation and drawn anew every so
many of its updates (``pa_rl_samples``); the critic learns from draws of the optimised policy instead of ten copies of
its best action (``target_policy: legacy`` has those); the data's action, where it wins, teaches only the steps that it
has.  ``imitate: data`` is the control without a critic: behaviour cloning continued on the same batches.
When to use: for a base that a trainer knows (every head here), or a composition with a student; where the base can be
changed.  DSRL leaves it as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from torch.optim import Optimizer

from robopolicy.core.errors import CheckpointError
from robopolicy.core.improver import Beginning, Explorer, Improver, Work
from robopolicy.core.io import write_atomic
from robopolicy.policies.acting import Acting
from robopolicy.policies.base import Policy
from robopolicy.policies.io import load_policy, save_policy
from robopolicy.rl.critic import Critic
from robopolicy.rl.explorers import PolicyExplorer
from robopolicy.rl.io import save_critic
from robopolicy.rl.pa_rl_candidates import Batch, Candidates
from robopolicy.rl.pa_rl_config import PARLConfig
from robopolicy.rl.pa_rl_parts import layout_of, learning_policy, make_critic
from robopolicy.rl.pa_rl_steps import BaseUpdates, CriticUpdates
from robopolicy.rl.sac import polyak, slow_copy, updates_due
from robopolicy.wrappers.optimise import OptimisedPolicy

OFFLINE, DISTIL, CRITIC, IMITATE = "offline_critic", "distil", "critic", "imitate"
POLICY_DIR, CRITIC_DIR, NESTING = "policy", "critic", "policy.yaml"
# What of the configuration is a setting of ``OptimisedPolicy`` too.
SETTINGS = (
    *("num_samples", "keep", "steps", "eta", "eta_mode", "radius", "temperature", "reduce", "bounds", "rotations"),
    "max_jump",
)


def build(config: PARLConfig, beginning: Beginning) -> PARLImprover:
    """The improver of a run; refusals as in ``learning_policy``."""
    student = None if config.student is None else load_policy(config.student, beginning.base.device)
    learning_policy(beginning.base, student)
    return PARLImprover(beginning.base, make_critic(config, beginning), config, student=student, seed=beginning.seed)


class PARLImprover(Improver):
    """See the module.  ``B`` rows, ``K`` candidates, ``m`` kept, ``H`` horizon, ``k`` executed, ``D`` channels.

    ``candidates``: "optimised" (samples, critic, gradient) and "base", the policy that has learned, alone; with
    ``imitate: data`` only the latter.  With a student the candidates are drawn from the base throughout.
    """

    name = "pa_rl"

    def __init__(
        self, base: Acting, critic: Critic, config: PARLConfig, *, student: Policy | None = None, seed: int = 0
    ) -> None:
        """``base`` and ``critic`` in evaluation mode; the base is copied, the critic is not.

        Raises as ``learning_policy`` and ``OptimisedPolicy`` do.
        """
        learner = learning_policy(base, student)
        self.config, self.critic, self.batch_size = config, critic.eval(), config.batch_size
        self.layout = layout_of(base, learner, critic)
        self.live = copy.deepcopy(learner).eval()
        self.average = slow_copy(self.live)
        self._fixed = student is not None  # whether candidates come from somewhere that never learns
        self.proposer: Acting = base if self._fixed else slow_copy(self.average)
        self.drawn = Candidates(self.proposer, critic, config, seed)
        self.critic_updates = CriticUpdates(critic, self.drawn, config)
        self.base_updates = BaseUpdates(self.live, self.average, self.drawn, config)
        self._online, self._age, self._transitions, self._env_steps = False, 0, 0, 0
        parts = {"base": self.live, "average": self.average, "learner": self.critic_updates.learner}
        self._modules = nn.ModuleDict(parts)
        if not self._fixed:
            self._modules["proposer"] = self.proposer

    def optimised(self, policy: Acting, selection: str) -> OptimisedPolicy:
        """``policy`` with the critic around it, as the configuration says."""
        return OptimisedPolicy(policy, self.critic, **self._settings(selection))

    def _settings(self, selection: str) -> dict[str, Any]:
        return {**{name: getattr(self.config, name) for name in SETTINGS}, "selection": selection}

    # ----------------------------------------------------------------------------------------------- the contract

    def explorer(self, warmup: bool) -> Explorer:
        """The base in the warm-up (and for the control), afterwards the optimised policy."""
        if not self.config.needs_critic and not warmup:
            return PolicyExplorer(self.average)
        source = self.proposer if self._fixed else self.average
        return PolicyExplorer(source if warmup else self.optimised(source, self.config.explore))

    def offline_work(self) -> Sequence[Work]:
        """The critic, on offline data alone."""
        steps = self.config.offline_steps if self.config.needs_critic else 0
        return (Work(OFFLINE, steps, 1.0),) if steps else ()

    def online_work(self, transitions: int, env_steps: int) -> Sequence[Work]:
        """Distillation, then the critic; fractions of an update carry over to the next round."""
        config = self.config
        self._transitions, self._env_steps = self._transitions + transitions, self._env_steps + env_steps
        by_decision = config.utd_unit == "transition"
        total, brought = (self._transitions, transitions) if by_decision else (self._env_steps, env_steps)
        base, critic = (updates_due(total, brought, utd) for utd in (config.base_utd, config.critic_utd))
        if not config.needs_critic:
            return (Work(IMITATE, base, config.base_mixing),)
        return (Work(DISTIL, base, config.base_mixing), Work(CRITIC, critic, config.critic_mixing))

    def step(self, kind: str, batch: Batch, generator: torch.Generator) -> dict[str, float]:
        """One update; see the module for the kinds."""
        if kind != OFFLINE and not self._online:
            self._online = True
            self.critic_updates.optimizer.state.clear()  # as published: moments of the offline stage are not kept
        if kind in (OFFLINE, CRITIC):
            return self.critic_updates(batch, generator)
        base = self.base_updates
        scalars = base.distil(batch, generator) if kind == DISTIL else base.imitate(batch, generator)
        self._grow_older()
        return scalars

    def _grow_older(self) -> None:
        """After so many updates of the base its samples are drawn anew, from its average as it is then."""
        self._age += 1
        if not self._fixed and self._age >= self.config.refresh:
            self._age = 0
            polyak(self.average, self.proposer, 1.0)
            self.drawn.samples.renew(self.drawn.samples.version + 1)

    def candidates(self) -> Mapping[str, Acting]:
        """The optimised policy and the base that has learned."""
        alone = {"base": self.average}
        if not self.config.needs_critic:
            return alone
        return {"optimised": self.optimised(self.average, self.config.deploy), **alone}

    def modules(self) -> nn.Module:
        """The base (newest, averaged, and as its samples were last drawn), the critic."""
        return self._modules

    def optimizers(self) -> Mapping[str, Optimizer]:
        """Of the base and of the critic."""
        return {"base": self.base_updates.optimizer, "critic": self.critic_updates.optimizer}

    def extra_state(self) -> dict[str, Any]:
        """Counters."""
        return {
            "online": self._online,
            "age": self._age,
            "version": self.drawn.samples.version,
            "transitions": self._transitions,
            "env_steps": self._env_steps,
        }

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of ``extra_state``; raises ``CheckpointError``."""
        if set(state) != set(self.extra_state()):
            raise CheckpointError(f"pa_rl: expected the counters {', '.join(self.extra_state())}, got {list(state)}")
        self._online, self._age = bool(state["online"]), int(state["age"])
        self._transitions, self._env_steps = int(state["transitions"]), int(state["env_steps"])
        self.drawn.samples.renew(int(state["version"]))

    def frozen_hash_parts(self) -> nn.Module | None:
        """The base where a student learns in its place; otherwise nothing is frozen."""
        return self.proposer if self._fixed else None

    def save(self, directory: Path, base: str) -> Path:
        """Write ``policy/`` (the base that has learned), ``critic/`` and the nesting around them."""
        directory = Path(directory)
        save_policy(self.average, directory / POLICY_DIR)
        nesting: dict[str, Any] = {"format": 1, "type": "value_guided", "policy": POLICY_DIR, "critic": "random"}
        nesting["num_samples"] = 1  # one candidate, chosen by nobody: the policy itself
        if self.config.needs_critic:
            save_critic(self.critic, directory / CRITIC_DIR)
            nesting = {"format": 1, "type": "optimised", "policy": POLICY_DIR, "critic": CRITIC_DIR}
            nesting |= self._settings(self.config.deploy)
        file = directory / NESTING
        write_atomic(file, yaml.safe_dump(nesting, sort_keys=False))
        return file
