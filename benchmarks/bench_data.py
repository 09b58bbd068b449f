"""Data loading: ours against ``LeRobotDataset`` + ``DataLoader`` (pyav back end), on the same files in one process.

* first batch: open the dataset and gather one batch (ours with the frame cache present, and for tables alone).
* cold: a batch of samples decoded where they lie, no cache on either side.
* build: what decoding everything once costs a frame, against their decoding of one sample's frames.
* warm: a shuffled batch from the cache, against their loader's batch; with images as uint8, and as float in 0..1.

Their dataset was opened before the first round, so their Arrow cache is warm; their import is not counted.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from common import arguments, duel, finish

from robopolicy.datasets.reader import Reader
from robopolicy.datasets.windows import Windows
from robopolicy.testing.datasets import make_tiny_dataset

N_OBS, HORIZON, N_ACT = 2, 16, 8


@dataclass
class Case:
    """One dataset, opened by both sides."""

    name: str
    root: Path
    cache: Path
    batch: int
    workers: int

    def open_ours(self, images: bool = True) -> Windows:
        reader = Reader(self.root)
        spec = reader.observation_spec()
        if not images:
            spec = spec.select([k for k in spec.keys if k not in reader.camera_keys])
        return Windows(reader, spec, N_OBS, HORIZON, N_ACT, cache_dir=self.cache, progress=False)

    def open_theirs(self, images: bool = True) -> Any:
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        reader = Reader(self.root)
        observed = [k for k in reader.observation_spec().keys if images or k not in reader.camera_keys]
        deltas = {k: [d / reader.fps for d in range(1 - N_OBS, 1)] for k in observed}
        deltas["action"] = [d / reader.fps for d in range(1 - N_OBS, 1 - N_OBS + HORIZON)]
        dataset = LeRobotDataset("local/set", root=self.root, delta_timestamps=deltas, video_backend="pyav")
        if not images:
            dataset.meta.info["features"] = {
                k: v for k, v in dataset.meta.info["features"].items() if v["dtype"] != "video"
            }
        return dataset

    def loader(self, dataset: Any, workers: int) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(dataset, self.batch, shuffle=True, num_workers=workers)


def batches(loader: torch.utils.data.DataLoader) -> Callable[[], Any]:
    """A call that takes the next batch of an endless loader, so that worker start-up is not counted."""

    def endless() -> Iterator[Any]:
        while True:
            yield from loader

    stream = endless()
    return lambda: next(stream)


def to_tensors(batch: dict[str, np.ndarray], as_float: bool) -> dict[str, torch.Tensor]:
    """Tensors of a batch; images in 0..1 when ``as_float`` (what their dataset returns)."""
    tensors = {k: torch.from_numpy(v) for k, v in batch.items()}
    if as_float:
        tensors = {k: v.float().div_(255) if v.dtype == torch.uint8 else v for k, v in tensors.items()}
    return tensors


def decode_cold(case: Case, windows: Windows, rng: np.random.Generator) -> Callable[[], None]:
    """Decode a random batch's frames straight from the videos, tables included."""
    reader = Reader(case.root)

    def run() -> None:
        chosen = rng.choice(len(windows), case.batch, replace=False)
        rows = np.maximum(
            windows.anchors.row[chosen, None] + np.arange(1 - N_OBS, 1), windows.anchors.first[chosen, None]
        )
        tensors = {
            k: torch.from_numpy(reader.frames(k, rows.reshape(-1))).float().div_(255) for k in reader.camera_keys
        }
        assert len(tensors) == len(reader.camera_keys)

    return run


def build_cost(case: Case) -> dict[str, float]:
    """Seconds to decode the whole dataset into a fresh cache, a frame and in all."""
    with tempfile.TemporaryDirectory(dir=case.cache) as fresh:
        reader = Reader(case.root)
        start = perf_counter()
        windows = Windows(reader, reader.observation_spec(), N_OBS, HORIZON, N_ACT, cache_dir=fresh, progress=False)
        seconds = perf_counter() - start
    frames = reader.num_frames * len(reader.camera_keys)
    return {"build_s": seconds, "build_ms_per_frame": 1e3 * seconds / frames, "windows": len(windows), "frames": frames}


def measure(case: Case, quick: bool) -> list[dict[str, Any]]:
    """All rows of one dataset; each side's times are per batch of ``case.batch``."""
    rng = np.random.default_rng(0)
    facts = {"batch": case.batch, **build_cost(case)}
    windows, theirs = case.open_ours(), case.open_theirs()
    few = 2 if quick else 9
    alone = batches(case.loader(theirs, 0))
    rows = [
        duel(
            f"{case.name}: cold batch, no cache",
            decode_cold(case, windows, rng),
            alone,
            rounds=few,
            repeats=1,
            warmup=1,
            goal=">= 1",
            **facts,
        )
    ]
    for as_float in (True, False):
        ours = lambda as_float=as_float: to_tensors(windows.gather(rng.integers(0, len(windows), case.batch)), as_float)
        for workers in (0, case.workers):
            their_batch = alone if workers == 0 else batches(case.loader(theirs, workers))
            rows.append(
                duel(
                    f"{case.name}: warm batch {'float' if as_float else 'uint8'}, their workers {workers}",
                    ours,
                    their_batch,
                    rounds=few,
                    repeats=2,
                    goal=">= 20",
                    batch=case.batch,
                )
            )
        rows[-1]["ours_ms_per_sample"] = rows[-1]["ours_ms"] / case.batch
    rows += first_batches(case, few)
    return rows


def first_batches(case: Case, rounds: int) -> list[dict[str, Any]]:
    """Open and take one batch, cache present."""
    index = np.arange(case.batch)

    def theirs(images: bool) -> None:
        next(iter(case.loader(case.open_theirs(images), 0)))

    return [
        duel(
            f"{case.name}: first batch, {what}",
            lambda images=images: to_tensors(case.open_ours(images).gather(index), True),
            lambda images=images: theirs(images),
            rounds=rounds,
            repeats=1,
            warmup=1,
            goal=">= 3",
        )
        for what, images in (("images (cache present)", True), ("tables only", False))
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--pusht", type=Path, help="folder of the PushT dataset; measured too when given")
    parser.add_argument("--workers", type=int, default=min(14, os.cpu_count() or 1), help="workers of their loader")
    parser.add_argument("--batch", type=int, default=16)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "two_cameras"
        episodes, length = (6, 30) if args.quick else (50, 40)
        make_tiny_dataset(
            root, "v3.0", episodes, length, 2, (240, 320), codec="libsvtav1", episodes_per_file=25, textured=True
        )
        rows += measure(Case("2 x 240x320", root, Path(scratch), args.batch, args.workers), args.quick)
        if args.pusht is not None:
            rows += measure(Case("PushT 96x96", args.pusht, Path(scratch), args.batch, args.workers), args.quick)
    finish(rows, args.out)


if __name__ == "__main__":
    main()
