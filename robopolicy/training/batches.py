"""Micro-batches of a step: the rows and all the training noise are functions of (seed, step), whatever the ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from robopolicy.core.seeding import derive_seed, generator
from robopolicy.training.order import SampleOrder, share_of

NoiseDraw = Callable[[int, torch.Generator], dict[str, Tensor]]


class WindowSource(Protocol):
    """What training needs of ``datasets.windows.Windows`` and ``datasets.chains.ChainedWindows``."""

    def __len__(self) -> int: ...

    def gather(self, indices: np.ndarray, draws: np.ndarray | None = None) -> dict[str, Any]: ...


@dataclass(frozen=True)
class MicroBatch:
    """Rows of a global batch: ``batch`` in physical units (LeRobot keys), ``noise`` for exactly these rows."""

    batch: dict[str, Any]
    noise: dict[str, Tensor]
    rows: np.ndarray

    def to(self, device: torch.device) -> MicroBatch:
        """The same on ``device`` (asynchronous from pinned memory)."""
        if device.type == "cpu":
            return self
        batch = {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in self.batch.items()}
        noise = {k: v.to(device, non_blocking=True) for k, v in self.noise.items()}
        return MicroBatch(batch, noise, self.rows)

    def pinned(self) -> MicroBatch:
        """The same in page-locked memory, so that copies to a GPU overlap with work."""
        batch = {k: v.pin_memory() if isinstance(v, Tensor) else v for k, v in self.batch.items()}
        return MicroBatch(batch, {k: v.pin_memory() for k, v in self.noise.items()}, self.rows)


def to_tensors(arrays: dict[str, Any]) -> dict[str, Any]:
    """NumPy arrays as tensors that share their memory; strings and lists stay as they are."""
    return {
        k: torch.from_numpy(np.ascontiguousarray(v)) if isinstance(v, np.ndarray) and v.dtype.kind in "fiub" else v
        for k, v in arrays.items()
    }


class BatchSource:
    """``source(step)`` is this rank's list of micro-batches of that step.

    ``goals``: the windows draw goals at random; their draws are a function of (seed, step) too.
    """

    def __init__(
        self,
        windows: WindowSource,
        draw_noise: NoiseDraw,
        batch_size: int,
        seed: int,
        *,
        rank: int = 0,
        world: int = 1,
        accumulation: int = 1,
        pin: bool = False,
        goals: bool = False,
    ) -> None:
        self.windows, self.draw_noise, self.pin, self.goals = windows, draw_noise, pin, goals
        self.order = SampleOrder(len(windows), batch_size, seed)
        self.slices = share_of(rank, world, accumulation, batch_size)
        self.seed = seed

    def noise(self, step: int) -> dict[str, Tensor]:
        """Noise of the whole global batch of ``step``, drawn on the CPU so that it is the same for every device."""
        rng = torch.Generator().manual_seed(derive_seed("train", self.seed, step))
        return self.draw_noise(self.order.batch_size, rng)

    def goal_draws(self, step: int) -> np.ndarray | None:
        """Numbers ``(batch_size,)`` in [0, 1) that choose the goals of the whole global batch of ``step``."""
        return generator("goal", self.seed, step).random(self.order.batch_size) if self.goals else None

    def __call__(self, step: int) -> list[MicroBatch]:
        indices = self.order.indices(step)
        noise = self.noise(step)
        mine = slice(self.slices[0].start, self.slices[-1].stop)
        draws = self.goal_draws(step)
        rows = indices[mine]
        data = to_tensors(self.windows.gather(rows) if draws is None else self.windows.gather(rows, draws[mine]))
        micro = []
        for part in self.slices:
            at = slice(part.start - mine.start, part.stop - mine.start)
            batch = MicroBatch(
                {k: v[at] for k, v in data.items()}, {k: v[part] for k, v in noise.items()}, indices[part]
            )
            micro.append(batch.pinned() if self.pin else batch)
        return micro
