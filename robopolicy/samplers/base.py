"""What all samplers share: the call signature, input checks, cached per-grid coefficients, the one-query loop.

A denoiser is any callable ``denoise(z, t) -> Prediction`` with ``z`` ``(N, H, D)`` in native coordinates and ``t`` a
0-dim **CPU** tensor (native time: int64 for discrete paths), so reading it never waits for an accelerator.
Predictions are unclipped; the sampler clips ``x0``.

Every step is a linear map with coefficients that depend on the path and the grid only.  They are worked out once in
float64, kept as scalars (``(D,)`` tensors for per-channel paths) and found again by (sampler, path, times).
All formulas are written in native coordinates, where pure noise (``alpha = 0``) and the clean end are not singular.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from robopolicy.core.errors import ConfigError
from robopolicy.core.policy import Prediction
from robopolicy.paths.base import Coefficient, GaussianPath, multiplier

Denoiser = Callable[[Tensor, Tensor], Prediction]


@dataclass(frozen=True)
class Levels:
    """Grid levels in float64 including the clean one: ``alpha``, ``sigma``, ``kappa`` ``(n+1,)`` or ``(n+1, D)``."""

    alpha: np.ndarray
    sigma: np.ndarray
    kappa: np.ndarray

    @property
    def steps(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """``(alpha, sigma, next alpha, next sigma)`` of each of the n steps."""
        return self.alpha[:-1], self.sigma[:-1], self.alpha[1:], self.sigma[1:]


@dataclass(frozen=True)
class Plan:
    """Times of the grid as scalars, and one tuple of coefficients a step (``None`` = the term is absent).

    The first coefficient of a row multiplies and is never absent; the others scale what is added.
    """

    times: tuple[Tensor, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Sampler(ABC):
    """``sampler(denoise, path, times, z, tape=None) -> z0``.

    ``clip``: bound on the clean estimate (normalised units), or ``None``.  ``times`` come from ``path.grid``;
    ``z`` ``(N, H, D)`` starts at ``path.prior_std * latent``; the result ``(N, H, D)`` is at the clean level.
    ``tape`` ``(N, tape_len, H, D)`` gives the noise of a stochastic sampler; without it noise comes from torch's
    default generator.  Pure in its arguments unless it is stochastic and has no tape.
    """

    clip: float | None = 1.0
    always_stochastic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.clip is not None and not (math.isfinite(self.clip) and self.clip > 0):
            raise ConfigError(f"clip must be a finite number > 0, or None for no clipping; got {self.clip}")

    @property
    def stochastic(self) -> bool:
        """Whether the result depends on a tape (or on fresh noise)."""
        return self.always_stochastic

    def tape_len(self, n_steps: int) -> int:
        """Noise draws ``(H, D)`` per sample: one between consecutive levels, none into the clean one."""
        return n_steps - 1 if self.stochastic else 0

    def queries(self, n_steps: int) -> int:
        """How often a run over ``n_steps`` levels asks the denoiser."""
        return n_steps

    def asked(self, path: GaussianPath, times: Tensor) -> Tensor:
        """The different times (CPU) at which a run over ``times`` asks the denoiser, so that they can be tabulated."""
        return times

    @abstractmethod
    def coefficients(self, levels: Levels) -> Sequence[np.ndarray]:
        """Columns of per-step coefficients, ``(n,)`` or ``(n, D)`` float64 each, in the order the loop reads them.

        The first one is nowhere zero.
        """

    @property
    def keeps_eps(self) -> bool:
        """Whether steps read the network's own noise estimate (as opposed to the one implied by the clipped x0)."""
        return False

    def __call__(
        self, denoise: Denoiser, path: GaussianPath, times: Tensor, z: Tensor, tape: Tensor | None = None
    ) -> Tensor:
        """Map the noisy state ``z`` to a clean chunk; this form asks one query a step and remembers nothing.

        Runs ``z <- c_x clip(x0) + c_w w + c_n noise`` with rows ``(c_x, c_w, c_n)``; ``w`` is ``z`` or the network's
        noise estimate.
        """
        plan = self.plan(path, times, z)
        noises = iter(self.noises(plan, z, tape))
        high, keeps_eps = self.clip, self.keeps_eps
        low = None if high is None else -high
        for t, (c_x, c_w, c_n) in zip(plan.times, plan.rows, strict=True):
            prediction = denoise(z, t)
            x0 = prediction.x0 if high is None else prediction.x0.clamp(low, high)
            z = plus(x0 * c_x, prediction.eps if keeps_eps else z, c_w)
            if c_n is not None:
                z = plus(z, next(noises), c_n)
        return z

    def plan(self, path: GaussianPath, times: Tensor, z: Tensor) -> Plan:
        """Coefficients for this grid, from the cache when the same grid was used before."""
        if times.ndim != 1 or not len(times):
            raise ConfigError(f"times must be a non-empty vector, got shape {tuple(times.shape)}; use path.grid(...)")
        return _cached_plan(self, path, tuple(times.tolist()), times.dtype, z.device, z.dtype)

    def noises(self, plan: Plan, z: Tensor, tape: Tensor | None) -> Iterable[Tensor]:
        """The ``tape_len`` noises ``(N, H, D)`` of a run: from the tape, or drawn as they are asked for."""
        length = self.tape_len(len(plan.rows))
        if tape is None:
            return (torch.randn_like(z) for _ in range(length))
        want = (len(z), length, *z.shape[1:])
        if tuple(tape.shape) != want:
            raise ConfigError(
                f"{type(self).__name__}: expected a tape of shape {want} (N, tape_len(n_steps), H, D), "
                f"got {tuple(tape.shape)}"
            )
        return tape.unbind(1)

    def clipped(self, x0: Tensor) -> Tensor:
        """``x0`` within ``+-clip``."""
        return x0 if self.clip is None else x0.clamp(-self.clip, self.clip)


@lru_cache(maxsize=256)
def _cached_plan(
    sampler: Sampler,
    path: GaussianPath,
    times: tuple[float, ...],
    time_dtype: torch.dtype,
    device: torch.device,
    dtype: torch.dtype,
) -> Plan:
    alpha, sigma = path.levels(times)
    with np.errstate(divide="ignore"):
        kappa = sigma / alpha
    if not (np.isfinite(alpha).all() and np.isfinite(sigma).all() and (sigma > 0).all()):
        raise ConfigError(
            f"times must be finite and noisier than the clean level, which the sampler appends; got {list(times)}"
        )
    if len(times) > 1 and not (kappa[1:] < kappa[:-1]).all():
        raise ConfigError(f"times must go from noisy to clean without repetition, got {list(times)}")
    clean = np.ones_like(alpha[:1])
    levels = Levels(
        np.concatenate([alpha, clean]), np.concatenate([sigma, 0 * clean]), np.concatenate([kappa, 0 * clean])
    )
    columns = sampler.coefficients(levels)
    if not all(np.isfinite(c).all() for c in columns):
        raise ConfigError("a sampling coefficient is not finite on this grid; use fewer, better separated levels")
    with torch.inference_mode(False):  # the plan outlives the caller's mode and may meet autograd later
        rows = tuple(
            tuple(_coefficient(j, c[i], device, dtype) for j, c in enumerate(columns)) for i in range(len(times))
        )
        return Plan(tuple(torch.tensor(t, dtype=time_dtype) for t in times), rows)


def _coefficient(column: int, value: np.ndarray, device: torch.device, dtype: torch.dtype) -> Coefficient | None:
    if column > 0 and not np.any(value):
        return None
    if np.ndim(value) > 0:
        return torch.as_tensor(value, dtype=dtype, device=device)
    return multiplier(float(value), dtype) if column == 0 else float(value)


def plus(z: Tensor, x: Tensor, c: Coefficient | None) -> Tensor:
    """``z + c x``, in place on ``z`` (a temporary of the caller); ``c`` is a float, ``(D,)`` or ``None`` for 0."""
    if c is None:
        return z
    return z.add_(x, alpha=c) if isinstance(c, float) else z.addcmul_(x, c)


def added(z: Tensor, x: Tensor, c: Coefficient | None) -> Tensor:
    """``z + c x`` as a new tensor: for states that a denoiser has seen and may keep."""
    if c is None:
        return z.clone()
    return torch.add(z, x, alpha=c) if isinstance(c, float) else torch.addcmul(z, x, c)
