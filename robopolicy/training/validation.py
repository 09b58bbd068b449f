"""Open-loop action error on held-out windows, in the dataset's own units, for every step of the horizon.

Uses the averaged weights in eval mode and noise that depends only on the window, so that two checkpoints differ only
by their weights.  It ranks checkpoints of one run; it does not replace rollouts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from robopolicy.core.seeding import derive_seed
from robopolicy.core.specs import ACTION, ACTION_IS_PAD, CHAIN_IS_PAD
from robopolicy.training.batches import WindowSource, to_tensors

if TYPE_CHECKING:
    from robopolicy.policies.base import Policy

ROWS = 64


class OpenLoop:
    """``open_loop(policy)`` returns scalars: ``loss``, ``action_error`` (mean absolute, executed steps), one value a
    horizon step (``action_error_step_00`` ...) and one a channel (``action_error_<name>``).

    A recurrent policy acts through whole chains of windows, carrying its memory; it also gives the statistics of its
    gate (``gate_mean`` ...).
    """

    def __init__(self, windows: WindowSource, count: int, seed: int) -> None:
        """``count`` windows, or chains, spread evenly over ``windows``."""
        self.windows, self.seed = windows, seed
        self.indices = np.unique(np.linspace(0, len(windows) - 1, min(count, len(windows))).round().astype(np.int64))

    def __call__(self, policy: Policy) -> dict[str, float]:
        absolute, valid, losses, watched = [], [], [], []
        act = act_on_chains if getattr(policy, "recurrent", False) else act_on_windows
        for at in range(0, len(self.indices), ROWS):
            rows = self.indices[at : at + ROWS]
            data = self.windows.gather(rows)
            obs = {k: data[k] for k in policy.observation_spec.keys}
            absolute.append(np.abs(act(policy, obs, self.seed, rows) - data[ACTION]))
            valid.append(~np.asarray(data[ACTION_IS_PAD], bool))
            if CHAIN_IS_PAD in data:
                valid[-1] &= ~np.asarray(data[CHAIN_IS_PAD], bool)[..., None]
            loss, scalars = self._losses(policy, data, at)
            losses.append(loss)
            watched.append(scalars)
        layout = policy.action_spec.horizon, policy.action_spec.dim
        errors = summarise(
            policy,
            np.concatenate(absolute).reshape(-1, *layout),
            np.concatenate(valid).reshape(-1, layout[0]),
            np.concatenate(losses),
        )
        return errors | {key: float(np.mean([w[key] for w in watched])) for key in watched[0]}

    @torch.no_grad()
    def _losses(self, policy: Policy, data: dict[str, np.ndarray], at: int) -> tuple[np.ndarray, dict[str, float]]:
        rng = torch.Generator().manual_seed(derive_seed("noise", self.seed, at))
        device = next(policy.parameters()).device
        noise = {k: v.to(device) for k, v in policy.draw_training_noise(len(data[ACTION]), rng).items()}
        batch = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in to_tensors(data).items()}
        loss, scalars = policy.loss(batch, noise=noise)
        return np.asarray(loss.float().cpu()), {k: float(v) for k, v in scalars.items() if k != "loss"}


def act_on_windows(policy: Policy, obs: Mapping[str, Any], seed: int, rows: np.ndarray) -> np.ndarray:
    """Actions ``(B, H, D)`` for windows ``rows``; the noise follows from the window alone."""
    return policy.act(obs, noise_keys=[(seed, int(r)) for r in rows]).actions


def act_on_chains(policy: Policy, obs: Mapping[str, Any], seed: int, rows: np.ndarray) -> np.ndarray:
    """Actions ``(B, C, H, D)`` for chains ``rows``, window after window, each chain as an episode of its own."""
    names = [("chain", int(r)) for r in rows]
    policy.reset(names)
    actions = []
    for at in range(len(next(iter(obs.values()))[0])):
        window = {k: [chain[at] for chain in v] if isinstance(v, list) else v[:, at] for k, v in obs.items()}
        keys = [(seed, int(r), at) for r in rows]
        actions.append(policy.act(window, noise_keys=keys, episodes=names).actions)
    policy.reset(names)
    return np.stack(actions, axis=1)


def summarise(policy: Policy, absolute: np.ndarray, valid: np.ndarray, losses: np.ndarray) -> dict[str, float]:
    """Means of absolute errors ``(N, H, D)`` over the entries that are not padding (``valid`` ``(N, H)``)."""
    spec = policy.action_spec
    counts = np.maximum(valid.sum(0), 1)
    per_step = (absolute * valid[..., None]).sum(0) / counts[:, None]  # (H, D)
    scalars = {"loss": float(losses.mean()), "action_error": float(per_step[spec.exec_slice].mean())}
    scalars |= {f"action_error_step_{h:02d}": float(v) for h, v in enumerate(per_step.mean(1))}
    names = spec.space.names or tuple(str(d) for d in range(spec.dim))
    executed = per_step[spec.exec_slice].mean(0)
    return scalars | {f"action_error_{name}": float(v) for name, v in zip(names, executed, strict=True)}
