"""Frames of one camera decoded once and kept as uint8 at the policy's resolution, memory-mapped.

Source: none; decoding per sample is what makes video datasets slow to train from.  An entry is named by the content of
its source files, the episodes and the size, so a dataset that moved finds its frames and one that changed does not.
Entries appear by one rename, after a lock that concurrent processes wait on, and are checked when opened.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from robopolicy.core.errors import DatasetError
from robopolicy.datasets.cache_entry import BLOCK, Put, build_entry, entry_name, locked, open_entry
from robopolicy.datasets.reader import Reader
from robopolicy.datasets.video import VideoStore

log = logging.getLogger(__name__)


def default_directory() -> Path:
    """``$ROBOPOLICY_CACHE``, else ``~/.cache/robopolicy``."""
    return Path(os.environ.get("ROBOPOLICY_CACHE", "~/.cache/robopolicy")).expanduser()


class FrameCache:
    """All frames of ``camera`` in the reader's episodes: ``frames`` is ``(N, 3, H, W)`` uint8, row for row.

    Args:
        size: (height, width) to keep; the recorded size when None.
        directory: where entries live, ``default_directory()`` when None.
        in_memory: decode into RAM and write nothing.
        progress: show a bar with the remaining time on a terminal.
        verify: compare every block with its checksum at opening, instead of a sample of 64 MiB.

    Raises ``DatasetError`` when frames are missing or damaged, or when the disk has no room.
    """

    def __init__(
        self,
        reader: Reader,
        camera: str,
        size: tuple[int, int] | None = None,
        directory: str | Path | None = None,
        *,
        in_memory: bool = False,
        progress: bool = True,
        verify: bool = False,
    ) -> None:
        self.camera = camera
        if camera not in reader.camera_keys:
            raise DatasetError(f"{reader.root}: no camera '{camera}'; known: {', '.join(reader.camera_keys) or 'none'}")
        height, width = size or reader.features[camera].shape[1:]
        self.size = (int(height), int(width))
        self.shape = (reader.num_frames, 3, *self.size)
        if in_memory:
            self.path: Path | None = None
            self.frames = np.empty(self.shape, np.uint8)
            decode_blocks(reader, camera, self.size, progress, self._keep)
            self.frames.flags.writeable = False
            return
        folder = Path(directory).expanduser() if directory is not None else default_directory()
        self.path = folder / "frames" / entry_name(reader, camera, self.size, folder)
        with locked(self.path):
            frames = open_entry(self.path, self.shape, verify)
            if frames is None:
                decode = functools.partial(decode_blocks, reader, camera, self.size, progress)
                build_entry(self.path, camera, self.shape, decode)
                frames = open_entry(self.path, self.shape, verify)
        if frames is None:
            raise DatasetError(f"{self.path}: just written and already damaged; check the disk")
        self.frames = frames

    def _keep(self, start: int, block: np.ndarray) -> None:
        self.frames[start : start + len(block)] = block


def decode_blocks(reader: Reader, camera: str, size: tuple[int, int], progress: bool, put: Put) -> None:
    """Decode every row in blocks, on several threads, each with its own containers, and hand the blocks to ``put``."""
    from tqdm.auto import tqdm

    mine = threading.local()
    pictures = threading.Lock() if reader.features[camera].storage == "image" else contextlib.nullcontext()

    def decode(start: int) -> int:
        if not hasattr(mine, "videos"):
            mine.videos = VideoStore(reader.fps, max_open=2)
        rows = np.arange(start, min(start + BLOCK, reader.num_frames))
        with pictures:  # tables are read through one shared buffer
            block = reader.decode(camera, rows, size, mine.videos)
        put(start, block)
        return len(rows)

    log.info("decoding %d frames of %s to %dx%d", reader.num_frames, camera, *size)
    starts = range(0, reader.num_frames, BLOCK)
    with (
        tqdm(
            total=reader.num_frames,
            unit="frame",
            desc=f"decoding {camera} ({size[0]}x{size[1]})",
            disable=None if progress else True,
        ) as bar,
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
    ):
        try:
            for done in pool.map(decode, starts):
                bar.update(done)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
