"""Known distributions of actions, and how far a trained head's samples are from them.

A head is trained on all targets at once, the observation saying which one is wanted, so that conditioning is tested
too.  When to use: a new head that claims to represent distributions should recover mean, spread and mode weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robopolicy.core.specs import ACTION, STATE
from robopolicy.policies.base import Policy


@dataclass(frozen=True)
class Mixture:
    """Equally wide Gaussians in the plane: ``means`` ``(M, 2)``, ``weights`` ``(M,)`` summing to 1, one ``std``."""

    means: np.ndarray
    weights: np.ndarray
    std: float

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """``(n, 2)`` float32 points."""
        centres = self.means[rng.choice(len(self.weights), size=n, p=self.weights)]
        return (centres + self.std * rng.standard_normal((n, 2))).astype(np.float32)


def _ring(modes: int, radius: float) -> np.ndarray:
    angle = 2 * np.pi * np.arange(modes) / modes
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


TARGETS: Mapping[str, Mixture] = {
    "gaussian": Mixture(np.array([[0.2, -0.3]]), np.array([1.0]), 0.2),
    "two modes": Mixture(np.array([[-0.5, 0.3], [0.5, -0.2]]), np.array([0.3, 0.7]), 0.1),
    "ring": Mixture(_ring(6, 0.6), np.full(6, 1 / 6), 0.07),
}


@dataclass(frozen=True)
class Fit:
    """Distance of samples from a target: ``mean`` and ``std`` are errors of the whole, relative to the true spread.

    ``weights``: largest error of a mode's weight; ``inside``: share of samples within 4 standard deviations of a mode;
    ``width``: mean spread within modes over the true one.
    """

    mean: float
    std: float
    weights: float
    inside: float
    width: float


def measure(samples: np.ndarray, target: Mixture) -> Fit:
    """Compare samples ``(n, 2)`` with a target."""
    centre = target.weights @ target.means
    spread = np.sqrt(target.std**2 + (target.weights @ ((target.means - centre) ** 2)).mean())
    offset = np.linalg.norm(samples.mean(0) - centre) / spread
    own = np.sqrt(samples.var(0).mean())
    distance = np.linalg.norm(samples[:, None] - target.means, axis=-1)
    nearest = distance.argmin(1)
    share = np.bincount(nearest, minlength=len(target.means)) / len(samples)
    residual = samples - target.means[nearest]
    inside = distance.min(1) < 4 * target.std
    width = np.sqrt((residual[inside] ** 2).mean()) / target.std if inside.any() else float("nan")
    return Fit(
        float(offset), float(abs(own / spread - 1)), float(np.abs(share - target.weights).max()),
        float(inside.mean()), float(width),
    )  # fmt: skip


def one_hot(index: int, n: int) -> dict[str, Tensor]:
    """Observations ``(n, 1, 3)`` that ask for target number ``index``."""
    state = torch.zeros(n, 1, len(TARGETS))
    state[:, 0, index] = 1.0
    return {STATE: state}


Observe = Callable[[int, int], Mapping[str, Any]]


def train_on_targets(
    policy: Policy, steps: int, batch: int = 384, lr: float = 2e-3, observe: Observe = one_hot, seed: int = 0
) -> None:
    """Fit ``policy`` (horizon 1, the first two action channels are the plane) to all targets; ends in eval mode.

    ``observe(index, n)`` gives the observations that ask for a target.  The weights end as an average over the last
    third of the steps, which is what evaluation uses elsewhere too.
    """
    torch.manual_seed(seed)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    rows = batch // len(TARGETS)
    obs = _stack([observe(i, rows) for i in range(len(TARGETS))])
    optimizer = torch.optim.AdamW(policy.optim_groups(lr, 1e-6))
    peaks = [group["lr"] for group in optimizer.param_groups]
    average = torch.optim.swa_utils.AveragedModel(policy, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))
    policy.train()
    for step in range(steps):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * min(1.0, (step + 1) / 50) * 0.5 * (1 + np.cos(np.pi * step / steps))
        points = np.concatenate([t.sample(rows, rng) for t in TARGETS.values()])
        action = np.zeros((len(points), 1, policy.action_spec.dim), np.float32)
        action[:, 0, :2] = points
        loss, _ = policy.loss({**obs, ACTION: action}, policy.draw_training_noise(len(points), generator))
        optimizer.zero_grad()
        loss.mean().backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(policy)
    policy.load_state_dict(average.module.state_dict())
    policy.eval()


def samples_of(policy: Policy, name: str, n: int, observe: Observe = one_hot, seed: int = 1) -> np.ndarray:
    """``(n, 2)`` points that a trained policy draws for a target, from one encoding of the observation."""
    with torch.no_grad():
        ctx = policy.encode(observe(list(TARGETS).index(name), 1))
        chunks = policy.sample(ctx, n, torch.Generator().manual_seed(seed))
    return policy.norm.to_phys(chunks)[0, :, 0, :2].numpy()


def _stack(observations: list[Mapping[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key in observations[0]:
        values = [o[key] for o in observations]
        out[key] = torch.cat(values) if isinstance(values[0], Tensor) else [x for v in values for x in v]
    return out
