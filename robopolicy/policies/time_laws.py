"""How flow heads draw training times, as the noise fraction ``s``: 0 is clean, 1 is pure noise.

Source: uniform, Liu et al. 2022 (arXiv 2209.03003); Beta, Black et al. 2024 (pi0, arXiv 2410.24164), appendix B;
logit-normal, Esser et al. 2024 (arXiv 2403.03206), section 3.1.
Differs: laws speak of noise, not of time, so both directions of time train the same levels from the same draws; the
Beta law is drawn through its exact inverse (``u = q^(2/3)``), which needs no rejection and runs on every device.
When to use: "uniform" for short chunks and small nets; "beta" when the conditioning decides much (it spends more on
noisy levels); "logit_normal" puts the weight on the middle.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robopolicy.core.errors import ConfigError, did_you_mean

# pi0 trains times up to s = 0.999 of the way to the data, so the fraction of noise never falls below the rest.
BETA_FLOOR = 0.001
BETA_POWER = 1.5


@dataclass(frozen=True)
class TimeLaw(ABC):
    """``least``: the smallest noise fraction that training ever draws; queries below it are out of distribution."""

    least: float = 0.0

    def draw(self, n: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu") -> Tensor:
        """Noise fractions ``(n,)`` in ``[least, 1]``, float32."""
        return self.quantile(torch.rand(n, generator=generator, device=device))

    @abstractmethod
    def quantile(self, q: Tensor) -> Tensor:
        """Noise fraction below which a share ``q`` in [0, 1] of the draws lies."""


@dataclass(frozen=True)
class Uniform(TimeLaw):
    """Every level equally often."""

    def quantile(self, q: Tensor) -> Tensor:
        return q


@dataclass(frozen=True)
class Beta(TimeLaw):
    """``s = least + (1 - least) u`` with ``u ~ Beta(power, 1)``, whose distribution function is ``u ** power``."""

    least: float = BETA_FLOOR
    power: float = BETA_POWER

    def __post_init__(self) -> None:
        if not (0 <= self.least < 1 and math.isfinite(self.power) and self.power > 0):
            raise ConfigError(f"beta law: expected 0 <= least < 1 and power > 0, got {self.least} and {self.power}")

    def quantile(self, q: Tensor) -> Tensor:
        return self.least + (1 - self.least) * q ** (1 / self.power)


@dataclass(frozen=True)
class LogitNormal(TimeLaw):
    """``logit(s) ~ N(location, scale^2)``."""

    location: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.location) and math.isfinite(self.scale) and self.scale > 0):
            raise ConfigError(
                f"logit_normal law: expected a finite location and scale > 0, got {self.location} and {self.scale}"
            )

    def quantile(self, q: Tensor) -> Tensor:
        tiny = torch.finfo(q.dtype).eps
        return torch.sigmoid(self.location + self.scale * torch.special.ndtri(q.clamp(tiny, 1 - tiny)))


LAWS: dict[str, type[TimeLaw]] = {"uniform": Uniform, "beta": Beta, "logit_normal": LogitNormal}


def make_time_law(name: str, **options: Any) -> TimeLaw:
    """Law by name; ``ConfigError`` for unknown names or options."""
    if name not in LAWS:
        raise ConfigError(f"unknown time law {name!r}" + did_you_mean(name, LAWS))
    try:
        return LAWS[name](**options)
    except TypeError as e:
        raise ConfigError(f"time law '{name}' does not take these options: {e}") from e
