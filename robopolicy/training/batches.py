"""Micro-batches of a step: the rows and all the training noise are functions of (seed, step), whatever the ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from robopolicy.core.seeding import derive_seed
from robopolicy.training.order import SampleOrder, share_of

NoiseDraw = Callable[[int, torch.Generator], dict[str, Tensor]]


class WindowSource(Protocol):
    """What training needs of ``datasets.windows.Windows``."""

    def __len__(self) -> int: ...

    def gather(self, indices: np.ndarray) -> dict[str, Any]: ...


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
    """``source(step)`` is this rank's list of micro-batches of that step."""

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
    ) -> None:
        self.windows, self.draw_noise, self.pin = windows, draw_noise, pin
        self.order = SampleOrder(len(windows), batch_size, seed)
        self.slices = share_of(rank, world, accumulation, batch_size)
        self.seed = seed

    def noise(self, step: int) -> dict[str, Tensor]:
        """Noise of the whole global batch of ``step``, drawn on the CPU so that it is the same for every device."""
        rng = torch.Generator().manual_seed(derive_seed("train", self.seed, step))
        return self.draw_noise(self.order.batch_size, rng)

    def __call__(self, step: int) -> list[MicroBatch]:
        indices = self.order.indices(step)
        noise = self.noise(step)
        mine = slice(self.slices[0].start, self.slices[-1].stop)
        data = to_tensors(self.windows.gather(indices[mine]))
        micro = []
        for part in self.slices:
            rows = slice(part.start - mine.start, part.stop - mine.start)
            batch = MicroBatch(
                {k: v[rows] for k, v in data.items()}, {k: v[part] for k, v in noise.items()}, indices[part]
            )
            micro.append(batch.pinned() if self.pin else batch)
        return micro
