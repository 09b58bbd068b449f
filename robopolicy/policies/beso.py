"""BESO (arXiv 2304.02532): a score model in continuous noise levels (EDM) that denoises a chunk in a few steps.

Source: Reuss et al. 2023, from its released code (spec of BESO); preconditioning, Karras et al. 2022 (arXiv
2206.00364), table 1.  What differs: chunks as in Diffusion Policy and any of three networks (the published one is
``gpt`` with ``horizon == n_obs_steps``); all actions of a chunk start from noise, those already executed too, as in
training; levels up to ``sigma_max`` 5 with a start that has the spread of noisy data.
When to use: three network calls a chunk, play data, and policies that change their sampler after training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from robopolicy.core.specs import ACTION, ActionSpace, ChannelKind, FeatureStats, ObservationSpec
from robopolicy.paths.ve import VE
from robopolicy.policies.backbones import make_backbone
from robopolicy.policies.beso_config import BesoConfig
from robopolicy.policies.denoising import DenoisingPolicy
from robopolicy.policies.noise_densities import DEFAULT_LOC, DEFAULT_SCALE, NoiseDensity
from robopolicy.policies.precondition import EDM
from robopolicy.policies.setup import check_identity

__all__ = ["BesoConfig", "BesoPolicy"]

# ln(sigma) / 4 lies within -1..1, sinusoids were made for step numbers up to 100 and more.
SINUSOID_SCALE = 100.0
# Actions that hardly vary would make the preconditioning a division by almost zero.
SIGMA_DATA_FLOOR = 0.05


class BesoPolicy(DenoisingPolicy):
    """See the module; options in ``BesoConfig``."""

    name: ClassVar[str] = "beso"
    config: BesoConfig

    def __init__(
        self,
        config: BesoConfig,
        observation_spec: ObservationSpec,
        action_space: ActionSpace,
        fps: float,
        stats: Mapping[str, FeatureStats],
        load_weights: bool = False,
    ) -> None:
        super().__init__(config, observation_spec, action_space, fps, stats, load_weights)
        if config.normalization.action == "identity":
            check_identity(self.stats[ACTION], config.clip_range)
        self.sigma_data = config.sigma_data or self._measured_spread()
        self.density = self._noise_density()
        path = VE(config.sigma_min, config.sigma_max, config.rho, data_std=self.sigma_data)
        scale = 1.0 if config.backbone == "gpt" else SINUSOID_SCALE
        net = make_backbone(config, action_space.dim, self.encoder.step_dim)
        self._finish(net, EDM(path, self.sigma_data, scale))

    def _measured_spread(self) -> float:
        """Root mean square of the normalised actions over the channels that move."""
        stats, norm = self.stats[ACTION], self.norm
        second = [
            ((mean - shift) ** 2 + std**2) / scale**2
            for mean, std, shift, scale, free, kind in zip(
                stats.mean,
                stats.std,
                norm.shift.tolist(),
                norm.scale.tolist(),
                norm.free.tolist(),
                self.action_spec.space.channel_kinds,
                strict=True,
            )
            if free and kind is not ChannelKind.PADDING
        ]
        return max(math.sqrt(sum(second) / len(second)), SIGMA_DATA_FLOOR) if second else 0.5

    def _noise_density(self) -> NoiseDensity:
        config, kind = self.config, self.config.noise_density
        loc = config.density_loc
        if loc is None:
            loc = math.log(self.sigma_data) if kind == "loglogistic" else DEFAULT_LOC
        scale = config.density_scale or DEFAULT_SCALE[kind]
        return NoiseDensity(kind, loc, scale, config.sigma_min, config.sigma_max)

    def _draw_times(self, n: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        return self.density.draw(n, generator, device)
