"""The one table between what networks output and what samplers read: epsilon, x0, v, score, velocity, energy.

Source: Salimans & Ho 2022 (arXiv 2202.00512), section 4 for v; Lipman et al. 2023 (arXiv 2210.02747) for velocity.
All outputs are affine images of one another given the state ``z`` and the path's ``alpha, sigma`` at ``t``, so a
head may train in one coordinate and be sampled or composed in another.
Differs: nothing here clips; clipping belongs to the sampler, after any composition.
Shapes: ``z``, ``out``, ``x0``, ``eps`` are ``(N, H, D)``; ``t`` is ``()`` (sampling) or ``(N,)`` (training).
"""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor

from robopolicy.core.errors import IncompatibleNoiseLevel
from robopolicy.core.policy import Prediction
from robopolicy.paths.base import Coefficient, GaussianPath, fit


class Kind(str, Enum):
    """What a network outputs."""

    EPS = "epsilon"  # the noise e
    X0 = "x0"  # the clean chunk
    V = "v"  # alpha e - sigma x0
    SCORE = "score"  # grad_z log p(z) = -e / sigma
    VELOCITY = "velocity"  # dz/dt = alpha' x0 + sigma' e in the path's native time
    ENERGY = "energy"  # gradient of the energy over its temperature, grad_z E / T = -score


def _on_host(t: Tensor) -> bool:
    return t.ndim == 0 and t.device.type == "cpu"


def coefficients(path: GaussianPath, t: Tensor, like: Tensor) -> tuple[Coefficient, Coefficient]:
    """``(alpha, sigma)`` ready to multiply ``like``: plain floats for a CPU scalar time, else tensors."""
    if _on_host(t):
        level = path.level(t.item())
        if isinstance(level.alpha, float):
            return level.alpha, level.sigma
    return fit(path.alpha(t), t, like), fit(path.sigma(t), t, like)


def _rates(path: GaussianPath, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    da, ds = path.rates(t.double() if _on_host(t) and not path.discrete else t)
    return fit(da, t, like), fit(ds, t, like)


def _refuse_pure_noise(kind: Kind, alpha: Coefficient) -> None:
    if isinstance(alpha, float) and alpha == 0.0:
        raise IncompatibleNoiseLevel(
            f"a {kind.value} output says nothing about x0 where alpha = 0; start the grid below pure noise, "
            "or train the head on x0, v or velocity"
        )


def to_x0_eps(kind: Kind, out: Tensor, z: Tensor, path: GaussianPath, t: Tensor) -> tuple[Tensor, Tensor]:
    """Clean and noise estimates ``(x0, eps)`` implied by a network output at state ``z`` and time ``t``.

    Raises ``IncompatibleNoiseLevel`` for outputs that cannot be converted at pure noise (scalar times).
    """
    a, s = coefficients(path, t, z)
    if kind is Kind.X0:
        return out, (z - out * a) / s
    if kind is Kind.V:
        norm = a * a + s * s
        return (z * a - out * s) / norm, (z * s + out * a) / norm
    if kind is Kind.VELOCITY:
        da, ds = _rates(path, t, z)
        det = a * ds - da * s
        return (z * ds - out * s) / det, (out * a - z * da) / det
    _refuse_pure_noise(kind, a)
    if kind is Kind.EPS:
        eps = out
    else:
        eps = out * (s if kind is Kind.ENERGY else -s)
    if isinstance(s, float):
        return torch.sub(z, eps, alpha=s).div_(a), eps
    return (z - eps * s) / a, eps


def target(kind: Kind, x0: Tensor, eps: Tensor, path: GaussianPath, t: Tensor) -> Tensor:
    """What a network of ``kind`` should output for clean ``x0`` and noise ``eps`` at ``t``; inverse of ``to_x0_eps``."""
    if kind is Kind.EPS:
        return eps
    if kind is Kind.X0:
        return x0
    if kind is Kind.VELOCITY:
        da, ds = _rates(path, t, x0)
        return x0 * da + eps * ds
    a, s = coefficients(path, t, x0)
    if kind is Kind.V:
        return eps * a - x0 * s
    return eps / s if kind is Kind.ENERGY else -eps / s


def canonical(kind: Kind, out: Tensor, z: Tensor, path: GaussianPath, t: Tensor) -> Prediction:
    """One network query as ``Prediction`` (unclipped), whatever the network outputs."""
    x0, eps = to_x0_eps(kind, out, z, path, t)
    return Prediction(x0, eps, path.level(t.item()).kappa if _on_host(t) else path.kappa(t))


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
