"""Several denoisers speaking as one at the leader's levels: the denoiser that a composition hands to any sampler.

Every voice's answer is first put into the leader's terms (``align``), then clean and noise estimates are averaged with
the same weights.  Where levels are equal this is the weighted sum of scores, of noise estimates or of velocities alike,
for weights that sum to one are the same in all of them; and no digits are lost at pure noise, where one would have to
divide by ``alpha``.  Nothing is clipped here: the sampler clips the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from robopolicy.core.errors import IncompatibleNoiseLevel
from robopolicy.core.policy import Prediction
from robopolicy.samplers.base import Denoiser
from robopolicy.wrappers.align import Level, Match, Plan
from robopolicy.wrappers.lanes import side_by_side, worth_it


@dataclass
class Chorus:
    """``chorus(z, t) -> Prediction`` for the leader's states ``(N, H, D)`` and scalar CPU times.

    ``lengths``: how many steps of the chunk each voice speaks about; steps that several cover share the weight anew,
    steps of one voice are its own.  ``shifts``: what turns the leader's clean state into the voice's, ``(D,)``.
    ``notes``: where to put the voices' noise estimates of each query, for ``apart``.
    """

    plan: Plan
    denoisers: Sequence[Denoiser]
    weights: Sequence[float]
    shifts: Sequence[Tensor | None]
    lengths: Sequence[int]
    counted: float = 1.0
    """Share of the channels that are not padding."""
    notes: list[list[Tensor]] | None = None
    at_once: bool = True
    """Ask the voices side by side where there are threads for it."""
    _shares: list[Tensor] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._unit = abs(sum(self.weights) - 1) < 1e-6

    def __call__(self, z: Tensor, t: Tensor) -> Prediction:
        said = self.voices(z, t)
        if len(said) == 1 and self.weights[0] == 1.0:
            return said[0]
        x0, eps = self.mixed([p.x0 for p in said], z), self.mixed([p.eps for p in said], z)
        if not self._unit:
            alpha = self.plan.at(t).alpha
            if not alpha > 0:
                raise IncompatibleNoiseLevel(
                    "weights that do not sum to one have no clean estimate at pure noise; lead with a policy that "
                    "begins below it (diffusion, beso)"
                )
            x0 = torch.add(x0, z, alpha=(1 - sum(self.weights)) / float(alpha))
        return Prediction(x0, eps, said[0].kappa)

    def voices(self, z: Tensor, t: Tensor) -> list[Prediction]:
        """What each voice says about the leader's state ``z`` ``(N, H, D)``, on the steps that it covers."""
        level = self.plan.at(t)
        questions = [partial(self._say, i, z, t, level, match) for i, match in enumerate(level.matches)]
        at_once = self.at_once and worth_it(len(questions), z)
        said = side_by_side(questions) if at_once else [ask() for ask in questions]
        if self.notes is not None and len(said) > 1:
            self.notes.append([p.eps for p in said])
        return said

    def _say(self, i: int, z: Tensor, t: Tensor, level: Level, match: Match) -> Prediction:
        z = z[:, : self.lengths[i]]
        shift = self.shifts[i]
        own = z if match.scale == 1.0 else z * match.scale
        if shift is not None:
            own = own + shift * (match.alpha.to(shift) if isinstance(match.alpha, Tensor) else match.alpha)
        said = self.denoisers[i](own, match.t)
        if shift is None and match.exact:
            return Prediction(said.x0, said.eps, level.kappa)
        x0 = said.x0 if shift is None else said.x0 - shift
        if match.exact:
            return Prediction(x0, said.eps, level.kappa)
        return Prediction(x0, torch.sub(z, x0, alpha=float(level.alpha)) / float(level.sigma), level.kappa)

    def mixed(self, parts: Sequence[Tensor], z: Tensor) -> Tensor:
        """Weighted sum ``(N, H, D)`` of the voices' parts."""
        if len(set(self.lengths)) == 1:
            if not self._unit:
                return torch.stack([p * w for p, w in zip(parts, self.weights, strict=True)]).sum(0)
            total = parts[0]  # plus differences from it: equal parts leave it as it is, to the last bit
            for part, weight in zip(parts[1:], self.weights[1:], strict=True):
                total = torch.add(total, part - parts[0], alpha=weight)
            return total
        total = torch.zeros_like(z)
        for part, share in zip(parts, self._steps(z), strict=True):
            total[:, : part.shape[1]].addcmul_(part, share)
        return total

    def _steps(self, z: Tensor) -> list[Tensor]:
        """Each voice's weight on each step that it covers, ``(H_i, 1)``."""
        if self._shares is None:
            covered = torch.zeros(z.shape[1], 1, dtype=z.dtype, device=z.device)
            for length, weight in zip(self.lengths, self.weights, strict=True):
                covered[:length] += weight
            self._shares = [w / covered[:n] for n, w in zip(self.lengths, self.weights, strict=True)]
        return self._shares

    def apart(self, noted: Sequence[Sequence[Tensor]]) -> Tensor:
        """How far the voices' noise estimates are apart at each query, ``(queries, N)``.

        Root mean square over pairs of voices, steps that both cover, and channels.
        """
        said = [torch.stack(one) for one in zip(*noted, strict=True)]
        total, pairs = said[0].new_zeros(()), 0
        for i, one in enumerate(said):
            for other in said[i + 1 :]:
                n = min(one.shape[2], other.shape[2])
                total = total + (one[:, :, :n] - other[:, :, :n]).square().mean((2, 3))
                pairs += 1
        return (total / (pairs * self.counted)).sqrt()

    @property
    def logit(self) -> Tensor | None:
        """Weighted mean of what heads with a gripper of their own said last of it, ``(N, L)``."""
        logits = [getattr(d, "logit", None) for d in self.denoisers]
        known = [(w, v) for w, v in zip(self.weights, logits, strict=True) if v is not None]
        return sum((w * v for w, v in known[1:]), start=known[0][0] * known[0][1]) if known else None
