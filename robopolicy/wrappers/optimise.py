"""PA-RL at test time: draw K chunks, keep the best, climb the critic's value from each, execute the best found.

Source: Sobol Mark et al. 2024, *Policy Agnostic RL: Offline RL and Online RL Fine-Tuning of Any Class and Backbone*
(arXiv 2412.06685) and its released code: K = 32 samples, the 10 best by the mean of the ensemble's newest weights, ten
gradient steps of 3e-4 inside the action box, then the best (or a draw from the softmax of the values).
What differs: the machinery of ``rerank`` (every draw is a function of the row's key; candidates pass through physical
units into the critic's space), chunks instead of single actions (see ``optimise_actions``), other kinds of steps.
When to use: with a critic that is right near the policy's actions.  Local steps find a critic's errors as readily as
better actions: watch ``moved`` and ``gain`` in ``ActionChunk.info``.  With ``steps=0`` this is V-GPS.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from robopolicy.core.critic import ChunkCritic, Reduction
from robopolicy.core.errors import ConfigError, PolicyInterfaceError
from robopolicy.policies.acting import Acting, Keys, row_keys
from robopolicy.wrappers.base import Contexts
from robopolicy.wrappers.optimise_actions import ActionOptimiser, Bounds, Optimised
from robopolicy.wrappers.optimise_ascent import AscentSettings, EtaMode
from robopolicy.wrappers.rerank import ValueGuidedPolicy
from robopolicy.wrappers.rerank_scorers import CriticScorer
from robopolicy.wrappers.selectors import Choice, Told, choose, gumbel_noise, random_gumbel, spread

Selection = Literal["argmax", "softmax"]
SELECTIONS = ("argmax", "softmax")
Noise = Callable[[int], Tensor]


class OptimisedPolicy(ValueGuidedPolicy):
    """See the module.  ``B`` observations, ``K`` candidates, ``H`` horizon, ``D`` action channels.

    ``ActionChunk.info`` tells of every row the value ``q`` of what was taken, ``q_std`` (spread among those kept),
    ``gain`` (value less that of the chunk it was sampled as), ``moved`` (how far, in the critic's space), ``choice``
    (number of the candidate), ``ess`` (of the softmax over those kept) and ``rejected`` (1 where the guard of the seam
    gave back the sampled chunk).
    """

    asks_always = True

    def __init__(
        self,
        policy: Acting,
        critic: ChunkCritic,
        *,
        num_samples: int = 32,
        keep: int = 10,
        steps: int = 10,
        eta: float = 3e-4,
        eta_mode: EtaMode = "raw",
        radius: float = 0.1,
        selection: Selection = "argmax",
        temperature: float = 1.0,
        reduce: Reduction = "mean",
        critic_weights: Literal["newest", "slow"] = "newest",
        bounds: Bounds = "data",
        rotations: bool = False,
        max_jump: float | None = 2.0,
        score_first_step_only: bool = False,
        on_degenerate: Literal["error", "warn"] = "error",
    ) -> None:
        """Wrap ``policy``.

        Args:
            policy: anything that samples, in evaluation mode.
            critic: a ``ChunkCritic`` in evaluation mode, differentiable in the actions.
            num_samples: K candidates a chunk.
            keep: how many of them are optimised.
            steps: gradient steps; 0 only ranks.
            eta, eta_mode, radius: length of a step, see ``optimise_ascent.AscentSettings``.
            selection: take the best, or draw from the softmax of the values at ``temperature`` (in their units).
            reduce: how the critic's members become one value.
            critic_weights: which of the critic's weights answer.
            bounds, rotations, max_jump: see ``optimise_actions.ActionOptimiser``.
            score_first_step_only: let a critic of fewer steps than are executed judge (and move) the first ones.
            on_degenerate: what to do when all candidates of all rows coincide.

        Raises:
            MissingCapability, PolicyInterfaceError: the policy or the critic cannot be used.
            NormalizerMismatch, ActionSpaceMismatch, HorizonMismatch: the critic is of another kind of policy.
            ConfigError: impossible numbers.
        """
        if selection not in SELECTIONS:
            raise ConfigError(f"selection must be argmax or softmax, got '{selection}'")
        if critic_weights not in ("newest", "slow"):
            raise ConfigError(f"critic_weights must be newest or slow, got '{critic_weights}'")
        if keep > num_samples:
            raise ConfigError(f"keep={keep} of num_samples={num_samples} candidates; lower keep")
        if not isinstance(critic, ChunkCritic):
            raise PolicyInterfaceError(
                f"{type(critic).__name__} has no gradient in the actions; pass what robopolicy.load_critic returns"
            )
        scorer = CriticScorer(critic, reduce, score_first_step_only, newest=critic_weights == "newest")
        super().__init__(
            policy,
            scorer,
            num_samples=num_samples,
            temperature=temperature if selection == "softmax" else 0.0,
            reduce=reduce,
            score_first_step_only=score_first_step_only,
            on_degenerate=on_degenerate,
        )
        self.critic = critic  # type: ignore[assignment]
        self.selection, self.critic_weights = selection, critic_weights
        ascent = AscentSettings(steps, eta, eta_mode, radius)
        self.optimiser = ActionOptimiser(
            policy, scorer, keep=keep, ascent=ascent, bounds=bounds, rotations=rotations, max_jump=max_jump
        )
        self.keep, self.steps, self.eta, self.eta_mode, self.radius = keep, steps, eta, eta_mode, radius
        self.bounds, self.rotations, self.max_jump = bounds, rotations, max_jump

    def _no_decoder(self) -> str:
        return (
            "an optimised chunk is not a function of one latent: several are drawn and a critic improves them; put "
            "the other wrapper inside and this one around it"
        )

    # ------------------------------------------------------------------------------------------------- choosing

    def _chunks(self, ctx: Contexts, keys: Keys, names: Sequence[Hashable]) -> tuple[Tensor, Told]:
        candidates, told = self._draw(ctx.parts[0], keys)
        found, choice = self._optimise(ctx, candidates, lambda count: gumbel_noise(keys, count))
        number = choice.take(found.index)
        rows = torch.arange(len(number), device=number.device)
        told = {name: values[rows.to(values.device), number.to(values.device)] for name, values in told.items()}
        return choice.take(found.chunks), {**told, **_told(found, choice)}

    def _optimise(self, ctx: Contexts, candidates: Tensor, noise: Noise) -> tuple[Optimised, Choice]:
        """What became of ``candidates`` ``(B, K, H, D)``, and which is taken; ``noise`` as for ``_rank``."""
        if candidates.shape[1] > 1:
            self._check_spread(candidates)
        found = self.optimiser(ctx.parts[1], candidates)
        return found, self._choose(found, noise)

    def _choose(self, found: Optimised, noise: Noise) -> Choice:
        count = found.values.shape[1]
        gumbel = noise(count) if count > 1 and self.temperature > 0 else None
        return choose(found.values, self.temperature if count > 1 else 0.0, gumbel)

    @torch.no_grad()
    def select(
        self, obs: Mapping[str, Any], ctx: Contexts | None, candidates: Tensor, noise_keys: Keys | None = None
    ) -> tuple[Tensor, Told]:
        """As ``ActionSelector.select``, but the chunk is an optimised candidate.

        Told: ``q`` ``(B, m)`` of those kept, and ``(B,)`` ``index`` (number of the candidate), ``entropy``, ``ess``.
        """
        ctx = self.encode(obs) if ctx is None else ctx
        keys = row_keys(len(candidates), noise_keys)
        found, choice = self._optimise(ctx, candidates, lambda count: gumbel_noise(keys, count))
        told = {"q": found.values, "index": choice.take(found.index), "entropy": choice.entropy, "ess": choice.ess}
        return choice.take(found.chunks), told

    @torch.no_grad()
    def sample(self, ctx: Contexts, num_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """``(B, num_samples, H, D)``: that many chunks, each the choice among candidates of its own."""
        if num_samples < 1:
            raise ConfigError(f"num_samples must be >= 1, got {num_samples}")
        wide = ctx.repeat_interleave(num_samples)
        candidates = self.policy.sample(wide.parts[0], self.num_samples, generator)
        found, choice = self._optimise(wide, candidates, lambda count: random_gumbel(len(candidates), count, generator))
        return choice.take(found.chunks).unflatten(0, (ctx.batch_size, num_samples))


def _told(found: Optimised, choice: Choice) -> Told:
    """What a chunk's ``info`` says, ``(B,)`` each."""
    values = found.values.double().cpu()
    return {
        "q": choice.take(values),
        "q_std": spread(values),
        "gain": choice.take(values - found.start_values.double().cpu()),
        "moved": choice.take(found.moved),
        "rejected": choice.take(found.rejected).float(),
        "choice": choice.take(found.index),
        "ess": choice.ess,
    }
