"""From the numbers an actor chooses to the latent a policy decodes.

Source: the project's notes on DSRL (arXiv 2506.15799), section 6.  The pi0 release repeats one step's numbers over the
chunk; users report policies that never succeed under such noise, though they do under independent noise.  Hence:

    full       L = H * D   the latent itself
    basis      L = r * D   w[h] = sum_j B[h, j] c[j]: r smooth curves, rows of B of length 1: every w stays N(0, 1)
    repeat     L = D       w[h] = c
    additive   L = D       w[h] = tape[h] + c: the tape is N(0, 1), drawn once an episode

With ``c ~ N(0, 1)`` the first is the base policy itself, and so is ``basis`` of full rank; ``additive`` at ``c = 0``.
``basis`` and ``repeat`` keep every number's law but tie the steps to one another: ``steer_probe`` tells whether the
policy bears it.  Nothing here knows networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from robopolicy.core.errors import ConfigError
from robopolicy.core.seeding import generator
from robopolicy.wrappers.steer_config import MOST, LatentMapConfig

EPISODE = 2  # the first numbers of a noise key that name the episode (run's seed, episode)


class LatentMap(nn.Module):
    """``dim`` numbers ``(N, L)`` to latents ``(N, *latent_shape)``."""

    basis: Tensor | None

    def __init__(self, config: LatentMapConfig, latent_shape: Sequence[int]) -> None:
        """Raises ``ConfigError`` for latents without a time axis where the map needs one, and impossible ranks."""
        super().__init__()
        self.config, self.latent_shape = config, tuple(int(n) for n in latent_shape)
        numbers = math.prod(self.latent_shape)
        self.kind = config.kind if config.kind != "auto" else ("full" if numbers <= MOST else "basis")
        if self.kind != "full" and len(self.latent_shape) != 2:
            raise ConfigError(
                f"latent_map {self.kind} needs latents (steps, channels), got {self.latent_shape}; use full"
            )
        if config.rank is not None and self.kind != "basis":
            raise ConfigError(f"latent_map rank={config.rank} has no effect with kind {self.kind}; use kind: basis")
        width = self.latent_shape[-1]
        self.rank = self._rank() if self.kind == "basis" else 1
        self.dim = {"full": numbers, "basis": self.rank * width}.get(self.kind, width)
        curves = curve_basis(self.latent_shape[0], self.rank, config.curves) if self.kind == "basis" else None
        self.register_buffer("basis", curves, persistent=False)

    def _rank(self) -> int:
        steps, width = self.latent_shape
        rank = self.config.rank or max(1, min(steps, MOST // width))
        if rank > steps:
            raise ConfigError(f"latent_map rank={rank}: a latent of {steps} steps has at most {steps} curves; lower it")
        return rank

    @property
    def taped(self) -> bool:
        """Whether a latent also needs a draw that the episode keeps."""
        return self.kind == "additive"

    def forward(self, numbers: Tensor, tape: Tensor | None = None) -> Tensor:
        """Latents of ``numbers`` ``(N, L)``; ``tape`` ``(N, *latent_shape)`` where ``taped``."""
        if self.kind == "full":
            return numbers.reshape(-1, *self.latent_shape)
        if self.basis is not None:
            return self.basis.to(numbers.dtype) @ numbers.unflatten(1, (self.rank, -1))
        repeated = numbers[:, None].expand(-1, *self.latent_shape)
        if not self.taped:
            return repeated
        if tape is None:
            raise ConfigError("latent_map additive needs the episode's tape; make one with tape_of or draw_tape")
        return tape + repeated

    def tape_of(self, keys: Sequence[Sequence[int]]) -> Tensor | None:
        """Tapes ``(N, *latent_shape)`` of the episodes that ``keys`` name with their first two numbers; or None."""
        if not self.taped:
            return None
        drawn = [
            generator("noise", *key[:EPISODE]).standard_normal(self.latent_shape, np.float32)  # one an episode
            for key in keys
        ]
        return torch.from_numpy(np.stack(drawn))

    def draw_tape(self, rows: int, source: torch.Generator | None = None) -> Tensor | None:
        """New tapes ``(rows, *latent_shape)``, or None."""
        return torch.randn((rows, *self.latent_shape), generator=source) if self.taped else None

    def prior(self, eps: Tensor) -> Tensor:
        """The numbers under which the base policy acts as it does alone, for unit-normal ``eps`` ``(N, L)``."""
        return torch.zeros_like(eps) if self.taped else eps


def curve_basis(steps: int, rank: int, curves: str = "dct") -> Tensor:
    """``B`` ``(steps, rank)`` with rows of length 1: the first ``rank`` cosines, or hats on equally spaced knots."""
    time = torch.arange(steps, dtype=torch.float64)
    if curves == "dct":
        order = torch.arange(rank, dtype=torch.float64)
        basis = torch.cos(math.pi / steps * (time[:, None] + 0.5) * order)
        basis[:, 0] /= math.sqrt(2.0)  # orthonormal at full rank, up to a common factor
    elif rank == 1:
        basis = torch.ones(steps, 1, dtype=torch.float64)
    else:
        place = time[:, None] * (rank - 1) / max(steps - 1, 1)
        basis = (1 - (place - torch.arange(rank, dtype=torch.float64)).abs()).clamp(min=0)
    return (basis / basis.norm(dim=1, keepdim=True)).float()
