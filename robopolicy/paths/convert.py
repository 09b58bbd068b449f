"""The one table between what networks output and what samplers read: epsilon, x0, v, score, velocity, energy.

Source: Salimans & Ho 2022 (arXiv 2202.00512), section 4 for v; Lipman et al. 2023 (arXiv 2210.02747) for velocity.
Given the state ``z`` and the path's ``alpha, sigma`` at ``t``, every output is a linear image of every other, so a
head may train in one coordinate and be sampled or composed in another.
Differs: nothing here clips; clipping belongs to the sampler, after any composition.
Shapes: ``z``, ``out``, ``x0``, ``eps`` are ``(N, H, D)``; ``t`` is ``()`` (sampling) or ``(N,)`` (training).
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from robopolicy.core.errors import IncompatibleNoiseLevel
from robopolicy.core.policy import Prediction
from robopolicy.paths.base import Coefficient, GaussianPath, fit, multiplier


class Kind(str, Enum):
    """What a network outputs."""

    EPS = "epsilon"  # the noise e
    X0 = "x0"  # the clean chunk
    V = "v"  # alpha e - sigma x0
    SCORE = "score"  # grad_z log p(z) = -e / sigma
    VELOCITY = "velocity"  # dz/dt = alpha' x0 + sigma' e in the path's native time
    ENERGY = "energy"  # gradient of the energy over its temperature, grad_z E / T = -score


Row = tuple[Coefficient, Coefficient, Coefficient, Coefficient]


def output_row(kind: Kind, path: GaussianPath, a: Coefficient, s: Coefficient) -> Row:
    """``(p, q, r, w)`` with ``x0 = p z + q out`` and ``eps = r z + w out`` at ``alpha = a``, ``sigma = s``."""
    if kind is Kind.X0:
        return 0.0, 1.0, 1 / s, -a / s
    if kind is Kind.V:
        norm = a * a + s * s
        return a / norm, -s / norm, s / norm, a / norm
    if kind is Kind.VELOCITY:
        da, ds = path.rates(a, s)
        det = a * ds - da * s
        return ds / det, -s / det, -da / det, a / det
    if isinstance(a, float) and a == 0.0:
        raise IncompatibleNoiseLevel(
            f"a {kind.value} output says nothing about x0 where alpha = 0; start the grid below pure noise, "
            "or train the head on x0, v or velocity"
        )
    if kind is Kind.EPS:
        return 1 / a, -s / a, 0.0, 1.0
    sign = 1.0 if kind is Kind.ENERGY else -1.0
    return 1 / a, -sign * s * s / a, 0.0, sign * s


def target_row(kind: Kind, path: GaussianPath, a: Coefficient, s: Coefficient) -> tuple[Coefficient, Coefficient]:
    """``(p, q)`` with ``out = p x0 + q eps``: the inverse of ``output_row``."""
    if kind is Kind.EPS:
        return 0.0, 1.0
    if kind is Kind.X0:
        return 1.0, 0.0
    if kind is Kind.V:
        return -s, a
    if kind is Kind.VELOCITY:
        return path.rates(a, s)
    return 0.0, (1 if kind is Kind.ENERGY else -1) / s


def to_x0_eps(kind: Kind, out: Tensor, z: Tensor, path: GaussianPath, t: Tensor) -> tuple[Tensor, Tensor]:
    """Clean and noise estimates ``(x0, eps)`` implied by a network output at state ``z`` and time ``t``.

    Raises ``IncompatibleNoiseLevel`` for outputs that cannot be converted at pure noise (scalar times).
    """
    prediction = canonical(kind, out, z, path, t)
    return prediction.x0, prediction.eps


def target(kind: Kind, x0: Tensor, eps: Tensor, path: GaussianPath, t: Tensor) -> Tensor:
    """What a network of ``kind`` should output for clean ``x0`` and noise ``eps`` at ``t``."""
    p, q = target_row(kind, path, *coefficients(path, t, x0))
    return _mix(x0, p, eps, q)


def canonical(kind: Kind, out: Tensor, z: Tensor, path: GaussianPath, t: Tensor) -> Prediction:
    """One network query as ``Prediction`` (unclipped), whatever the network outputs; errors as ``to_x0_eps``."""
    if _plain(path, t):
        (p, q, r, w), kappa = _plain_row(kind, path, t.item(), z.dtype)
    else:
        p, q, r, w = output_row(kind, path, *coefficients(path, t, z))
        kappa = path.kappa(t)
    return Prediction(_mix(z, p, out, q), _mix(z, r, out, w), kappa)


def to_edm_coords(z: Tensor, path: GaussianPath, t: Tensor) -> Tensor:
    """Shared coordinate ``y = z / alpha(t)`` of a native state."""
    return z / coefficients(path, t, z)[0]


def to_model_coords(y: Tensor, path: GaussianPath, t: Tensor) -> Tensor:
    """Native state ``alpha(t) y`` of a shared coordinate; inverse of ``to_edm_coords``."""
    return y * coefficients(path, t, y)[0]


def carry_state(
    z: Tensor, leader: GaussianPath, t_leader: Tensor, follower: GaussianPath, t_follower: Tensor
) -> Tensor:
    """The leader's state in the follower's native space at matched ``kappa``.

    Multiplies by the ratio of sigmas, which stays finite at pure noise where the ratio of alphas does not.
    """
    return z * (coefficients(follower, t_follower, z)[1] / coefficients(leader, t_leader, z)[1])


def coefficients(path: GaussianPath, t: Tensor, like: Tensor) -> tuple[Coefficient, Coefficient]:
    """``(alpha, sigma)`` ready to multiply ``like``: plain floats for a CPU scalar time, else tensors."""
    if _plain(path, t):
        return _plain_level(path, t.item())
    return fit(path.alpha(t), t, like), fit(path.sigma(t), t, like)


def _plain(path: GaussianPath, t: Tensor) -> bool:
    """Whether the coefficients at ``t`` can be plain floats without waiting for an accelerator."""
    return t.ndim == 0 and t.is_cpu and not path.per_channel


def _plain_level(path: GaussianPath, t: float) -> tuple[float, float]:
    alpha, sigma = path.levels([t])
    return float(alpha[0]), float(sigma[0])


# Sampling asks for the same few times again and again; paths are immutable, so the answers are remembered.
@lru_cache(maxsize=8192)
def _plain_row(kind: Kind, path: GaussianPath, t: float, dtype: torch.dtype) -> tuple[Row, Tensor]:
    """``output_row`` and ``kappa``; what multiplies the state is in its fast form."""
    alpha, sigma = _plain_level(path, t)
    p, q, r, w = output_row(kind, path, alpha, sigma)
    with np.errstate(divide="ignore"), torch.inference_mode(False):
        kappa = torch.tensor(np.float64(sigma) / alpha, dtype=torch.float32)
        p, r = (c if c == 0.0 else multiplier(float(c), dtype) for c in (p, r))
    return (p, q, r, w), kappa


def _mix(x: Tensor, p: Coefficient, y: Tensor, q: Coefficient) -> Tensor:
    """``p x + q y`` without touching absent terms."""
    if isinstance(p, float) and p == 0.0:
        return y if isinstance(q, float) and q == 1.0 else y * q
    if isinstance(q, float):
        return x * p if q == 0.0 else torch.add(x * p, y, alpha=q)
    return torch.addcmul(x * p, y, q)
