"""Variance-preserving discrete path: ``alpha^2 + sigma^2 = 1``, integer times ``0..T-1``.

Source: Ho et al. 2020 (arXiv 2006.11239), section 2; the squared-cosine schedule is Nichol & Dhariwal 2021
(arXiv 2102.09672), eq. 17, with beta capped at 0.999 (all Diffusion Policy configurations).
Differs: tables are float64, so ``1 - alpha_bar`` keeps its digits near the clean end.
When to use: DDPM/DDIM-trained heads.  ``beta_start``/``beta_end`` are ignored by the squared-cosine schedule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from robopolicy.core.errors import ConfigError, did_you_mean
from robopolicy.paths.base import Coefficient, GaussianPath, log_distance
from robopolicy.paths.grids import discrete_grid

SCHEDULES = ("squaredcos_cap_v2", "linear", "scaled_linear")
MAX_BETA = 0.999


def make_betas(schedule: str, num_train_steps: int, beta_start: float, beta_end: float) -> np.ndarray:
    """Betas ``(T,)`` float64 of a named schedule; raises ``ConfigError`` for bad names or ranges."""
    if schedule not in SCHEDULES:
        raise ConfigError(f"unknown noise schedule {schedule!r}" + did_you_mean(str(schedule), SCHEDULES))
    if num_train_steps < 1:
        raise ConfigError(f"num_train_steps must be >= 1, got {num_train_steps}")
    if schedule == "squaredcos_cap_v2":
        fraction = np.arange(num_train_steps + 1) / num_train_steps
        bar = np.cos((fraction + 0.008) / 1.008 * math.pi / 2) ** 2
        return np.minimum(1 - bar[1:] / bar[:-1], MAX_BETA)
    if not 0 < beta_start <= beta_end < 1:
        raise ConfigError(f"expected 0 < beta_start <= beta_end < 1, got {beta_start} and {beta_end}")
    if schedule == "linear":
        return np.linspace(beta_start, beta_end, num_train_steps)
    return np.linspace(math.sqrt(beta_start), math.sqrt(beta_end), num_train_steps) ** 2


class VPDiscrete(GaussianPath):
    """Path of a DDPM schedule.

    ``betas`` ``(T,)``, each in (0, 1); ``alpha_bar`` ``(T,)`` float64 CPU.  As the times are indices there is no
    time derivative; ``rates`` are those of the angle ``atan2(sigma, alpha)``, which makes the velocity equal to the
    v-parameterisation.
    """

    discrete = True

    def __init__(self, betas: Tensor | Sequence[float] | np.ndarray) -> None:
        self.betas = torch.as_tensor(np.asarray(betas, np.float64)).clone()
        if self.betas.ndim != 1 or not len(self.betas) or not bool(((self.betas > 0) & (self.betas < 1)).all()):
            raise ConfigError("betas must be a non-empty vector of numbers strictly between 0 and 1")
        self.alpha_bar = torch.cumprod(1 - self.betas, 0)
        self._alpha64 = self.alpha_bar.sqrt().numpy()
        self._sigma64 = (1 - self.alpha_bar).sqrt().numpy()
        self._tables: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @staticmethod
    def make(
        schedule: str = "squaredcos_cap_v2",
        num_train_steps: int = 100,
        beta_start: float = 1e-4,
        beta_end: float = 2e-2,
    ) -> VPDiscrete:
        """Path of a named schedule (``squaredcos_cap_v2``, ``linear``, ``scaled_linear``)."""
        return VPDiscrete(make_betas(schedule, num_train_steps, beta_start, beta_end))

    @property
    def num_train_steps(self) -> int:
        return len(self.betas)

    def _table(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._tables:
            pair = (torch.from_numpy(self._alpha64), torch.from_numpy(self._sigma64))
            with torch.inference_mode(False):  # the tables outlive the caller's mode
                self._tables[device] = (pair[0].float().to(device), pair[1].float().to(device))
        return self._tables[device]

    def alpha(self, t: Tensor) -> Tensor:
        return self._table(t.device)[0][t]

    def sigma(self, t: Tensor) -> Tensor:
        return self._table(t.device)[1][t]

    def rates(self, alpha: Coefficient, sigma: Coefficient) -> tuple[Coefficient, Coefficient]:
        return -sigma, alpha

    def levels(self, times: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        index = np.asarray(times, np.float64)
        if not ((index >= 0) & (index < self.num_train_steps) & (index == np.floor(index))).all():
            raise ConfigError(f"times must be integers within 0..{self.num_train_steps - 1}, got {list(times)}")
        where = index.astype(np.int64)
        return self._alpha64[where], self._sigma64[where]

    def t_of_kappa(self, kappa: Tensor) -> tuple[Tensor, Tensor]:
        table = torch.from_numpy(self._sigma64 / self._alpha64).to(kappa.device)
        wanted = kappa.double()
        gaps = (table.log() - wanted.clamp(1e-300, 1e300).log()[..., None]).abs()
        t = gaps.argmin(-1)
        return t, log_distance(table[t], wanted)

    def grid(self, n_steps: int, spacing: str = "trailing") -> Tensor:
        return torch.from_numpy(discrete_grid(self.num_train_steps, n_steps, spacing))
