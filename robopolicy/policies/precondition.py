"""What stands between a raw network and the path: how the state enters, how time is told, what the output means.

A denoising head is a network, a path and one of these; the sampler sees only ``Prediction``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from robopolicy.core.policy import Prediction
from robopolicy.paths.base import GaussianPath, fit
from robopolicy.paths.convert import Kind, canonical
from robopolicy.paths.convert import target as network_target
from robopolicy.paths.edm import Scalings, edm_denoise, edm_raw_target, edm_scalings
from robopolicy.paths.ve import VE


class Precondition(ABC):
    """Shapes: states, noise and outputs ``(N, H, D)``; times ``()`` (sampling) or ``(N,)`` (training)."""

    path: GaussianPath

    @abstractmethod
    def label(self, t: Tensor) -> Tensor:
        """What the network is told of native time ``t``, same shape."""

    @abstractmethod
    def enter(self, z: Tensor, t: Tensor) -> Tensor:
        """The state as the network sees it."""

    @abstractmethod
    def prediction(self, out: Tensor, z: Tensor, t: Tensor) -> Prediction:
        """Canonical prediction from the raw output at state ``z``."""

    @abstractmethod
    def target(self, x0: Tensor, eps: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """What the raw network should output for clean ``x0`` and noise ``eps`` at ``z``, their mixture at ``t``."""


class Plain(Precondition):
    """The network sees the state itself and outputs ``kind``; times are told times ``time_scale``.

    Sinusoidal embeddings were made for step numbers: times in [0, 1] need a scale of 100 to 1000 (spec of flow
    matching, 6.1).
    """

    def __init__(self, kind: Kind, path: GaussianPath, time_scale: float = 1.0) -> None:
        self.kind, self.path, self.time_scale = kind, path, float(time_scale)

    def label(self, t: Tensor) -> Tensor:
        return t if self.time_scale == 1.0 else t * self.time_scale

    def enter(self, z: Tensor, t: Tensor) -> Tensor:
        return z

    def prediction(self, out: Tensor, z: Tensor, t: Tensor) -> Prediction:
        return canonical(self.kind, out, z, self.path, t)

    def target(self, x0: Tensor, eps: Tensor, z: Tensor, t: Tensor) -> Tensor:
        return network_target(self.kind, x0, eps, self.path, t)


class EDM(Precondition):
    """Karras et al. 2022, table 1, on the variance-exploding path; the label is ``label_scale * ln(sigma) / 4``."""

    def __init__(self, path: VE, sigma_data: float = 0.5, label_scale: float = 1.0) -> None:
        self.path, self.sigma_data, self.label_scale = path, float(sigma_data), float(label_scale)

    def label(self, t: Tensor) -> Tensor:
        return t.log() * (self.label_scale / 4)

    def scalings(self, t: Tensor, like: Tensor) -> Scalings:
        """``(c_skip, c_out, c_in)`` at noise level ``t``, shaped to multiply ``like``."""
        return Scalings(*(fit(c, t, like) for c in edm_scalings(t, self.sigma_data)))

    def enter(self, z: Tensor, t: Tensor) -> Tensor:
        return z * self.scalings(t, z).into

    def prediction(self, out: Tensor, z: Tensor, t: Tensor) -> Prediction:
        return canonical(Kind.X0, edm_denoise(out, z, self.scalings(t, z)), z, self.path, t)

    def target(self, x0: Tensor, eps: Tensor, z: Tensor, t: Tensor) -> Tensor:
        return edm_raw_target(x0, z, self.scalings(t, z))
