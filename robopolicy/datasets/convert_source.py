"""What the converter reads from: a format is a ``Source`` that says its specs and yields whole episodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from robopolicy.core.errors import DatasetError
from robopolicy.core.specs import ActionSpace, ObservationSpec
from robopolicy.datasets.hashing import hash_arrays


@dataclass
class SourceEpisode:
    """One episode in memory: ``obs`` (T, ...) float32 and images (T, 3, H, W) uint8 by key, ``action`` (T, D) float32.

    ``extras`` are further per-frame values (T, ...) by full name, ``videos`` existing mp4 files to take over as they
    are, ``meta`` scalars for the episode table.
    """

    name: str
    obs: dict[str, np.ndarray]
    action: np.ndarray
    tasks: list[str]
    extras: dict[str, np.ndarray] = field(default_factory=dict)
    videos: dict[str, Path] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.action)

    def images(self) -> dict[str, np.ndarray]:
        """The image arrays among ``obs``."""
        return {k: v for k, v in self.obs.items() if v.dtype == np.uint8}

    def numbers(self) -> dict[str, np.ndarray]:
        """Everything that must come back bit for bit: all but images and text, each (T, ...)."""
        arrays = {k: v for k, v in {**self.obs, **self.extras, "action": self.action}.items() if v.dtype.kind in "fib"}
        return {k: v.reshape(len(self), -1) for k, v in arrays.items()}

    def hash(self) -> str:
        """Hash of ``numbers`` and tasks."""
        return hash_arrays({**self.numbers(), "task": np.array(self.tasks)})


class Source(Protocol):
    """A dataset in another format; ``exact_images``: its pictures are lossless and must stay so."""

    fps: float
    robot_type: str | None
    observation_spec: ObservationSpec
    action_space: ActionSpace
    extras: dict[str, Any]
    origin: Mapping[str, Any]
    exact_images: bool
    num_episodes: int

    def episodes(self) -> Iterator[SourceEpisode]:
        """All episodes in order; may be called again."""
        ...


def as_images(values: np.ndarray, where: str) -> np.ndarray:
    """(T, H, W, 3) of any usual dtype as (T, 3, H, W) uint8; floats must be 0..1 or whole numbers 0..255."""
    if values.dtype != np.uint8:
        whole = np.round(values)
        if values.min() < 0 or values.max() > 255 or not np.isfinite(values).all():
            raise DatasetError(f"{where}: pixel values {values.min()}..{values.max()}, expected 0..255 or 0..1")
        if values.max() > 1 and not np.array_equal(whole, values):
            raise DatasetError(f"{where}: pixels above 1 that are no whole numbers; scale the images to uint8 first")
        values = (whole if values.max() > 1 else np.round(values * 255)).astype(np.uint8)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def as_float32(values: np.ndarray, where: str) -> np.ndarray:
    """Rows flattened to (T, D) float32; raises ``DatasetError`` naming the first non-finite row."""
    flat = np.asarray(values).reshape(len(values), -1).astype(np.float32)
    if not np.isfinite(flat).all():
        row = int(np.flatnonzero(~np.isfinite(flat).all(1))[0])
        raise DatasetError(f"{where}: NaN or infinity at step {row}; remove the episode from the source first")
    return flat
