"""Real-time chunking on flow heads, the mathematics: a new chunk is drawn so that it continues the one being executed.

Source: Black et al. 2025, *Real-Time Execution of Action Chunking Flow Policies* (arXiv 2506.07339): inpainting by
guidance.  Steps that will have been executed when inference ends are held to the old chunk, the following ones are
pulled softly, the last are free; nothing is retrained.
What differs: time is the flow's own, ``tau`` = 0 at noise and 1 at data (LeRobot's runs from 1 to 0, so its time is
``1 - tau``), and both forms of the gradient are here: the paper's, through the network, and ``identity``, LeRobot's,
which leaves the network's Jacobian out, costs no backward pass and still attracts.
When to use: with a flow head whose inference takes longer than a control step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from robopolicy.core.errors import ConfigError, InvalidAction

Schedule = Literal["zeros", "linear", "exp", "ones"]
Jacobian = Literal["true", "identity"]
Velocity = Callable[[Tensor, float], Tensor]
"""``velocity(x, tau)``: chunks ``(N, H, D)`` at one time to ``clean - noise``, the direction towards data."""


def prefix_weights(schedule: Schedule, start: int, end: int, total: int) -> Tensor:
    """How strongly each of ``total`` steps is held to the old chunk, ``(total,)`` in [0, 1], never rising.

    1 before ``start`` (the delay in steps), 0 from ``end`` on (where the old chunk ends, or earlier), and between them:
    nothing (``zeros``), everything (``ones``), a line that touches neither 1 nor 0 (``linear``), or
    ``l (e^l - 1) / (e - 1)`` of that line ``l`` (``exp``).  A ``start`` beyond ``end`` counts as ``end``.
    Raises ``ConfigError`` for an unknown schedule or places outside ``0..total``.
    """
    if not (0 <= start <= total and 0 <= end <= total):
        raise ConfigError(f"start and end must be steps within 0..{total}, got {start} and {end}")
    start = min(start, end)
    step = torch.arange(total, dtype=torch.float64)
    line = ((end - step) / (end - start + 1)).clamp(0, 1)
    line[:start] = 1
    shapes = {
        "zeros": (step < start).double(),
        "linear": line,
        "exp": line * line.expm1() / (math.e - 1),
        "ones": (step < end).double(),
    }
    if schedule not in shapes:
        raise ConfigError(f"schedule must be one of {', '.join(shapes)}, got {schedule!r}")
    return shapes[schedule].float()


def guidance_weight(tau: float, cap: float = 10.0) -> float:
    """Factor on the pull at time ``tau`` in [0, 1]: ``((1 - tau)^2 + tau^2) / (tau (1 - tau))``, at most ``cap``.

    Without the cap it grows beyond all bounds at both ends, and an Euler step would leap over its aim.
    """
    if not (0 <= tau <= 1 and cap >= 0):
        raise ConfigError(f"expected tau in [0, 1] and cap >= 0, got {tau} and {cap}")
    spread = tau * (1 - tau)
    return cap if spread == 0 else min(cap, ((1 - tau) ** 2 + tau**2) / spread)


def guided_velocity(
    velocity: Velocity,
    x: Tensor,
    tau: float,
    previous: Tensor,
    weights: Tensor,
    cap: float = 10.0,
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
