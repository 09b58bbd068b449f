"""The contract between critics and whatever asks them: rerankers, trainers (torch is for type checkers only)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal

from robopolicy.core.policy import Obs
from robopolicy.core.specs import ActionSpace, ChannelKind, ObservationSpec

if TYPE_CHECKING:
    from torch import Tensor

RewardKind = Literal["neg1_0", "zero_1", "dense"]
Reduction = Literal["min", "mean", "lcb"]


class ChunkCritic(ABC):
    """Values of the next ``k`` actions.  ``B`` observations, ``K`` candidates, ``E`` members, ``D`` action channels.

    Actions are in the critic's *own* model space (``norm``): map them with ``policy.norm.to_phys`` first.  ``k`` is 1
    for critics of single actions; such a critic says nothing about the rest of a chunk and must not be summed over it.
    ``gamma`` discounts one environment step; ``bootstrap`` is the factor between a decision and the next (``gamma**k``
    for chunks).  ``dt`` is seconds between actions.  Everything here is saved with the critic and checked by its users.
    """

    observation_spec: ObservationSpec
    action_space: ActionSpace
    n_obs_steps: int
    k: int
    dt: float
    gamma: float
    bootstrap: float
    reward_kind: RewardKind
    norm: Any  # Affine of its own: to_model, to_phys

    @property
    def kinds(self) -> tuple[ChannelKind, ...]:
        """What the action channels are."""
        return self.action_space.channel_kinds

    @abstractmethod
    def encode(self, obs: Obs, newest: bool = False) -> Any:
        """Encode physical observations ``(B, n_obs_steps, ...)`` once; the result selects rows like a policy's.

        ``newest``: ``q(target=False)`` is going to be asked too.
        """

    @abstractmethod
    def q(self, ctx: Any, actions: Tensor, target: bool = True) -> Tensor:
        """Values ``(E, B, K)`` of ``actions`` ``(B, K, k, D)``; ``target`` asks the slowly moving weights."""

    def v(self, ctx: Any) -> Tensor:
        """Value of the observation ``(B,)``, where the critic has one (IQL)."""
        raise NotImplementedError(f"{type(self).__name__} has no state value")

    @abstractmethod
    def grad_a(self, ctx: Any, actions: Tensor, reduce: Reduction = "mean") -> Tensor:
        """Gradient of the reduced value in the actions ``(B, K, k, D)``; 0 on BINARY and PADDING channels."""

    @abstractmethod
    def reduce(self, values: Tensor, how: Reduction = "min") -> Tensor:
        """``(E, B, K)`` to ``(B, K)``: the least member, the mean, or the mean less one deviation."""
