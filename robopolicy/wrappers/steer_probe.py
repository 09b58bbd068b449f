"""Does choosing the latent change what the policy does, and does the policy bear the chosen kind of latent?

Source: the project's policy interface, section 8.4 and condition C3, and its notes on DSRL, section 6.
Two questions before a noise actor is trained: ``sensitivity`` asks the decoder alone (a few observations, four
decodings) and warns where whole basins of latents give one action, as gradient descent on an energy does;
``check_mapped_success`` compares success under mapped latents with success under independent ones, both measured by
the run, and refuses where the map itself breaks the policy.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robopolicy.core.errors import ConfigError, PolicyInterfaceError
from robopolicy.policies.acting import Acting
from robopolicy.wrappers.latent_maps import LatentMap

INSENSITIVE = 0.05  # mean |da/dw| below this share of the chunks' deviation
STEP = 1e-2


class LatentInsensitivityWarning(UserWarning):
    """Most latents decode to (nearly) the same chunk: there is little to steer."""


class PriorMismatchWarning(UserWarning):
    """Unit-normal latents are not what the decoder was trained to start from."""


@dataclass(frozen=True)
class Sensitivity:
    """``spread``: deviation between chunks of two latents, in deviations of the chunks; ``slope``: mean ``|da/dw|``
    by finite differences, in the same unit; ``std``: deviation of the chunks in model space."""

    spread: float
    slope: float
    std: float


@torch.no_grad()
def sensitivity(policy: Acting, ctx: Any, latent_map: LatentMap | None = None, seed: int = 0) -> Sensitivity:
    """How much the latent moves the chunks of encoded observations ``ctx``; deterministic in ``seed``."""
    draws = torch.Generator().manual_seed(seed)
    rows = ctx.batch_size
    if latent_map is None:
        shape = tuple(policy.latent_shape)
        one, two, sign = (torch.randn((rows, *shape), generator=draws).to(policy.device) for _ in range(3))
        near = one + STEP * sign.sign()
    else:
        drawn = (torch.randn((rows, latent_map.dim), generator=draws).to(policy.device) for _ in range(3))
        tape = latent_map.draw_tape(rows, draws)
        tape = None if tape is None else tape.to(policy.device)
        first, second, sign = drawn
        one, two = latent_map(first, tape), latent_map(second, tape)
        near = latent_map(first + STEP * sign.sign(), tape)
    a, b, c = (policy.decode(ctx, latent).double() for latent in (one, two, near))
    std = float(torch.cat([a, b]).std().clamp(min=1e-9))
    return Sensitivity(float((a - b).std()) / std, float((c - a).abs().mean()) / STEP / std, std)


def warn_if_insensitive(policy: Acting, ctx: Any, latent_map: LatentMap | None = None) -> Sensitivity:
    """``sensitivity``; ``LatentInsensitivityWarning`` where the slope is below 5 % of the chunks' deviation."""
    found = sensitivity(policy, ctx, latent_map)
    if found.slope < INSENSITIVE:
        warnings.warn(
            f"the chunks of {type(policy).__name__} hardly follow their latents (mean |da/dw| is {found.slope:.2g} of "
            f"their deviation, two latents differ by {found.spread:.2g}): many latents give one chunk, and an actor in "
            "latent space can only choose between basins; rank samples with a critic instead, or descend fewer steps",
            LatentInsensitivityWarning,
            stacklevel=2,
        )
    return found


def check_prior(policy: Acting) -> None:
    """``PriorMismatchWarning`` where some channel's noisiest level is far from pure noise (3D Diffuser Actor)."""
    kappa = noisiest(policy)
    if kappa is not None and float(kappa.min()) < 2.0:
        warnings.warn(
            f"{type(policy).__name__} decodes from unit-normal latents, but in {int((kappa < 2).sum())} of "
            f"{kappa.numel()} channels its training went no further than a noise ratio of {float(kappa.min()):.2f}: "
            "there latents begin outside what the network has seen; keep the bound small",
            PriorMismatchWarning,
            stacklevel=3,
        )


def noisiest(policy: Acting) -> Tensor | None:
    """Noise ratio (a channel) at the first time that the decoder visits; None where there are no levels."""
    times = getattr(policy, "times", None)
    if times is None or not hasattr(policy.path, "kappa"):
        return None
    return torch.as_tensor(policy.path.kappa(times[:1])).double().flatten()


def check_mapped_success(base: tuple[int, int], mapped: tuple[int, int], kind: str) -> None:
    """Refuse a map under which the base policy succeeds less; both are ``(successes, episodes)``.

    The difference counts when a one-sided two-proportion test is beyond 2.33 deviations (1 %): with 20 episodes each,
    20 against 14.  Raises ``PolicyInterfaceError``, or ``ConfigError`` for counts that are none.
    """
    for wins, episodes in (base, mapped):
        if episodes < 1 or not 0 <= wins <= episodes:
            raise ConfigError(f"successes and episodes must be 0..n and n >= 1, got {wins} of {episodes}")
    (k1, n1), (k2, n2) = base, mapped
    pooled = (k1 + k2) / (n1 + n2)
    deviation = math.sqrt(pooled * (1 - pooled) * (1 / n1 + 1 / n2))
    if deviation > 0 and (k1 / n1 - k2 / n2) / deviation > 2.33:
        raise PolicyInterfaceError(
            f"the base policy succeeds in {k2} of {n2} episodes with latents of map '{kind}', and in {k1} of {n1} with "
            "independent ones: the map itself breaks it; use latent_map full, or a basis of higher rank"
        )
