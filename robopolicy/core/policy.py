"""The contract every head and every wrapper keeps (torch is imported by type checkers only)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from robopolicy.core.errors import MissingCapability
from robopolicy.core.specs import ActionSpec, ObservationSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Obs = Mapping[str, Tensor]
else:
    Obs = Mapping


class Cap(str, Enum):
    """What a policy can do; wrappers check before they are attached."""

    SAMPLE = "sample"  # always
    DECODE = "decode"  # decode() is a function of (ctx, latent) without a tape
    SCORE = "score"  # predict() is valid at any level of `path`
    MEAN_DENOISER = "mean_denoiser"  # predict() was trained with an L2 loss, so x0 estimates E[x | y]
    ENERGY = "energy"
    ENERGY_T = "energy_t"  # the energy is noise-level conditioned
    TRAIN = "train"  # supervised_loss() is differentiable in the policy's own parameters
    LOGP = "logp"
    GRAD_DECODE = "grad_decode"  # decode() is differentiable in the latent


@dataclass
class Prediction:
    """One denoiser query in canonical coordinates: ``x0``, ``eps`` ``(N, H, D)``; ``kappa = sigma/alpha``."""

    x0: Tensor
    eps: Tensor
    kappa: Tensor


class GenerativePolicy(ABC):
    """An observation encoder plus a generative head.

    Everything here is in model space (normalised); physical units meet it once, at ``act`` of the concrete base
    class.  ``B`` = observations, ``K`` = samples, ``N`` = B*K rows, ``H`` = horizon, ``D`` = action channels.
    """

    action_spec: ActionSpec
    observation_spec: ObservationSpec
    caps: frozenset[Cap]
    latent_shape: tuple[int, ...]
    path: Any  # robopolicy.paths.GaussianPath; Any keeps core free of torch

    @abstractmethod
    def encode(self, obs: Obs) -> Any:
        """Encode physical observations ``(B, n_obs_steps, ...)`` once; returns an opaque context.

        The context supports ``repeat_interleave(K)`` and ``index_select(rows)``.
        """

    def predict(self, ctx: Any, z: Tensor, t: Tensor) -> Prediction:
        """One denoiser query at native state ``z`` ``(N, H, D)`` and native time ``t``; unclipped."""
        raise MissingCapability(f"{type(self).__name__} has no SCORE capability: predict() is not available")

    @abstractmethod
    def decode(self, ctx: Any, latent: Tensor, *, tape: Tensor | None = None) -> Tensor:
        """Map unit-normal ``latent`` ``(N, *latent_shape)`` to chunks ``(N, H, D)``; pure in its arguments."""

    @abstractmethod
    def sample(self, ctx: Any, num_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``(B, K, H, D)`` chunks from one encoding."""

    def supervised_loss(
        self,
        obs: Obs,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
        noise: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Per-sample training loss ``(B,)`` for target chunks ``(B, H, D)``; ``mask`` ``(B, H)`` is 1 where counted."""
        raise MissingCapability(f"{type(self).__name__} has no TRAIN capability: it cannot be trained directly")

    def energy(self, ctx: Any, x: Tensor, t: Tensor | None = None) -> Tensor:
        """Energy ``(N,)`` of chunks ``x``."""
        raise MissingCapability(f"{type(self).__name__} has no ENERGY capability")

    def require(self, *caps: Cap, whom: str) -> None:
        """Raise ``MissingCapability`` unless the policy has all of ``caps``; ``whom`` names the asker."""
        missing = [c.name for c in caps if c not in self.caps]
        if missing:
            raise MissingCapability(
                f"{whom} needs {', '.join(missing)}, which {type(self).__name__} does not have "
                f"(it has: {', '.join(sorted(c.name for c in self.caps))})"
            )
