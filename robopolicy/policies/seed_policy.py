"""SeedPolicy (arXiv 2603.05117): Diffusion Policy whose observations pass through a memory (``encoders/sega.py``).

What differs from the release: every parameter is trained, the gradient runs through whole chains of plans, the gate
starts slow; ``policies/seed_policy/paper.yaml`` has the published sizes.  When to use: the right action depends on
something seen before the observed steps, or episodes look alike at different stages.  Any other head gets the same
memory with ``encoder.temporal``.
"""

from __future__ import annotations

from typing import ClassVar

from robopolicy.policies.diffusion import DiffusionPolicy
from robopolicy.policies.seed_policy_config import SeedConfig

__all__ = ["SeedConfig", "SeedPolicy"]


class SeedPolicy(DiffusionPolicy):
    """See the module; options in ``SeedConfig``."""

    name: ClassVar[str] = "seed_policy"
    config: SeedConfig
