"""Policies and critics with closed forms, for tests of reranking: what is chosen is known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from robopolicy.core.critic import ChunkCritic, Reduction
from robopolicy.core.policy import Cap
from robopolicy.core.specs import STATE, ActionSpace, ActionSpec, FeatureKind, FeatureSpec, ObservationSpec
from robopolicy.encoders.features import Features
from robopolicy.paths.none import NoPath
from robopolicy.policies.acting import Acting
from robopolicy.policies.normalizer import Affine
from robopolicy.policies.validation import ObservationChecker
from robopolicy.testing.tiny import unit_stats

Value = Callable[[Tensor], Tensor]


class GaussianPolicy(Acting):
    """Chunks ``mean + std * latent`` in model space, whatever is observed; physical actions are ``scale`` times that.

    Index 0 of every chunk is before the first executed step (``n_obs_steps`` = 2).
    """

    def __init__(
        self,
        dim: int = 1,
        horizon: int = 4,
        n_action_steps: int = 2,
        mean: float = 0.0,
        std: float = 1.0,
        scale: float = 1.0,
        space: ActionSpace | None = None,
        observation_spec: ObservationSpec | None = None,
        fps: float = 10.0,
    ) -> None:
        super().__init__()
        self.action_spec = ActionSpec(space or ActionSpace(dim), horizon, 2, n_action_steps, 1.0 / fps)
        default = ObservationSpec((FeatureSpec(STATE, (2,), FeatureKind.STATE),))
        self.observation_spec = observation_spec or default
        self.checker = ObservationChecker(self.observation_spec, 2)
        self.fps, self.latent_shape, self.path = fps, (horizon, self.action_spec.dim), NoPath()
        self.caps = frozenset({Cap.SAMPLE, Cap.DECODE})
        self.affine = Affine(unit_stats(self.action_spec.dim, scale), "limits")
        self.mean, self.std = mean, std
        self.encoded = 0
        self._bound(self.action_spec.space)
        self.eval()

    @property
    def norm(self) -> Affine:
        return self.affine

    def _encode(self, checked: Mapping[str, Any], *, memory: Any = None) -> Features:
        self.encoded += 1
        return Features(vector=next(iter(checked.values())).float().flatten(1))

    def decode(self, ctx: Features, latent: Tensor, *, tape: Tensor | None = None) -> Tensor:
        """``mean + std * latent``."""
        return self.mean + self.std * latent


class FunctionCritic(ChunkCritic):
    """Members that are functions of the actions ``(B, K, k, D)`` in the critic's space, values ``(B, K)``.

    Counts what it is asked: ``encoded`` and ``asked``.
    """

    def __init__(
        self,
        members: Sequence[Value] | Value,
        policy: Acting,
        k: int | None = None,
        scale: float = 1.0,
        mode: str = "limits",
        observation_spec: ObservationSpec | None = None,
        **changes: Any,
    ) -> None:
        """Fits ``policy``, but for ``changes`` of its attributes; one unit is ``scale`` physical ones."""
        self.members = [members] if callable(members) else list(members)
        self.observation_spec = observation_spec or policy.observation_spec
        self.action_space, self.dt = policy.action_spec.space, policy.action_spec.dt
        self.n_obs_steps = 1
        self.k = policy.action_spec.n_action_steps if k is None else k
        self.gamma, self.bootstrap, self.reward_kind = 0.98, 0.98**self.k, "neg1_0"
        self.norm = Affine(unit_stats(self.action_space.dim, scale), mode)  # type: ignore[arg-type]
        self.encoded = self.asked = 0
        self.seen: list[Tensor] = []  # the actions it was asked about
        for name, value in changes.items():
            setattr(self, name, value)

    def encode(self, obs: Mapping[str, Any], newest: bool = False) -> Features:
        """The newest step of the first key."""
        self.encoded += 1
        first = torch.as_tensor(obs[self.observation_spec.keys[0]]).float()
        if first.shape[1] != self.n_obs_steps:
            raise ValueError(f"the critic was given {first.shape[1]} observation steps instead of {self.n_obs_steps}")
        return Features(vector=first.flatten(1))

    def q(self, ctx: Features, actions: Tensor, target: bool = True) -> Tensor:
        """The members' values ``(E, B, K)``."""
        if actions.shape[0] != ctx.batch_size or actions.shape[2:] != (self.k, self.action_space.dim):
            raise ValueError(f"the critic was given actions {tuple(actions.shape)}")
        self.asked += 1
        self.seen.append(actions)
        return torch.stack([member(actions) for member in self.members])

    def grad_a(self, ctx: Features, actions: Tensor, reduce: Reduction = "mean") -> Tensor:
        """By automatic differentiation."""
        with torch.enable_grad():
            free = actions.detach().requires_grad_(True)
            return torch.autograd.grad(self.reduce(self.q(ctx, free), reduce).sum(), free)[0]

    def reduce(self, values: Tensor, how: Reduction = "min") -> Tensor:
        """The least member, the mean, or the mean less one deviation."""
        if how == "min":
            return values.amin(0)
        mean = values.mean(0)
        return mean if how == "mean" else mean - values.std(0, correction=0)
