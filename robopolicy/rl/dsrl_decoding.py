"""The frozen policy at observations of the replay: contexts, and the actions that latents decode to.

Source: DSRL (arXiv 2506.15799), noise aliasing: every update decodes next actions and distillation actions.  Differs:
actions are those that would be executed (the chunk's executed part, clipped to the action space), in the base's model
space; what an earlier update of the same block decoded may be used again (``RowMemory``), since the base never changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robopolicy.core.errors import ConfigError, MissingCapability
from robopolicy.core.specs import TASK, ActionSpace, ChannelKind, FeatureKind
from robopolicy.policies.acting import Acting
from robopolicy.wrappers.latent_maps import LatentMap


class ReplayDecoder(nn.Module):
    """``base`` as a function of replay observations and latents; ``k * D`` numbers an action.  Never any gradient."""

    low: Tensor
    high: Tensor
    active: Tensor

    def __init__(self, base: Acting, latent_map: LatentMap, task: str | None = None, rows_at_once: int = 512) -> None:
        super().__init__()
        self._base = (base,)  # in a tuple: its weights are nobody's to save or to train here
        self.map, self.task, self.rows_at_once = latent_map, task, rows_at_once
        space = base.action_spec.space
        self.register_buffer("low", _bound(space, space.low, -np.inf).to(base.device), persistent=False)
        self.register_buffer("high", _bound(space, space.high, np.inf).to(base.device), persistent=False)
        real = torch.tensor([kind is not ChannelKind.PADDING for kind in space.channel_kinds], device=base.device)
        self.register_buffer("active", (real * base.norm.free).float(), persistent=False)

    @property
    def policy(self) -> Acting:
        """The frozen policy."""
        return self._base[0]

    @property
    def width(self) -> int:
        """Numbers of an action: ``k * D``."""
        return self.policy.action_spec.n_action_steps * self.policy.action_spec.dim

    @torch.no_grad()
    def context(self, obs: Mapping[str, Any]) -> Any:
        """The base's encoding of ``obs`` ``(B, n_obs_steps, ...)``, physical."""
        shown = {key: obs[key] for key in self.policy.observation_spec.keys if key in obs}
        if TASK in self.policy.observation_spec and TASK not in shown:
            rows = len(next(iter(shown.values())))
            shown[TASK] = [[self.task] * self.policy.action_spec.n_obs_steps] * rows
        return self.policy._encode(self.policy.checker.check(shown, values=False))

    def executed(self, actions: Tensor) -> Tensor:
        """Physical actions ``(B, k, D)`` as the critic reads them, ``(B, k * D)``."""
        physical = actions.to(self.low.device).clamp(self.low, self.high)
        return (self.policy.norm.to_model(physical) * self.active).flatten(1)

    @torch.no_grad()
    def actions(self, ctx: Any, numbers: Tensor, draws: torch.Generator | None = None) -> Tensor:
        """Executed actions ``(N, k * D)`` of ``numbers`` ``(N, L)``; ``draws``: for the tape of an additive map."""
        tape = self.map.draw_tape(len(numbers), draws)
        latent = self.map(numbers, None if tape is None else tape.to(numbers.device))
        parts = []
        for start in range(0, len(latent), self.rows_at_once):
            here = torch.arange(start, min(start + self.rows_at_once, len(latent)), device=latent.device)
            piece = ctx if len(here) == len(latent) else ctx.index_select(here)
            parts.append(self.policy.decode(piece, latent[here]))
        chunks = torch.cat(parts)[:, self.policy.action_spec.exec_slice]
        return self.executed(self.policy.norm.to_phys(chunks))


def _bound(space: ActionSpace, values: tuple[float, ...] | None, default: float) -> Tensor:
    return torch.tensor(values if values is not None else [default] * space.dim, dtype=torch.float32)


def check_askable(base: Acting, task: str | None) -> None:
    """Raise ``MissingCapability`` or ``ConfigError`` where ``base`` cannot be asked again at a stored observation."""
    if base.recurrent:
        raise MissingCapability(
            f"{type(base).__name__} carries a memory that the replay does not store, so it cannot decode there again; "
            "use variant: sac with features: own"
        )
    if base.observation_spec.of_kind(FeatureKind.GOAL):
        raise MissingCapability(
            f"{type(base).__name__} is told goals that the replay does not store; use variant: sac with features: own"
        )
    if TASK in base.observation_spec and task is None:
        raise ConfigError("the base policy reads a sentence, which the replay does not store; give it as dsrl.task")


class RowMemory:
    """What was worked out for observations before, by their content; rows not met before are worked out together.

    ``Make`` gets the numbers of the missing rows and returns tensors ``(M, ...)``.
    """

    def __init__(self) -> None:
        self._row_of: dict[bytes, int] = {}
        self._kept: list[list[Tensor]] = []

    def clear(self) -> None:
        """Forget everything."""
        self._row_of.clear()
        self._kept.clear()

    def __len__(self) -> int:
        return len(self._row_of)

    def rows(
        self, names: list[bytes], wanted: np.ndarray, make: Callable[[Tensor], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """One row for each of ``names``; those not ``wanted`` ``(B,)`` bool are 0 if nobody has met them."""
        missing: dict[bytes, int] = {}
        for number, name in enumerate(names):
            if wanted[number] and name not in self._row_of:
                missing.setdefault(name, number)
        if missing:
            made = make(torch.tensor(list(missing.values())))
            for name in missing:
                self._row_of[name] = len(self._row_of)
            self._kept.append(list(made))
            self._join()
        if not self._kept:
            return make(torch.arange(len(names)))
        found = torch.tensor([self._row_of.get(name, -1) for name in names])
        kept = self._kept[0]
        known = (found >= 0).to(kept[0].device)
        where = found.clamp(min=0).to(kept[0].device)
        return tuple(part[where] * known.reshape(-1, *[1] * (part.ndim - 1)) for part in kept)

    def _join(self) -> None:
        if len(self._kept) > 1:
            self._kept = [[torch.cat(parts) for parts in zip(*self._kept, strict=True)]]


def row_names(obs: Mapping[str, Any]) -> list[bytes]:
    """A name for the content of each row of ``obs``, arrays ``(B, ...)``."""
    arrays = [np.ascontiguousarray(obs[key]) for key in sorted(obs)]
    rows = len(arrays[0])
    flat = [a.reshape(rows, -1).view(np.uint8) for a in arrays]
    return [hashlib.blake2b(b"".join(f[i].tobytes() for f in flat), digest_size=16).digest() for i in range(rows)]
