"""Explicit Runge-Kutta solvers of ``dz/dt = u(z, t)`` in the path's native time: midpoint, trapezoid (Heun), RK4.

Source: Hairer, Norsett & Wanner, *Solving Ordinary Differential Equations I*, section II.1.
Differs: the velocity comes from the denoiser's ``x0`` and ``eps`` with the path's own rates, so every path with a
continuous time can use them.  The last step ends at the clean level; a stage there asks at ``path.last_time``.
When to use: flow heads, whose velocity is regular at both ends.  Euler is better below about six queries when data
are narrow, the higher orders above; EDM's own Heun (``heun``) suits variance-exploding heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from robopolicy.core.errors import ConfigError
from robopolicy.paths.base import Coefficient, GaussianPath
from robopolicy.samplers.base import Denoiser, Levels, Sampler, added, plus


class Stage(NamedTuple):
    """One query: when, the path's rates there, and ``alpha / sigma`` (0 at the clean end, where no clip applies)."""

    time: Tensor
    alpha_rate: Coefficient
    sigma_rate: Coefficient
    ratio: float


class Step(NamedTuple):
    """A step's length in native time (negative where noise is at 1) and its queries."""

    length: float
    stages: tuple[Stage, ...]


@dataclass(frozen=True, kw_only=True)
class RungeKutta(Sampler):
    """Methods whose every stage starts from the one before.

    ``nodes``: where in a step the slopes are taken, as fractions; ``weights``: how they are averaged.
    """

    nodes: ClassVar[tuple[float, ...]]
    weights: ClassVar[tuple[float, ...]]

    def queries(self, n_steps: int) -> int:
        return len(self.nodes) * n_steps

    def asked(self, path: GaussianPath, times: Tensor) -> Tensor:
        steps = _steps(path, tuple(times.tolist()), times.dtype, self.nodes)
        different = dict.fromkeys(stage.time.item() for step in steps for stage in step.stages)
        return torch.tensor(list(different), dtype=times.dtype, device="cpu")

    def coefficients(self, levels: Levels) -> Sequence[np.ndarray]:
        """None: steps are measured in native time, which levels do not tell."""
        return ()

    def __call__(
        self, denoise: Denoiser, path: GaussianPath, times: Tensor, z: Tensor, tape: Tensor | None = None
    ) -> Tensor:
        plan = self.plan(path, times, z)  # checks the grid
        self.noises(plan, z, tape)
        for length, stages in _steps(path, tuple(times.tolist()), times.dtype, self.nodes):
            total = slope = None
            for stage, node, weight in zip(stages, self.nodes, self.weights, strict=True):
                state = z if slope is None else added(z, slope, node * length)
                slope = self._velocity(denoise, state, stage)
                total = added(z, slope, weight * length) if total is None else plus(total, slope, weight * length)
            assert total is not None
            z = total
        return z

    def _velocity(self, denoise: Denoiser, z: Tensor, stage: Stage) -> Tensor:
        prediction = denoise(z, stage.time)
        x0, eps = prediction.x0, prediction.eps
        if self.clip is not None:
            x0 = self.clipped(x0)
            eps = torch.add(eps, prediction.x0 - x0, alpha=stage.ratio)  # z = alpha x0 + sigma eps still holds
        return x0 * stage.alpha_rate + eps * stage.sigma_rate


@dataclass(frozen=True, kw_only=True)
class Midpoint(RungeKutta):
    """Deterministic, order 2, two queries a step, none at the clean end."""

    nodes: ClassVar[tuple[float, ...]] = (0.0, 0.5)
    weights: ClassVar[tuple[float, ...]] = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Trapezoid(RungeKutta):
    """Heun's method (explicit trapezoid rule): order 2, two queries a step, the last one at the clean end."""

    nodes: ClassVar[tuple[float, ...]] = (0.0, 1.0)
    weights: ClassVar[tuple[float, ...]] = (0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class RungeKutta4(RungeKutta):
    """The classical method: deterministic, order 4, four queries a step."""

    nodes: ClassVar[tuple[float, ...]] = (0.0, 0.5, 0.5, 1.0)
    weights: ClassVar[tuple[float, ...]] = (1 / 6, 1 / 3, 1 / 3, 1 / 6)


@lru_cache(maxsize=256)
def _steps(
    path: GaussianPath, times: tuple[float, ...], dtype: torch.dtype, nodes: tuple[float, ...]
) -> tuple[Step, ...]:
    if path.clean_time is None or path.last_time is None:
        raise ConfigError(
            f"{type(path).__name__} has no continuous time to solve in; use ddim, dpmpp_2m, heun or euler"
        )
    knots = (*times, path.clean_time)
    steps = []
    for start, end in pairwise(knots):
        stages = []
        for node in nodes:
            time = start + node * (end - start)
            if (time - path.last_time) * (end - start) > 0 or time == path.clean_time:
                time = path.last_time
            alpha, sigma = (float(level[0]) for level in path.levels([time]))
            ratio = alpha / sigma if sigma > 0 else 0.0
            with torch.inference_mode(False):  # kept beyond the caller's mode
                when = torch.tensor(time, dtype=dtype, device="cpu")
            stages.append(Stage(when, *path.rates(alpha, sigma), ratio))
        steps.append(Step(end - start, tuple(stages)))
    return tuple(steps)
