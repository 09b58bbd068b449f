"""Frames of one camera decoded once and kept as uint8 at the policy's resolution, memory-mapped.

Source: none; decoding per sample is what makes video datasets slow to train from.  An entry is named by the content of
its source files, the episodes and the size, so a dataset that moved finds its frames and one that changed does not.
Entries appear by one rename, after a lock that concurrent processes wait on, and are checked when opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import random
import shutil
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.core.errors import DatasetError
from robopolicy.core.io import PARTIAL, atomic_directory, is_complete, sha256_file, write_atomic
from robopolicy.datasets.reader import Reader
from robopolicy.datasets.video import VideoStore

log = logging.getLogger(__name__)

FORMAT = 1
BLOCK = 256  # rows a checksum covers, and the unit of decoding
FRAMES, META = "frames.u8", "meta.json"
# Bytes read back at every opening; the whole entry is read when it is smaller, or on ``verify=True``.
SAMPLE_BYTES = 64 * 2**20


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
            _decode_blocks(reader, camera, self.size, progress, self._keep)
            self.frames.flags.writeable = False
            return
        folder = Path(directory).expanduser() if directory is not None else default_directory()
        self.path = folder / "frames" / entry_name(reader, camera, self.size, folder)
        with _locked(self.path):
            frames = open_entry(self.path, self.shape, verify)
            if frames is None:
                _build(self.path, reader, camera, self.size, progress)
                frames = open_entry(self.path, self.shape, verify)
        if frames is None:
            raise DatasetError(f"{self.path}: just written and already damaged; check the disk")
        self.frames = frames

    def _keep(self, start: int, block: np.ndarray) -> None:
        self.frames[start : start + len(block)] = block


def entry_name(reader: Reader, camera: str, size: tuple[int, int], folder: Path) -> str:
    """Name of the entry: a hash of source contents, places in them, lengths and size."""
    known: dict[Path, str] = {}
    spans = []
    for episode in reader.episodes:
        for path, start, first in reader.frame_sources(camera, episode):
            if path not in known:
                known[path] = content_hash(path, folder)
            spans.append([known[path], round(start, 6), first, episode.length])
    body = {"format": FORMAT, "camera": reader.features[camera].source, "size": size, "fps": reader.fps, "spans": spans}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]


def content_hash(path: Path, folder: Path) -> str:
    """SHA-256 of a file, remembered in ``folder`` for as long as its size and modification time stay the same."""
    stat = path.stat()
    stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
    memo = folder / "hashes" / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]}.json"
    try:
        saved = json.loads(memo.read_text())
        if saved["stamp"] == stamp:
            return str(saved["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no memo, or one that was damaged: hash again
    digest = sha256_file(path)
    try:
        write_atomic(memo, json.dumps({"stamp": stamp, "sha256": digest}))
    except OSError as e:
        raise DatasetError(f"{folder}: the cache folder cannot be written ({e}); set ROBOPOLICY_CACHE") from e
    return digest


def open_entry(path: Path, shape: tuple[int, ...], verify: bool = False) -> np.ndarray | None:
    """Frames of a finished entry, read-only; None when it is absent, or damaged (which is logged)."""
    if not is_complete(path):
        return None
    try:
        meta = json.loads((path / META).read_text())
        sums = [int(s) for s in meta["crc32"]]
        if tuple(meta["shape"]) != shape or len(sums) != -(-shape[0] // BLOCK):
            raise ValueError("another shape than expected")
        frames = np.memmap(path / FRAMES, np.uint8, "r", shape=shape)
        if (path / FRAMES).stat().st_size != frames.nbytes:
            raise ValueError("another size than expected")
        _check_blocks(frames, sums, verify)
    except (OSError, ValueError, KeyError, TypeError) as e:
        log.warning("%s: damaged frame cache (%s), decoding again", path, e)
        return None
    return np.asarray(frames)


def _check_blocks(frames: np.ndarray, sums: list[int], verify: bool) -> None:
    blocks = list(range(len(sums)))
    affordable = max(2, SAMPLE_BYTES // max(1, BLOCK * frames[:1].nbytes))
    if not verify and len(blocks) > affordable:
        # Truncation shows at the end and in the size; what else goes wrong can be anywhere.
        blocks = [blocks[-1], *random.sample(blocks[:-1], affordable - 1)]
    for block in blocks:
        if zlib.crc32(frames[block * BLOCK : (block + 1) * BLOCK].data) != sums[block]:
            raise ValueError(f"rows from {block * BLOCK} differ from their checksum")


def _build(path: Path, reader: Reader, camera: str, size: tuple[int, int], progress: bool) -> None:
    row_bytes = 3 * size[0] * size[1]
    total = reader.num_frames * row_bytes
    free = shutil.disk_usage(path.parent).free
    if total > 0.98 * free:
        raise DatasetError(
            f"{path.parent}: decoded frames of '{camera}' at {size[0]}x{size[1]} need {total / 1e9:.1f} GB, "
            f"{free / 1e9:.1f} GB are free; choose smaller images or another folder (ROBOPOLICY_CACHE)"
        )
    sums = [0] * -(-reader.num_frames // BLOCK)
    try:
        with atomic_directory(path, "frames") as aside:
            with open(aside / FRAMES, "wb") as file:

                def write(start: int, block: np.ndarray) -> None:
                    sums[start // BLOCK] = zlib.crc32(block.data)
                    _write_at(file.fileno(), block, start * row_bytes)

                _decode_blocks(reader, camera, size, progress, write)
            meta = {"format": FORMAT, "camera": camera, "shape": [reader.num_frames, 3, *size], "crc32": sums}
            write_atomic(aside / META, json.dumps(meta))
    except OSError as e:
        raise DatasetError(
            f"{path.parent}: writing decoded frames failed ({e}); free some room or choose another"
        ) from e


def _write_at(descriptor: int, block: np.ndarray, offset: int) -> None:
    view = block.data.cast("B")
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _decode_blocks(
    reader: Reader, camera: str, size: tuple[int, int], progress: bool, put: Callable[[int, np.ndarray], None]
) -> None:
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


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the entry's lock, so that of several processes one decodes and the others wait; remove dead leftovers."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock: Any = open(path.with_suffix(".lock"), "a")  # noqa: SIM115
    except OSError as e:
        raise DatasetError(f"{path.parent}: the cache folder cannot be written ({e}); set ROBOPOLICY_CACHE") from e
    with lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        except ImportError:  # no such locks on Windows; the rename keeps concurrent writers apart there
            pass
        else:
            for leftover in path.parent.glob(f"{PARTIAL}{path.name}-*"):
                shutil.rmtree(leftover, ignore_errors=True)
        yield
