"""General Policy Composition: several policies denoise one chunk together, without training.

Source: Cao et al. 2025, *Compose Your Policies!* (arXiv 2510.01068): at every denoising step the scores are averaged
with convex weights.
What differs: parents need nothing in common but the actions.  One leads (its path, grid and sampler are used); the
others are asked at the same noise ratio on their own paths (``align``), so that epsilon, x0, v, EDM and flow heads mix,
each with its own cameras, encoder and number of training steps.  The released code needs equal schedulers, predictions
and chunk lengths.  Clipping comes once, after composing.  The sampler is the leader's own, object and options: what it
does with the noise estimate after clipping is its business (``rederive_eps`` of DDIM), so one policy composed with
itself, or with weight 0 for the others, is that policy.
When to use: two or more moderately good policies for one task whose errors differ.  Little is gained from policies
trained on the same data and inputs, nothing from adding a much weaker one.  Energies compose with energies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from robopolicy.core.errors import PolicyInterfaceError
from robopolicy.core.policy import Cap, Prediction
from robopolicy.policies.acting import Acting
from robopolicy.samplers.base import Denoiser
from robopolicy.wrappers.align import Plan
from robopolicy.wrappers.base import Contexts
from robopolicy.wrappers.chorus import Chorus
from robopolicy.wrappers.compose_checks import is_chunk
from robopolicy.wrappers.compose_energy import blended, score_of_energy
from robopolicy.wrappers.composition import Composition
from robopolicy.wrappers.operators import SUPERPOSED, ExperimentalComposition
from robopolicy.wrappers.superpose import superpose

__all__ = ["ComposedPolicy", "ExperimentalComposition"]


class ComposedPolicy(Composition):
    """See the module.  ``weights`` has an entry for every one of ``parents``; those of weight 0 are not asked.

    ``ActionChunk.info`` tells of every row the ``disagreement`` of the parents (root mean square difference of their
    noise estimates, in units of the noise, mean over the queries of a chunk) and ``disagreement_step_00``...; of
    energies their sum at the chunk, ``energy``.
    """

    # ------------------------------------------------------------------------------------------------------ queries

    def denoiser(self, ctx: Contexts, asked: Plan | None = None) -> Denoiser:
        """All parents as one denoiser, each from its tables at the times of ``asked`` (default: the leader's grid)."""
        plan = asked or self._plan()
        own = [_denoiser(p, ctx.parts[i], a) for i, p, a in zip(self.heard, self.observers, plan.asked, strict=True)]
        return self._chorus(plan, own)

    def _chorus(self, plan: Plan, denoisers: Sequence[Denoiser], notes: list[list[Tensor]] | None = None) -> Chorus:
        lengths = [int(p.latent_shape[0]) for p in self.observers]
        return Chorus(plan, denoisers, self._voice_weights, self._shifts, lengths, self._counted, notes)

    @property
    def _shifts(self) -> list[Tensor | None]:
        return [getattr(self, f"shift_{i}") for i in self.heard]

    def predict(self, ctx: Contexts, z: Tensor, t: Tensor) -> Prediction:
        """The composed answer (unclipped) at the leader's state ``z`` ``(N, H, D)`` and time ``t``, one or one each."""
        self.require(Cap.SCORE, whom="predict()")
        if t.ndim:
            return self._predict_each(ctx, z, t)
        own = [_query(p, ctx.parts[i]) for i, p in zip(self.heard, self.observers, strict=True)]
        return self._chorus(self._plan(), own)(z, t)

    def _predict_each(self, ctx: Contexts, z: Tensor, t: Tensor) -> Prediction:
        x0, eps = torch.empty_like(z), torch.empty_like(z)
        for one in t.unique():
            rows = (t == one).nonzero().squeeze(1)
            said = self.predict(ctx.index_select(rows), z[rows], one)
            x0[rows], eps[rows] = said.x0, said.eps
        return Prediction(x0, eps, self.path.kappa(t))

    # ------------------------------------------------------------------------------------------------------- decoding

    def decode(self, ctx: Contexts, latent: Tensor, *, tape: Tensor | None = None) -> Tensor:
        """Map ``latent`` ``(N, *latent_shape)`` (and the leader's ``tape``) to chunks ``(N, H, D)`` in model space."""
        if self.alone is not None:
            chunks: Tensor = self.alone.decode(ctx.parts[self.leader], latent, tape=tape)
            return chunks
        if self.energetic:
            return self._descend(ctx, latent, tape)[0]
        return self._denoise(self.denoiser(ctx), ctx, latent, tape)

    def _decode_with_info(self, ctx: Contexts, latent: Tensor, tape: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        if self.alone is not None:
            told: tuple[Tensor, dict[str, Tensor]] = self.alone._decode_with_info(ctx.parts[self.leader], latent, tape)
            return told
        if self.energetic:
            return self._descend(ctx, latent, tape)
        chorus = self.denoiser(ctx)
        assert isinstance(chorus, Chorus)
        chorus.notes = []
        chunks = self._denoise(chorus, ctx, latent, tape)
        if not chorus.notes:
            return chunks, {}
        apart = chorus.apart(chorus.notes)
        return chunks, {"disagreement": apart.mean(0)} | {
            f"disagreement_step_{i:02d}": note for i, note in enumerate(apart)
        }

    def _denoise(self, chorus: Denoiser, ctx: Contexts, latent: Tensor, tape: Tensor | None) -> Tensor:
        assert isinstance(chorus, Chorus)
        z, sampler = latent * self.path.prior_std, self.sampler
        if self.operator in SUPERPOSED:
            x = superpose(chorus, self.times, z, self.operator, sampler.clip, tape)
        else:
            x = sampler(chorus, self.path, self.times, z, tape=tape)
        if is_chunk(self):
            return x
        logit = chorus.logit
        return self.actions(ctx, x, None if logit is None else logit.sigmoid())

    def actions(self, ctx: Contexts, pose: Tensor, opening: Tensor | None) -> Tensor:
        """Chunks of what the leader denoises instead of them (poses), as the leader does it."""
        chunks: Tensor = self.lead.actions(ctx.parts[self.leader], pose, opening)
        return chunks

    # -------------------------------------------------------------------------------------------------------- energies

    def energy(self, ctx: Contexts, x: Tensor, t: Tensor | None = None) -> Tensor:
        """Weighted sum ``(N,)`` of the parents' energies of the leader's chunks ``x`` ``(N, H, D)``."""
        self.require(Cap.ENERGY, whom="energy()")
        if t is not None:
            raise PolicyInterfaceError("these energies have no noise levels (no ENERGY_T capability); leave t out")
        return self.energy_of(ctx)(x, torch.arange(len(x), device=x.device))

    def energy_of(self, ctx: Contexts) -> Callable[[Tensor, Tensor], Tensor]:
        """The energy as a function of chunks and the rows of ``ctx`` they belong to."""
        return self._blend(ctx, 1)

    def _blend(self, ctx: Contexts, repeats: int) -> Callable[[Tensor, Tensor], Tensor]:
        own = [ctx.parts[i] for i in self.heard]
        return blended(self.observers, own, self._voice_weights, self._shifts, repeats)

    def descend(self, energy_of: Callable[[int], Any], latent: Tensor, tape: Tensor | None) -> Any:
        """The leader's way down any energy, see ``EbtPolicy.descend``."""
        return self.lead.descend(energy_of, latent, tape)

    def _descend(self, ctx: Contexts, latent: Tensor, tape: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        chunks, energies, _ = self.descend(lambda count: self._blend(ctx, count), latent, tape)
        with torch.no_grad():
            return chunks, {"energy": self.energy(ctx, chunks) if energies is None else energies}


def _denoiser(parent: Acting, ctx: Any, asked: Any) -> Denoiser:
    return parent.denoiser(ctx, asked) if Cap.SCORE in parent.caps else score_of_energy(parent, ctx)


def _query(parent: Acting, ctx: Any) -> Denoiser:
    has_score = Cap.SCORE in parent.caps
    return (lambda z, t: parent.predict(ctx, z, t)) if has_score else score_of_energy(parent, ctx)
