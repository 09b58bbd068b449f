"""Time grids: which noise levels a sampler visits, noisiest first.

Source: discrete spacings, Lin et al. 2023 (arXiv 2305.08891), table 2; noise-level grids, Karras et al. 2022
(arXiv 2206.00364), eq. 5, and its exponential (log-linear) and linear relatives.
Differs: every grid has exactly ``n_steps`` entries, all of them queried; the clean level is not an entry, samplers
append it.  The spacing is part of a decoder (a "leading" and a "trailing" DDIM are different maps): store it.
When to use: "trailing" starts at pure noise and is unbiased; "leading" is what older checkpoints were tuned with.
"""

from __future__ import annotations

import numpy as np

from robopolicy.core.errors import ConfigError, did_you_mean

DISCRETE_SPACINGS = ("leading", "trailing", "linspace")
NOISE_SPACINGS = ("karras", "exponential", "linear")


def check_spacing(spacing: str, known: tuple[str, ...]) -> None:
    """Raise ``ConfigError`` unless ``spacing`` is one of ``known``."""
    if spacing not in known:
        hint = did_you_mean(spacing, known) if isinstance(spacing, str) else ""
        raise ConfigError(f"unknown spacing {spacing!r}: expected one of {', '.join(known)}{hint}")


def check_steps(n_steps: int, most: int | None = None) -> None:
    """Raise ``ConfigError`` unless ``1 <= n_steps`` (``<= most``, the number of training steps, if given)."""
    if isinstance(n_steps, bool) or not isinstance(n_steps, (int, np.integer)) or n_steps < 1:
        raise ConfigError(f"the number of sampling steps must be an integer >= 1, got {n_steps!r}")
    if most is not None and n_steps > most:
        raise ConfigError(
            f"{n_steps} sampling steps asked of a schedule with {most} training steps; "
            f"lower num_inference_steps to at most {most}"
        )


def discrete_grid(num_train_steps: int, n_steps: int, spacing: str) -> np.ndarray:
    """Integer times ``(n_steps,)``, descending, within ``0..num_train_steps-1``.

    Raises ``ConfigError`` for an unknown spacing or a step count outside ``1..num_train_steps``.
    """
    check_spacing(spacing, DISCRETE_SPACINGS)
    check_steps(n_steps, num_train_steps)
    times: np.ndarray
    if spacing == "leading":
        times = np.arange(n_steps)[::-1] * (num_train_steps // n_steps)
    elif spacing == "trailing":
        # float arange on purpose: it settles ties (x.5) the way published checkpoints were sampled.
        times = np.round(np.arange(num_train_steps, 0, -num_train_steps / n_steps))[:n_steps] - 1
    elif n_steps == 1:
        times = np.array([num_train_steps - 1])  # a single step must start at pure noise, not at linspace's 0
    else:
        times = np.round(np.linspace(0, num_train_steps - 1, n_steps))[::-1]
    return times.astype(np.int64)


def noise_grid(sigma_min: float, sigma_max: float, n_steps: int, spacing: str, rho: float) -> np.ndarray:
    """Noise levels ``(n_steps,)`` float64 from ``sigma_max`` down to ``sigma_min``; one step visits ``sigma_max``.

    ``rho`` bends the "karras" grid (7 in the paper); the others ignore it.
    """
    check_spacing(spacing, NOISE_SPACINGS)
    check_steps(n_steps)
    ramp = np.linspace(0.0, 1.0, n_steps)
    if spacing == "karras":
        top, bottom = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
        return (top + ramp * (bottom - top)) ** rho
    if spacing == "exponential":
        return np.exp(np.log(sigma_max) + ramp * (np.log(sigma_min) - np.log(sigma_max)))
    return sigma_max + ramp * (sigma_min - sigma_max)
