"""Projected gradient ascent on actions, the mathematics: steps inside a box, and the best point met on the way.

Source: Sobol Mark et al. 2024, *Policy Agnostic RL* (PA-RL, arXiv 2412.06685), local optimisation, and its released
code: ``a <- clip(a + eta * grad_a Q(a), low, high)``, ``T`` times, start and end included in the comparison.
Differs: besides the raw gradient, steps of fixed length (``unit_norm``) and raw steps inside a ball around the start
(``trust``), because 10 steps of 3e-4 move an action by 0.003 times its gradient and no more; numbers that are no
directions (binary, padding, constant channels) stand still; rotations are made orthonormal after every step.
Nothing here knows policies or critics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robopolicy.core.errors import ConfigError

EtaMode = Literal["raw", "unit_norm", "trust"]
ETA_MODES = ("raw", "unit_norm", "trust")
Value = Callable[[Tensor], Tensor]
Project = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class AscentSettings:
    """How far and how fast: ``steps`` of ``eta``, in units of the space that is climbed in.

    ``raw``: ``eta`` times the gradient, no further (the paper).  ``unit_norm``: ``eta`` along the gradient, whatever
    its length.  ``trust``: raw steps that never leave the ball of ``radius`` (Euclidean, over a candidate's numbers)
    around the start.
    """

    steps: int = 10
    eta: float = 3e-4
    eta_mode: EtaMode = "raw"
    radius: float = 0.1

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ConfigError(f"steps must be >= 0, got {self.steps}")
        if self.eta_mode not in ETA_MODES:
            raise ConfigError(f"eta_mode must be one of {', '.join(ETA_MODES)}, got '{self.eta_mode}'")
        for name in ("eta", "radius"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be > 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class Limits:
    """Where steps may lead: ``low`` and ``high`` broadcast to the actions; ``moves`` is 1 for numbers that may change.

    ``project`` puts a point back where it means something (rotations), after the box; ``None`` needs nothing.
    """

    low: Tensor
    high: Tensor
    moves: Tensor
    project: Project | None = None

    @staticmethod
    def free(like: Tensor) -> Limits:
        """No limits, everything moves."""
        one = torch.ones(like.shape[2:], dtype=like.dtype, device=like.device)
        return Limits(-torch.inf * one, torch.inf * one, one)

    def inside(self, old: Tensor, new: Tensor) -> Tensor:
        """``new`` in the box and projected; numbers that do not move stay those of ``old``, bit for bit."""
        new = torch.where(self.moves.bool(), torch.maximum(torch.minimum(new, self.high), self.low), old)
        return new if self.project is None else self.project(new)


@dataclass(frozen=True)
class Ascent:
    """``actions`` ``(B, K, ...)`` the best points, their values ``(B, K)``, and the values of the starts."""

    actions: Tensor
    values: Tensor
    start_values: Tensor


def ascend(value: Value, start: Tensor, settings: AscentSettings, limits: Limits) -> Ascent:
    """Climb ``value`` from every candidate of ``start`` ``(B, K, ...)`` for itself.

    ``value`` maps candidates to ``(B, K)`` and is differentiable in them; gradients are of each candidate's own value.
    A candidate never ends below where it began.
    """
    here = start.detach()
    best = best_values = start_values = None
    for step in range(settings.steps + 1):
        last = step == settings.steps
        values, gradient = _asked(value, here, gradient=not last)
        if best is None or best_values is None:
            best, best_values, start_values = here, values, values
        else:
            better = values > best_values
            best_values = torch.where(better, values, best_values)
            best = torch.where(_fit(better, here), here, best)
        if not last:
            here = limits.inside(here, _moved(here, start, gradient * limits.moves, settings))
    assert best is not None
    assert best_values is not None
    assert start_values is not None
    return Ascent(best, best_values, start_values)


def _asked(value: Value, actions: Tensor, gradient: bool) -> tuple[Tensor, Tensor]:
    """Values, and their gradients (zeros where none is asked)."""
    if not gradient:
        with torch.no_grad():
            return value(actions), torch.zeros_like(actions)
    with torch.enable_grad():
        asked = actions.clone().requires_grad_(True)
        values = value(asked)
        (slope,) = torch.autograd.grad(values.sum(), asked)
    return values.detach(), slope


def _moved(here: Tensor, start: Tensor, gradient: Tensor, settings: AscentSettings) -> Tensor:
    if settings.eta_mode == "unit_norm":
        length = _fit(gradient.flatten(2).norm(dim=-1), gradient)
        return here + settings.eta * gradient / length.clamp(min=1e-12)
    there = here + settings.eta * gradient
    if settings.eta_mode == "raw":
        return there
    away = there - start
    length = _fit(away.flatten(2).norm(dim=-1), away)
    return start + away * (settings.radius / length.clamp(min=1e-12)).clamp(max=1.0)


def _fit(values: Tensor, like: Tensor) -> Tensor:
    """``(B, K)`` with as many trailing ones as ``like`` ``(B, K, ...)`` has."""
    return values.reshape(*values.shape, *(1,) * (like.ndim - 2))
