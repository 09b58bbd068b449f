"""Better chunks from sampled ones: keep the best by a critic, climb its value in the executed part, guard the seam.

Source: Sobol Mark et al. 2024, *Policy Agnostic RL* (PA-RL, arXiv 2412.06685): global optimisation (the ``m`` best of
``K``), local optimisation (projected gradient ascent, best point met), the data action in the place of the worst.
Differs: for heads that plan ``H`` steps and execute ``k`` only the executed part is moved, and the rest is the
candidate's own; a chunk whose seam was torn is given back as it was sampled.  Steps are taken in the critic's model
space, where the box is [-1, 1] and one learning rate serves every policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from robopolicy.core.errors import ActionSpaceMismatch, ConfigError
from robopolicy.core.specs import ChannelKind
from robopolicy.policies.acting import Acting
from robopolicy.policies.poses import matrix_of_6d, matrix_to_6d
from robopolicy.wrappers.optimise_ascent import AscentSettings, Limits, ascend
from robopolicy.wrappers.rerank_scorers import CriticScorer

Bounds = Literal["data", "space", "none"]
BOUNDS = ("data", "space", "none")
DATA = -1  # number of a "candidate" that nobody sampled


@dataclass(frozen=True)
class Optimised:
    """``m`` chunks a row, best first by the value they were sampled with.

    ``chunks`` ``(B, m, H, D)`` in the policy's model space; ``(B, m)`` each: ``values`` now and ``start_values``
    before; ``index``, number of the candidate (``DATA`` for the data's); ``moved``, Euclidean length of the change in
    the critic's space; ``rejected``, whether the guard undid it.
    """

    chunks: Tensor
    values: Tensor
    start_values: Tensor
    index: Tensor
    moved: Tensor
    rejected: Tensor


class ActionOptimiser:
    """Optimises chunks of one policy by one critic.

    ``B`` observations, ``K`` candidates, ``m`` kept, ``H`` horizon, ``k`` steps valued, ``D`` action channels.
    """

    def __init__(
        self,
        policy: Acting,
        scorer: CriticScorer,
        *,
        keep: int = 10,
        ascent: AscentSettings | None = None,
        bounds: Bounds = "data",
        rotations: bool = False,
        max_jump: float | None = 2.0,
    ) -> None:
        """``bounds``: of moved actions: the range of the critic's data (and of the space), of the action space, none.

        ``rotations`` lets gradients turn ROT6D channels too, made orthonormal after every step.  ``max_jump``: a chunk
        whose jump from its last moved step to the next exceeds so many times its own greatest step is not changed.
        """
        if keep < 1:
            raise ConfigError(f"keep must be >= 1, got {keep}")
        if bounds not in BOUNDS:
            raise ConfigError(f"bounds must be one of {', '.join(BOUNDS)}, got '{bounds}'")
        if max_jump is not None and not max_jump > 0:
            raise ConfigError(f"max_jump must be > 0, or null for no guard, got {max_jump}")
        self.policy, self.scorer, self.keep = policy, scorer, keep
        self.ascent, self.max_jump = ascent or AscentSettings(), max_jump
        self.part = scorer.judged(policy)
        self.directions = _directions(policy, scorer, rotations)
        self._groups = _rotation_groups(policy) if rotations else []
        self._box = _box(policy, scorer, bounds)

    def __call__(self, own: Any, candidates: Tensor, data: Tensor | None = None) -> Optimised:
        """Optimise ``candidates`` ``(B, K, H, D)`` of the policy's model space.

        ``own``: the critic's encoding of the ``B`` observations.  ``data`` ``(B, k, D)``, model space: an action that
        takes the place of the worst of those kept, with that candidate's other steps.
        """
        chunks, index = self._kept(own, candidates)
        if data is not None:
            chunks, index = chunks.clone(), index.clone()
            chunks[:, -1, self.part], index[:, -1] = data, DATA
        start = self.scorer.to_critic(self.policy, chunks[:, :, self.part])
        limits = Limits(*self._box, self.directions, self._orthonormal if self._groups else None)
        found = ascend(lambda actions: self.scorer.judge(own, actions), start, self.ascent, limits)
        better, torn = self._put_back(chunks, start, found.actions)
        values = torch.where(torn, found.start_values, found.values)
        moved = (found.actions - start).flatten(2).norm(dim=-1) * ~torn
        return Optimised(better, values, found.start_values, index, moved, torn)

    def _kept(self, own: Any, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """The best ``m`` of each row and their numbers, best first, the lowest number among equals."""
        rows, count = candidates.shape[:2]
        if count == 1:
            return candidates, torch.zeros(rows, 1, dtype=torch.int64, device=candidates.device)
        values = self.scorer.values(self.policy, None, own, candidates)
        index = values.argsort(dim=1, descending=True, stable=True)[:, : self.keep]
        at = torch.arange(rows, device=candidates.device)[:, None]
        return candidates[at, index.to(candidates.device)], index

    def _put_back(self, chunks: Tensor, start: Tensor, best: Tensor) -> tuple[Tensor, Tensor]:
        """Chunks with the moved numbers in them, and ``(B, m)`` bool of those that the guard left alone."""
        mapped = self.scorer.from_critic(self.policy, best)
        better = chunks.clone()
        better[:, :, self.part] = torch.where(best != start, mapped, chunks[:, :, self.part])
        if self.max_jump is None or self.part.stop >= chunks.shape[2]:
            return better, torch.zeros(chunks.shape[:2], dtype=torch.bool, device=chunks.device)
        real = self.directions.amax(0)
        steps = ((chunks[:, :, 1:] - chunks[:, :, :-1]) * real).norm(dim=-1)
        greatest = steps[:, :, self.part.start :].amax(-1)
        seam = ((better[:, :, self.part.stop] - better[:, :, self.part.stop - 1]) * real).norm(dim=-1)
        torn = seam > self.max_jump * greatest
        return torch.where(torn[:, :, None, None], chunks, better), torn

    def _orthonormal(self, actions: Tensor) -> Tensor:
        """Actions ``(..., D)`` of the critic's space with the six numbers of every rotation orthonormal."""
        norm = self.scorer.critic.norm
        physical = norm.to_phys(actions).clone()
        for group in self._groups:
            physical[..., group] = matrix_to_6d(matrix_of_6d(physical[..., group]))
        turned = norm.to_model(physical)
        free = self.directions.bool()
        six = torch.zeros_like(free)
        for group in self._groups:
            six[..., group] = free[..., group].all(-1, keepdim=True)
        return torch.where(six, turned, actions)


def _directions(policy: Acting, scorer: CriticScorer, rotations: bool) -> Tensor:
    """``(k, D)``: 1 for numbers that gradients may move."""
    moving = {ChannelKind.EUCLIDEAN, *([ChannelKind.ROT6D] if rotations else [])}
    kinds = policy.action_spec.space.channel_kinds
    free = torch.tensor([float(kind in moving) for kind in kinds], device=policy.device)
    for norm in (policy.norm, scorer.critic.norm):
        free = free * getattr(norm, "free", torch.ones_like(free)).to(free)
    return free.expand(scorer.critic.k, -1).clone()


def _rotation_groups(policy: Acting) -> list[slice]:
    """The channels of each rotation; ``ActionSpaceMismatch`` where they do not come in sixes."""
    kinds = policy.action_spec.space.channel_kinds
    at = [i for i, kind in enumerate(kinds) if kind is ChannelKind.ROT6D]
    groups = [at[i : i + 6] for i in range(0, len(at), 6)]
    if any(len(g) != 6 or g[5] - g[0] != 5 for g in groups):
        raise ActionSpaceMismatch(
            f"rotations=True: ROT6D channels must come in six neighbours each, they are channels {at}; mend the "
            "action's kinds, or leave rotations as they are"
        )
    return [slice(g[0], g[-1] + 1) for g in groups]


def _box(policy: Acting, scorer: CriticScorer, bounds: Bounds) -> tuple[Tensor, Tensor]:
    """Least and greatest actions ``(D,)`` in the critic's model space."""
    low = torch.full((policy.action_spec.dim,), -torch.inf, device=policy.device)
    high, space, norm = -low, policy.action_spec.space, scorer.critic.norm
    if bounds == "none":
        return low, high
    free = getattr(norm, "free", torch.ones_like(low)).bool()
    for values, limit, tighter in ((space.low, low, torch.maximum), (space.high, high, torch.minimum)):
        if values is not None:
            mapped = norm.to_model(torch.tensor(values, dtype=torch.float32, device=policy.device))
            limit.copy_(torch.where(free, tighter(limit, mapped), limit))
    if bounds == "data" and scorer.bounded:
        return low.clamp(min=-1), high.clamp(max=1)
    return low, high
