"""Generated motions with pictures: the content of the tiny datasets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TASKS = ("reach the marker", "leave the marker")


@dataclass(frozen=True)
class TinyEpisode:
    """One generated episode: columns by key ``(L, D)`` and images by camera ``(L, H, W, 3)`` uint8."""

    columns: dict[str, np.ndarray]
    images: dict[str, np.ndarray]
    task_index: int

    @property
    def length(self) -> int:
        return len(self.columns["action"])


def tiny_episodes(
    episodes: int,
    length: int | Sequence[int],
    cameras: int,
    size: tuple[int, int],
    state_dim: int,
    seed: int,
    textured: bool = False,
) -> list[TinyEpisode]:
    """Smooth random motions; the action is the next state's first two values, and a square in the image shows them."""
    lengths = [length] * episodes if isinstance(length, int) else list(length)
    if len(lengths) != episodes:
        raise ValueError(f"{len(lengths)} lengths for {episodes} episodes")
    made = []
    for number, n in enumerate(lengths):
        rng = np.random.default_rng([seed, number])
        phase, rate = rng.uniform(0, 6.28, state_dim), rng.uniform(0.05, 0.2, state_dim)
        path = 0.8 * np.sin(phase + rate * np.arange(n + 1)[:, None])
        columns = {
            "observation.state": path[:-1].astype(np.float32),
            "action": path[1:, :2].astype(np.float32),
            "next.reward": (-np.abs(path[1:, :1])).astype(np.float32),
            "next.done": np.arange(1, n + 1)[:, None] == n,
        }
        images = {f"observation.images.cam{c}": _draw(path[:-1], size, c, textured) for c in range(cameras)}
        made.append(TinyEpisode(columns, images, number % len(TASKS)))
    return made


def _draw(path: np.ndarray, size: tuple[int, int], camera: int, textured: bool) -> np.ndarray:
    height, width = size
    side = max(4, min(size) // 4)
    frames = np.empty((len(path), height, width, 3), np.uint8)
    frames[...] = (40 + 30 * camera, 60, 90)
    if textured:
        frames += np.random.default_rng(camera).integers(0, 60, (height, width, 1), dtype=np.uint8)
    for t, values in enumerate(path):
        y = int((values[0] + 1) / 2 * (height - side))
        x = int((values[-1 if camera else 1] + 1) / 2 * (width - side))
        frames[t, y : y + side, x : x + side] = (220, 200 - 40 * camera, 60)
    return frames
