"""Which normalisation each feature gets (no torch here)."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from robopolicy.core.configs import config_dataclass

NormMode = Literal["limits", "gaussian", "quantile", "identity"]
BOUNDED: frozenset[str] = frozenset({"limits", "identity"})


@config_dataclass
class NormalizationConfig:
    """``limits`` to [-1, 1] by minimum and maximum (the paper's choice), z-scores, 1%..99% quantiles, or nothing."""

    action: NormMode = "limits"
    """Actions; the sampler's clip range must fit it."""
    state: NormMode = "limits"
    """Low-dimensional observations."""
    features: dict[str, NormMode] = field(default_factory=dict)
    """Single features by their key, e.g. ``observation.environment_state: gaussian``."""

    def of_feature(self, key: str) -> NormMode:
        """Mode of a low-dimensional observation."""
        return self.features.get(key, self.state)
