"""V-GPS: draw K chunks from one encoding, let a critic rank them, execute the one that is chosen, whole.

Source: Nakamoto et al. 2024, *Steering Your Generalists: Improving Robotic Foundation Models via Value Guidance* (CoRL
2024, arXiv 2410.13816), section 4 and its released inference.
What differs: everything random is a function of the row's key (candidate 0 is the base policy's own chunk, the others
use ``(*key, j)``, the draw a stream of its own); a critic may value the whole executed part of a chunk instead of its
first action; the temperature may be relative to the spread of the values (``beta_relative``); the rest of the previous
chunk can stand as one more candidate (``hysteresis``), against switching between modes.
When to use: the base policy sometimes does the right thing and a critic can tell when.  It adds nothing a base policy
never does, and with a weak critic many candidates find its errors: log the gap to ``evaluation.oracle_choice``.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from robopolicy.core.critic import ChunkCritic, Reduction
from robopolicy.core.errors import ConfigError, DegenerateCandidates, NonDeterministicDecoder, PolicyInterfaceError
from robopolicy.core.needs import WindowNeeds
from robopolicy.core.policy import Cap
from robopolicy.core.specs import ActionSpec, ObservationSpec
from robopolicy.policies.acting import Acting, Keys, row_keys
from robopolicy.wrappers.base import Around, Contexts
from robopolicy.wrappers.rerank_previous import PreviousChunks
from robopolicy.wrappers.rerank_scorers import Scorer, as_scorer
from robopolicy.wrappers.selectors import (
    ActionSelector,
    Ranking,
    Told,
    check_temperature,
    choose,
    gumbel_noise,
    random_gumbel,
)

log = logging.getLogger(__name__)

SAME = 1e-6  # model space: candidates nearer than this in every number are one
ROWS_AT_ONCE = 256  # candidates decoded together; more would only need more memory


class ValueGuidedPolicy(Around, ActionSelector):
    """See the module.  ``B`` observations, ``K`` candidates, ``H`` horizon, ``D`` action channels.

    ``ActionChunk.info`` tells of every row the value ``q`` of what was taken, ``q_std`` (spread of the candidates'
    values), ``ess`` (effective sample size of the softmax, 1..K) and ``choice`` (number of the candidate; K is the
    previous chunk's rest).  With one candidate and no hysteresis the critic is never asked and there is no ``q``.
    """

    requires = frozenset({Cap.SAMPLE})
    hysteresis: bool = False
    asks_always = False  # whether the critic is needed for a single candidate too

    def __init__(
        self,
        policy: Acting,
        critic: ChunkCritic | Scorer,
        *,
        num_samples: int = 16,
        temperature: float = 0.1,
        relative_temperature: bool = False,
        reduce: Reduction = "min",
        score_first_step_only: bool = False,
        hysteresis: bool = False,
        on_degenerate: Literal["error", "warn"] = "error",
    ) -> None:
        """Wrap ``policy``.

        Args:
            policy: anything that samples, in evaluation mode: a head, a composition, a LeRobot policy.
            critic: a ``ChunkCritic`` in evaluation mode, ``EnergyCritic()`` (the policy's own energy) or
                ``RandomSelector()`` (the control).
            num_samples: K; 1 is the policy itself.
            temperature: of the softmax, in units of the values; 0 takes the best, infinity chooses at random.
            relative_temperature: ``temperature`` in units of the standard deviation of the row's values.
            reduce: how the critic's members become one value.
            score_first_step_only: let a critic of fewer steps than are executed judge the first ones.
            hysteresis: the rest of the previous chunk is one more candidate.
            on_degenerate: what to do when all candidates of all rows coincide, which makes ranking pointless.

        Raises:
            MissingCapability, PolicyInterfaceError: the policy cannot be wrapped.
            NormalizerMismatch, ActionSpaceMismatch, HorizonMismatch: the critic is of another kind of policy.
            ConfigError: impossible numbers.
        """
        if num_samples < 1:
            raise ConfigError(f"num_samples must be >= 1, got {num_samples}")
        if on_degenerate not in ("error", "warn"):
            raise ConfigError(f"on_degenerate must be error or warn, got '{on_degenerate}'")
        scorer = as_scorer(critic, reduce, score_first_step_only)
        asked = (num_samples > 1 or hysteresis or self.asks_always) and not scorer.uniform
        super().__init__([policy], [scorer.observation_spec] if asked else [])
        if getattr(policy, "hysteresis", False):
            raise PolicyInterfaceError("the policy inside ranks with hysteresis; switch it off there and on here")
        self.scorer, self.critic, self._asked = scorer, critic, asked
        scorer.fit(policy)
        self.num_samples, self.temperature = int(num_samples), check_temperature(temperature)
        self.relative_temperature, self.reduction = bool(relative_temperature), reduce
        self.score_first_step_only, self.hysteresis = bool(score_first_step_only), bool(hysteresis)
        self.on_degenerate = on_degenerate
        self.action_spec: ActionSpec = policy.action_spec
        self.fps, self.latent_shape, self.path = policy.fps, policy.latent_shape, policy.path
        self.caps = frozenset({Cap.SAMPLE})
        self.critic_calls = 0  # how often the critic has encoded a batch of observations
        self._previous = PreviousChunks(policy.action_spec) if hysteresis else None
        self._distinct = self._warned = False
        self._bound(policy.action_spec.space)

    @property
    def tape_len(self) -> int:
        """That of the policy, a candidate."""
        return self.policy.tape_len

    @property
    def recurrent(self) -> bool:
        """Whether something is carried from chunk to chunk: the policy's state, or the previous chunk."""
        return self.hysteresis or super().recurrent

    @property
    def needs(self) -> WindowNeeds:
        """Those of the policy; a previous chunk is as old as ``n_action_steps``."""
        needs = super().needs
        if not self.hysteresis or needs.chained:
            return needs
        return dataclasses.replace(needs, chain_stride=self.action_spec.n_action_steps)

    def set_sampler(self, **changes: Any) -> None:
        """As of the policy inside."""
        self.policy.set_sampler(**changes)

    def require(self, *caps: Cap, whom: str) -> None:
        """As ``GenerativePolicy.require``; who needs DECODE is told why there is none."""
        if Cap.DECODE in caps:
            raise NonDeterministicDecoder(f"{whom} needs DECODE, and {self._no_decoder()}")
        super().require(*caps, whom=whom)

    def decode(self, ctx: Any, latent: Tensor, *, tape: Tensor | None = None) -> Tensor:
        """There is none: raises ``NonDeterministicDecoder``."""
        raise NonDeterministicDecoder(self._no_decoder())

    def _no_decoder(self) -> str:
        return (
            "a value-guided chunk is not a function of one latent: K are drawn and a critic chooses; put the other "
            "wrapper inside and this one around it"
        )

    def calibrate(self, observation_spec: ObservationSpec) -> None:
        """As ``Wrapper.calibrate``; raises ``InvalidObservation`` if the place lacks what the critic reads."""
        super().calibrate(observation_spec)
        if self._asked:
            self.scorer.calibrate(observation_spec)

    def reset(self, episodes: Sequence[Hashable] | None = None) -> None:
        """Forget what was carried for ``episodes`` (default: all)."""
        super().reset(episodes)
        if self._previous is not None:
            self._previous.forget(episodes)

    # ------------------------------------------------------------------------------------------------- choosing

    def _encode(self, checked: Mapping[str, Any], *, memory: Any = None) -> Contexts:
        """The policy's encoding and, where it is going to be asked, the critic's: each made once."""
        ctx = super()._encode(checked, memory=memory)
        own = self.scorer.encode(checked) if self._asked else None
        if own is None:
            return ctx
        self.critic_calls += 1
        return ctx.joined(own)

    def _chunks(self, ctx: Contexts, keys: Keys, names: Sequence[Hashable]) -> tuple[Tensor, Told]:
        candidates, told = self._draw(ctx.parts[0], keys)
        allowed = None
        if self._previous is not None:
            candidates, told, allowed = self._previous.join(candidates, told, names)
        ranking = self._rank(ctx, candidates, lambda count: gumbel_noise(keys, count), allowed)
        chosen = ranking.choice.take(candidates)
        told = {name: ranking.choice.take(values) for name, values in told.items()}
        if self._previous is not None:
            self._previous.keep(names, chosen, told)
        return chosen, {**told, **ranking.told()}

    def _draw(self, ctx: Any, keys: Keys) -> tuple[Tensor, Told]:
        """``(B, K, H, D)`` candidates, and what the policy tells of each, ``(B, K)``."""
        count, rows = self.num_samples, len(keys)
        wide = [tuple(key) if j == 0 else (*key, j) for key in keys for j in range(count)]
        ctx = ctx.repeat_interleave(count)
        step = max(ROWS_AT_ONCE, rows)  # a single candidate is decoded as the policy alone would
        parts: list[tuple[Tensor, Told]] = []
        for start in range(0, len(wide), step):
            here = range(start, min(start + step, len(wide)))
            whole = len(here) == len(wide)
            piece = ctx if whole else ctx.index_select(torch.arange(here.start, here.stop, device=self.device))
            parts.append(self.policy._chunks(piece, [wide[i] for i in here], here))
        chunks = torch.cat([chunk for chunk, _ in parts])
        told = {name: torch.cat([t[name] for _, t in parts]).view(rows, count) for name in parts[0][1]}
        return chunks.unflatten(0, (rows, count)), told

    def _rank(
        self, ctx: Contexts, candidates: Tensor, noise: Callable[[int], Tensor], allowed: Tensor | None = None
    ) -> Ranking:
        """Choose among ``candidates`` ``(B, K, H, D)``; ``noise(K)`` is standard Gumbel's, ``(B, K)``."""
        rows, count = candidates.shape[:2]
        values = None
        if self._asked and count > 1:
            self._check_spread(candidates[:, : self.num_samples])
            own = ctx.parts[1] if len(ctx.parts) > 1 else None
            values = self.scorer.values(self.policy, ctx.parts[0], own, candidates)
        temperature = math.inf if self.scorer.uniform else self.temperature
        gumbel = noise(count) if count > 1 and temperature > 0 else None
        choice = choose(
            torch.zeros(rows, count) if values is None else values,
            temperature if count > 1 else 0.0,
            gumbel,
            relative=self.relative_temperature,
            allowed=allowed,
        )
        return Ranking(values, choice, allowed)

    def _check_spread(self, candidates: Tensor) -> None:
        """``DegenerateCandidates`` if no row has two different candidates, and none ever had."""
        if candidates.shape[1] == 1:
            return
        apart = (candidates.amax(1) - candidates.amin(1)).flatten(1).amax(1)
        if bool((apart >= SAME).any()):
            self._distinct = True
            return
        message = (
            f"all {candidates.shape[1]} candidates of {type(self.policy).__name__} coincide (they differ by less than "
            f"{SAME:g}), so ranking them does nothing; use a policy that samples, or num_samples=1"
        )
        if self.on_degenerate == "error" and not self._distinct:
            raise DegenerateCandidates(message)
        if not self._warned:
            self._warned = True
            log.warning("%s", message)

    @torch.no_grad()
    def candidates(self, obs: Mapping[str, Any], noise_keys: Keys | None = None) -> tuple[Contexts, Tensor]:
        """What ``act`` would choose from: the encoding of ``obs`` and ``(B, K, H, D)`` in model space.

        Nothing is carried from call to call; ``select`` takes both.
        """
        ctx = self.encode(obs)
        return ctx, self._draw(ctx.parts[0], row_keys(ctx.batch_size, noise_keys))[0]

    @torch.no_grad()
    def select(
        self,
        obs: Mapping[str, Any],
        ctx: Contexts | None,
        candidates: Tensor,
        noise_keys: Keys | None = None,
    ) -> tuple[Tensor, Told]:
        """See ``ActionSelector.select``; ``ctx`` is what ``encode`` of this policy gave, or None to encode ``obs``.

        ``noise_keys`` as for ``act``.
        """
        ctx = self.encode(obs) if ctx is None else ctx
        keys = row_keys(len(candidates), noise_keys)
        ranking = self._rank(ctx, candidates, lambda count: gumbel_noise(keys, count))
        choice = ranking.choice
        values = torch.zeros(candidates.shape[:2]) if ranking.values is None else ranking.values
        told = {"q": values, "index": choice.index, "entropy": choice.entropy, "ess": choice.ess}
        return choice.take(candidates), told

    @torch.no_grad()
    def sample(self, ctx: Contexts, num_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """``(B, num_samples, H, D)``: that many choices, each among candidates of its own."""
        if num_samples < 1:
            raise ConfigError(f"num_samples must be >= 1, got {num_samples}")
        wide = ctx.repeat_interleave(num_samples)
        candidates = self.policy.sample(wide.parts[0], self.num_samples, generator)
        ranking = self._rank(wide, candidates, lambda count: random_gumbel(len(candidates), count, generator))
        return ranking.choice.take(candidates).unflatten(0, (ctx.batch_size, num_samples))
