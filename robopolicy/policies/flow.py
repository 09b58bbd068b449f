"""Rectified-flow policy: a velocity field that carries noise to a chunk of actions in a few solver steps.

Source: Lipman et al. 2023 (arXiv 2210.02747); Liu et al. 2022 (arXiv 2209.03003); as a policy head, pi0 (Black et al.
2024, arXiv 2410.24164).
What differs: one convention inside (``t = 0`` is noise, the network answers ``a - e``); the direction that users and
wrappers see is ``noise_at``, converted at this border, so weights and chunks do not depend on it.  The encoder, the
chunk layout and the backbones are those of Diffusion Policy.
When to use: wherever Diffusion Policy is, with fewer queries a chunk; as a teacher of one-step students.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from robopolicy.core.errors import MissingCapability
from robopolicy.core.policy import Cap, Prediction
from robopolicy.core.specs import ACTION
from robopolicy.encoders.features import Features
from robopolicy.paths.convert import Kind, canonical
from robopolicy.paths.linear import LinearFlow
from robopolicy.policies.backbones import make_backbone
from robopolicy.policies.base import Noise
from robopolicy.policies.denoising import DenoisingPolicy
from robopolicy.policies.flow_config import FlowConfig
from robopolicy.policies.losses import masked_mean
from robopolicy.policies.precondition import Precondition
from robopolicy.policies.setup import check_identity
from robopolicy.policies.time_laws import make_time_law

__all__ = ["FlowConfig", "FlowPolicy"]


class FlowPrecondition(Precondition):
    """The network is told ``time_scale * t`` with noise at ``t = 0`` and answers ``x0 - eps``, whatever the path says.

    ``least`` is the smallest noise fraction seen in training: solvers that look closer to the data are answered with
    the label of that level.
    """

    path: LinearFlow

    def __init__(self, path: LinearFlow, time_scale: float = 100.0, least: float = 0.0) -> None:
        self.path, self.time_scale, self.least = path, float(time_scale), float(least)
        self.sign = 1.0 if path.noise_at == 0 else -1.0

    def label(self, t: Tensor) -> Tensor:
        return (1 - self.path.sigma(t).clamp(min=self.least)) * self.time_scale

    def enter(self, z: Tensor, t: Tensor) -> Tensor:
        return z

    def prediction(self, out: Tensor, z: Tensor, t: Tensor) -> Prediction:
        return canonical(Kind.VELOCITY, out * self.sign, z, self.path, t)

    def target(self, x0: Tensor, eps: Tensor, z: Tensor, t: Tensor) -> Tensor:
        return x0 - eps


class FlowPolicy(DenoisingPolicy):
    """See the module; options in ``FlowConfig``."""

    name: ClassVar[str] = "flow"
    sampler_names: ClassVar[Mapping[str, str]] = {"heun": "trapezoid"}  # Heun in the flow's own time, not EDM's
    config: FlowConfig
    path: LinearFlow

    def __init__(self, config: FlowConfig, *border: Any) -> None:
        """``border``: the other arguments of ``Policy``."""
        super().__init__(config, *border)
        check_identity(config, self.stats[ACTION])
        self.time_law = make_time_law(config.time_law, **config.time_law_options)
        net = make_backbone(config, self.action_spec.dim, self.encoder.step_dim)
        path = LinearFlow(config.noise_at)
        if config.one_step:
            self.lacks = frozenset({Cap.SCORE, Cap.MEAN_DENOISER})
        self._finish(net, FlowPrecondition(path, config.time_scale, self.time_law.least))

    def native(self, noise: Tensor) -> Tensor:
        """Time at which the noise fraction is ``noise`` (1 is pure noise)."""
        return noise if self.path.noise_at == 1 else 1 - noise

    def _draw_times(self, n: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        return self.native(self.time_law.draw(n, generator, device))

    def predict(self, ctx: Features, z: Tensor, t: Tensor) -> Prediction:
        """See ``DenoisingPolicy``; one-step models have no such answer (``MissingCapability``)."""
        if self.config.one_step:
            raise MissingCapability(
                "a one-step flow policy jumps to the end of its flow and has no SCORE: use decode()"
            )
        return super().predict(ctx, z, t)

    def head_loss(self, features: Features, target: Tensor, mask: Tensor | None, noise: Noise) -> Tensor:
        """Squared error of the velocity ``(B,)``; for one-step models the consistency of neighbouring levels."""
        if not self.config.one_step:
            return super().head_loss(features, target, mask, noise)
        eps = noise["eps"].to(target, non_blocking=True)
        level = self.path.sigma(noise["t"].to(target.device, non_blocking=True))
        below = (level - 1 / self.config.consistency_levels).clamp(min=0)
        z, z_below = (self.path.add_noise(target, eps, self.native(s)) for s in (level, below))
        return self.consistency_loss(features, z, z_below, level, below, mask)

    def consistency_loss(
        self, features: Features, z: Tensor, z_below: Tensor, level: Tensor, below: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Squared distance ``(B,)`` between the ends that two states of one trajectory jump to.

        ``z``, ``z_below`` ``(B, H, D)`` at noise fractions ``level > below`` ``(B,)``; the cleaner one is the aim and
        passes no gradient.  At ``below = 0`` it is its own end, which ties the model to the data.  Source: Song et al.
        2023 (arXiv 2303.01469), algorithms 2 and 3.
        """
        aim = self._query(features, z_below, self.native(below)).x0.detach()
        end = self._query(features, z, self.native(level)).x0
        return masked_mean((end - aim).square(), mask, self.channels)
