"""Real-time chunking, the mathematics: a new chunk is drawn so that it continues the one being executed.

Source: Black et al. 2025, *Real-Time Execution of Action Chunking Flow Policies* (arXiv 2506.07339): inpainting by
guidance.  Steps that will have been executed when inference ends are held to the old chunk, the following ones are
pulled softly, the last are free; nothing is retrained.
What differs: time is the flow's own, ``tau`` = 0 at noise and 1 at data (LeRobot's runs from 1 to 0, so its time is
``1 - tau``), and both forms of the gradient are here: the paper's, through the network, and ``identity``, LeRobot's,
which leaves the network's Jacobian out, costs no backward pass and still attracts.  ``guided_denoiser`` has the same
guidance for every Gaussian path, so for diffusion and EDM heads with any sampler.
When to use: with a head whose inference takes longer than a control step; as a policy, ``execution.policy``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from robopolicy.core.errors import ConfigError, InvalidAction, MissingCapability
from robopolicy.core.policy import Prediction
from robopolicy.paths.base import GaussianPath
from robopolicy.samplers.base import Denoiser
from robopolicy.wrappers.execution.guide import Schedule, falling_weights

CAP = 10.0
"""Largest factor of the pull in LeRobot's settings; the paper's beta is 5, for 5 steps."""
Jacobian = Literal["true", "identity"]
Velocity = Callable[[Tensor, float], Tensor]
"""``velocity(x, tau)``: chunks ``(N, H, D)`` at one time to ``clean - noise``, the direction towards data."""


def prefix_weights(schedule: Schedule, start: int, end: int, total: int) -> Tensor:
    """``execution.guide.falling_weights`` as a tensor ``(total,)``."""
    return torch.from_numpy(falling_weights(schedule, start, end, total))


def guidance_weight(tau: float, cap: float = CAP) -> float:
    """Factor on the pull at time ``tau`` in [0, 1]: ``((1 - tau)^2 + tau^2) / (tau (1 - tau))``, at most ``cap``.

    Without the cap it grows beyond all bounds at both ends, and an Euler step would leap over its aim.
    """
    if not (0 <= tau <= 1 and cap >= 0):
        raise ConfigError(f"expected tau in [0, 1] and cap >= 0, got {tau} and {cap}")
    spread = tau * (1 - tau)
    return cap if spread == 0 else min(cap, ((1 - tau) ** 2 + tau**2) / spread)


def steady_cap(steps: int) -> float:
    """Cap for a solver of ``steps`` steps: half of their number, at most 10.

    A first-order step of length ``dt = 1 / steps`` moves the state by ``dt * cap * error``: with a cap equal to the
    number of steps by all of the error, with more over its aim, and the next step has to go back.  Half of it leaves
    room for the network's own motion.  From 20 steps on it is LeRobot's 10; the paper's 5 for 5 steps goes all the way.
    """
    if steps < 1:
        raise ConfigError(f"expected a solver of at least one step, got {steps}")
    return min(CAP, steps / 2)


def guided_velocity(
    velocity: Velocity,
    x: Tensor,
    tau: float,
    previous: Tensor,
    weights: Tensor,
    cap: float = CAP,
    jacobian: Jacobian = "true",
) -> Tensor:
    """``velocity(x, tau)`` plus the pull towards the old chunk, ``(N, H, D)``, without gradient.

    ``previous`` ``(N, H', D)`` is what is left of the old chunk, shifted so that its step 0 is the new chunk's; it may
    be shorter than ``x``, and steps beyond it are free whatever ``weights`` ``(H,)`` say.  With the clean estimate
    ``a = x + (1 - tau) v`` and ``error = weights * (previous - a)``, the pull is ``(da/dx)^T error`` (``true``) or
    ``error`` (``identity``), times ``guidance_weight``.  Works under ``no_grad``, and under ``inference_mode`` if
    what ``velocity`` holds was made outside it; parameters get no gradient.
    Raises ``InvalidAction`` if the chunks do not fit.
    """
    weights = _reach(x, previous, weights)
    if jacobian not in ("true", "identity"):
        raise ConfigError(f"jacobian must be true (the paper's) or identity, got {jacobian!r}")
    previous = F.pad(previous.to(x), (0, 0, 0, x.shape[1] - previous.shape[1]))

    def error(estimate: Tensor) -> Tensor:
        with torch.no_grad():
            return (previous - estimate) * weights[:, None]

    if jacobian == "identity":
        with torch.no_grad():
            v = velocity(x, tau)
            pull = error(x + (1 - tau) * v)
    else:
        with torch.inference_mode(False), torch.enable_grad():
            at = x.detach().clone().requires_grad_()
            v = velocity(at, tau)
            estimate = at + (1 - tau) * v
            (pull,) = torch.autograd.grad(estimate, at, error(estimate))
    return v.detach() + guidance_weight(tau, cap) * pull


def _reach(x: Tensor, previous: Tensor, weights: Tensor) -> Tensor:
    """``weights`` in ``x``'s terms, 0 beyond the old chunk."""
    fits = previous.ndim == x.ndim == 3 and previous.shape[::2] == x.shape[::2] and previous.shape[1] <= x.shape[1]
    if not fits:
        raise InvalidAction(
            f"previous: expected (N, up to H, D) for chunks {tuple(x.shape)}, got {tuple(previous.shape)}; "
            "cut off what was executed before the new chunk begins"
        )
    if weights.shape != x.shape[1:2]:
        raise InvalidAction(f"weights: expected ({x.shape[1]},), one a step, got {tuple(weights.shape)}")
    there = torch.arange(x.shape[1], device=x.device) < previous.shape[1]
    return weights.to(x) * there


def guided_denoiser(
    denoise: Denoiser,
    path: GaussianPath,
    previous: Tensor | Callable[[Tensor], Tensor],
    weights: Tensor,
    cap: float = CAP,
    jacobian: Jacobian = "true",
    clip: float | None = None,
    keeps_eps: bool = False,
) -> Denoiser:
    """``denoise`` pulled towards the old chunk, on any Gaussian path ``z = alpha x + sigma e``.

    The pull is a measurement's: of the clean chunk ``x`` one sees ``previous`` with confidence ``weights``.  Given
    ``z`` the chunk is taken to be Gaussian about the estimate ``x0(z)`` with the variance it would have under a unit
    prior, ``r^2 = sigma^2 / (alpha^2 + sigma^2)`` (Song et al. 2023, *Pseudoinverse-Guided Diffusion*; for flows
    Pokle et al. 2024, arXiv 2310.04432), so with ``J = dx0/dz`` and ``error = weights * (previous - x0)``

        grad log p(previous | z) = J^T error / r^2.

    Added to the score ``-(z - alpha x0) / sigma^2`` this moves the clean estimate by ``sigma^2 / alpha`` times itself:

        x0' = x0 + sigma (kappa + 1 / kappa) J^T error,      kappa = sigma / alpha.

    For a flow (``alpha = tau, sigma = 1 - tau``) that is ``guided_velocity``'s ``(1 - tau) w(tau) J^T error`` with
    ``w = kappa + 1 / kappa``; on a variance-preserving path it is ``J^T error / alpha``; where data are N(0, 1) it sets
    the estimate to ``previous`` exactly.  The factor is capped as the flow's is, ``min(cap, kappa + 1 / kappa)``: one
    cap means the same at the same noise ratio for every head, and first-order samplers (DDIM, Euler) give the same
    chunk for the same denoiser on any path.  ``identity`` takes the flow's Jacobian for 1, ``x0' = x0 +
    kappa / (1 + kappa) w error``.  Samplers read ``x0'`` (DPM-Solver++, Heun...) or also ``eps' = eps - (x0' - x0) /
    kappa`` (DDIM), so none of them needs to know.

    ``previous`` ``(N, H, D)``, or what says it in the form nearest to an estimate (``execution.images``); ``weights``
    ``(N, H, 1)`` or ``(N, H, D)``; rows without weight are passed through untouched.  ``clip``, ``keeps_eps``: the
    sampler's; what it would clip of the network's estimate is clipped before the error is taken, since an epsilon
    head's estimate at pure noise is of no use otherwise.  Levels without noise, or without a finite factor (``cap``
    infinite at pure noise), are passed through.
    """
    if jacobian not in ("true", "identity"):
        raise ConfigError(f"jacobian must be true (the paper's) or identity, got {jacobian!r}")
    held = (weights != 0).flatten(1).any(1)[:, None, None]

    def error(x0: Tensor) -> Tensor:
        return ((previous(x0) if callable(previous) else previous) - x0) * weights

    def pulled(z: Tensor, t: Tensor) -> Prediction:
        alpha, sigma = (float(c[0]) for c in path.levels([t.item()]))
        tau = alpha / (alpha + sigma)
        factor = guidance_weight(tau, cap)
        if sigma == 0 or not math.isfinite(factor):
            return denoise(z, t)
        said, pull = _pull(denoise, z, t, lambda x0: error(_clipped(x0, clip)), jacobian)
        pull = pull * (factor * (sigma if jacobian == "true" else 1 - tau))
        base = _clipped(said.x0, clip)
        eps = said.eps if keeps_eps else said.eps - (base - said.x0) * (alpha / sigma)
        x0, eps = base + pull, eps - pull * (alpha / sigma)
        return Prediction(torch.where(held, x0, said.x0), torch.where(held, eps, said.eps), said.kappa)

    return pulled


def _pull(
    denoise: Denoiser, z: Tensor, t: Tensor, error: Callable[[Tensor], Tensor], jacobian: Jacobian
) -> tuple[Prediction, Tensor]:
    """The network's answer without gradient, and ``J^T error`` (or the error itself)."""
    if jacobian == "identity":
        with torch.no_grad():
            said = denoise(z, t)
            return said, error(said.x0)
    with torch.inference_mode(False), torch.enable_grad():
        at = z.detach().clone().requires_grad_()
        said = denoise(at, t)
        if not said.x0.requires_grad:
            raise MissingCapability(
                "the network gives no gradient with respect to its state; use jacobian: identity, which needs none"
            )
        (pull,) = torch.autograd.grad(said.x0, at, error(said.x0.detach()))
    return Prediction(said.x0.detach(), said.eps.detach(), said.kappa), pull


def _clipped(x0: Tensor, clip: float | None) -> Tensor:
    return x0 if clip is None else x0.clamp(-clip, clip)
