"""Diffusion Policy (arXiv 2303.04137): a denoising diffusion model over chunks of actions.

What differs: DDIM on trailing steps by default, constant channels pinned, crops and noise passed in, both backbones
and all three predictions behind one class.  When to use: multimodal demonstrations, smooth position control; the
U-Net is the easier backbone, the transformer follows fast changes better.

    observations   k-1   k
    prediction     k-1   k   k+1  ...  k+14      horizon = 16, n_obs_steps = 2
    executed             k   k+1  ...  k+7       n_action_steps = 8
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from robopolicy.core.specs import ACTION
from robopolicy.paths.convert import Kind
from robopolicy.paths.vp import VPDiscrete
from robopolicy.policies.backbones import make_backbone
from robopolicy.policies.denoising import DenoisingPolicy
from robopolicy.policies.diffusion_config import DiffusionConfig
from robopolicy.policies.precondition import Plain
from robopolicy.policies.setup import check_identity

__all__ = ["DiffusionConfig", "DiffusionPolicy"]


class DiffusionPolicy(DenoisingPolicy):
    """See the module; options in ``DiffusionConfig``."""

    name: ClassVar[str] = "diffusion"
    config: DiffusionConfig

    def __init__(self, config: DiffusionConfig, *border: Any) -> None:
        """``border``: the other arguments of ``Policy``."""
        super().__init__(config, *border)
        check_identity(config, self.stats[ACTION])
        with torch.device("cpu"):  # tables of numbers, also when the networks are built on "meta"
            path = VPDiscrete.make(config.schedule, config.num_train_steps, config.beta_start, config.beta_end)
        net = make_backbone(config, self.action_spec.dim, self.encoder.step_dim)
        self._finish(net, Plain(Kind(config.prediction), path))

    def _draw_times(self, n: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        return torch.randint(self.config.num_train_steps, (n,), generator=generator, device=device)
