"""The optimised policy while it is learned from: kept samples of the base, optimised by the critic as it is now."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robopolicy.policies.acting import Acting
from robopolicy.rl.critic import Critic
from robopolicy.rl.pa_rl_config import PARLConfig
from robopolicy.rl.pa_rl_samples import BaseSamples, windows
from robopolicy.rl.policy_learner import POLICY_ACTION, coinciding
from robopolicy.rl.transitions import NEXT
from robopolicy.wrappers.optimise_actions import ActionOptimiser, Optimised
from robopolicy.wrappers.optimise_ascent import AscentSettings
from robopolicy.wrappers.rerank_scorers import CriticScorer

log = logging.getLogger(__name__)

Batch = Mapping[str, Any]


class Candidates:
    """Optimised chunks for the observations of a batch.  ``B`` rows, ``m`` kept, ``n`` drawn, ``k`` steps valued."""

    def __init__(self, proposer: Acting, critic: Critic, config: PARLConfig, seed: int = 0) -> None:
        """Raises as ``CriticScorer.fit`` where the critic is not one of this policy (unless it is not needed)."""
        count, keep, steps = config.candidates
        self.proposer, self.critic, self.config = proposer, critic, config
        self.samples = BaseSamples(proposer, count, seed, config.cache_mb)
        self.scorer = CriticScorer(critic, config.reduce, newest=True)
        if config.needs_critic:
            self.scorer.fit(proposer)
        self.optimiser = ActionOptimiser(
            proposer,
            self.scorer,
            keep=keep,
            ascent=AscentSettings(steps, config.eta, config.eta_mode, config.radius),
            bounds=config.bounds,
            rotations=config.rotations,
            max_jump=config.max_jump,
        )
        self._told = False

    @torch.no_grad()
    def __call__(self, batch: Batch, prefixes: Sequence[str] = ("",), data: Tensor | None = None) -> Optimised:
        """Of the observations under ``prefixes`` ("" and "next."), one after the other; ``data``: see the optimiser."""
        critic, keys = self.critic, self.critic.observation_spec.keys
        chunks = torch.cat([self.samples(windows(batch, self.samples.keys, p)) for p in prefixes])
        seen = {k: np.concatenate([np.asarray(batch[p + k])[:, -critic.n_obs_steps :] for p in prefixes]) for k in keys}
        return self.optimiser(critic.encode(seen, newest=True), chunks, data)

    @torch.no_grad()
    def policy_actions(self, batch: Batch, generator: torch.Generator) -> tuple[dict[str, Tensor], dict[str, float]]:
        """``policy_action`` (where something is regularised) and ``next.policy_action``, ``(B, n, k, D)`` each.

        They are in the critic's model space.  Warns, once, when the regulariser would weigh copies of one action.
        """
        both = self.critic.config.alpha > 0
        prefixes = (NEXT, "") if both else (NEXT,)
        found = self(batch, prefixes)
        index = self._drawn(found.values, generator).to(found.chunks.device)
        at = torch.arange(len(index), device=found.chunks.device)[:, None]
        actions = self.scorer.to_critic(self.proposer, found.chunks[at, index][:, :, self.optimiser.part])
        actions = actions.clamp(-1, 1) if self.scorer.bounded else actions
        given = {p + POLICY_ACTION: part for p, part in zip(prefixes, actions.chunk(len(prefixes)), strict=True)}
        if both and not self._told and all(coinciding(a) for a in given.values()):
            self._told = True
            log.warning(
                "the regulariser's %d policy actions of an observation are one and the same in every row, so it weighs "
                "copies; use target_policy: argmax (one of each), or softmax with a higher temperature",
                actions.shape[1],
            )
        return given, summary(found)

    def _drawn(self, values: Tensor, generator: torch.Generator) -> Tensor:
        """Which of the kept candidates ``(B, m)`` the critic learns from, ``(B, n)`` on the CPU."""
        config, critic = self.config, self.critic.config
        values = values.double().cpu()
        if config.target_policy == "softmax":
            count = critic.cal_ql.samples if critic.alpha > 0 or critic.cal_ql.max_target_backup else 1
            chances = (values / config.temperature).softmax(1)
            return torch.multinomial(chances, count, replacement=True, generator=generator)
        best = values.argmax(1, keepdim=True)
        return best.expand(-1, critic.cal_ql.samples) if config.target_policy == "legacy" else best


def summary(found: Optimised) -> dict[str, float]:
    """What optimisation did, on average over rows and candidates."""
    return {
        "gain": float((found.values - found.start_values).mean()),
        "moved": float(found.moved.mean()),
        "rejected": float(found.rejected.float().mean()),
        "q_spread": float(found.values.std(1, correction=0).mean()),
    }
