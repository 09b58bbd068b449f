"""Exact denoisers of known distributions: what a perfectly trained head would answer.

Source: Bayes' rule for ``z = alpha x + sigma e``; the Gaussian case is ``x0 = m + v alpha (z - alpha m) /
(alpha^2 v + sigma^2)``, which stays regular at pure noise and at the clean end.
When to use: contract tests of heads, samplers and wrappers without any training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from robopolicy.core.policy import Prediction
from robopolicy.paths.base import Coefficient, GaussianPath
from robopolicy.paths.convert import Kind, canonical, coefficients, target
from robopolicy.paths.linear import LinearFlow


@dataclass(frozen=True, eq=False)
class Teacher(ABC):
    """``teacher(z, t) -> Prediction`` for states ``(N, H, D)`` on ``path``, elementwise independent."""

    path: GaussianPath

    @abstractmethod
    def clean(self, z: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        """``E[x | z]``, shaped as ``z``."""

    def output(self, kind: Kind, z: Tensor, t: Tensor) -> Tensor:
        """What a perfect network of ``kind`` outputs at ``z`` ``(N, H, D)`` and ``t`` (``()`` or ``(N,)``)."""
        alpha, sigma = coefficients(self.path, t, z)
        x0 = self.clean(z, alpha, sigma)
        return target(kind, x0, (z - alpha * x0) / sigma, self.path, t)

    def __call__(self, z: Tensor, t: Tensor) -> Prediction:
        return canonical(Kind.X0, self.output(Kind.X0, z, t), z, self.path, t)


@dataclass(frozen=True, eq=False)
class GaussianTeacher(Teacher):
    """Data ``N(mean, std^2)`` per element; ``std = 0`` is one point."""

    mean: float
    std: float

    def clean(self, z: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        v = self.std**2
        return self.mean + v * alpha / (alpha * alpha * v + sigma * sigma) * (z - alpha * self.mean)


@dataclass(frozen=True, eq=False)
class MixtureTeacher(Teacher):
    """Data from equally wide Gaussians at ``means`` with ``weights`` (sum 1), the same for each element."""

    means: tuple[float, ...]
    weights: tuple[float, ...]
    std: float

    def clean(self, z: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        v = self.std**2
        total = alpha * alpha * v + sigma * sigma
        modes = (len(self.means), *(1 for _ in z.shape))  # modes first: the sums below run over whole tensors
        means = torch.tensor(self.means, dtype=z.dtype, device=z.device).reshape(modes)
        logits = torch.tensor(self.weights, dtype=z.dtype, device=z.device).log().reshape(modes)
        gap = z - alpha * means
        share = (logits - gap**2 / (2 * total)).softmax(0)
        return (share * (means + v * alpha / total * gap)).sum(0)


@dataclass(frozen=True, eq=False)
class GaussianFlow(GaussianTeacher):
    """The same data on a straight path, through its velocity: regular at both ends, where flow solvers ask too.

    Its ODE is solved exactly: ``z(t) = alpha m + sqrt(alpha^2 std^2 + sigma^2) latent``.
    """

    path: LinearFlow

    def velocity(self, z: Tensor, t: Tensor) -> Tensor:
        """``dx/dt`` with noise at ``t = 0``, the state ``z`` at the path's own time ``t``."""
        a, s = coefficients(self.path, t, z)
        v = self.std**2
        return self.mean + (a * v - s) / (a * a * v + s * s) * (z - a * self.mean)

    def __call__(self, z: Tensor, t: Tensor) -> Prediction:
        sign = 1.0 if self.path.noise_at == 0 else -1.0
        return canonical(Kind.VELOCITY, sign * self.velocity(z, t), z, self.path, t)

    def carried(self, z: Tensor, start: float, end: float) -> Tensor:
        """The exact flow map from flow time ``start`` to ``end`` (noise at 0)."""
        widths = [(t * t * self.std**2 + (1 - t) ** 2) ** 0.5 for t in (start, end)]
        return end * self.mean + (z - start * self.mean) * widths[1] / widths[0]
