"""One entry of the frame cache on disk: its name, its lock, its files, and the check when it is opened."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import random
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.core.errors import DatasetError
from robopolicy.core.io import PARTIAL, atomic_directory, is_complete, sha256_file, write_atomic
from robopolicy.datasets.reader import Reader

log = logging.getLogger(__name__)

FORMAT = 1
BLOCK = 256  # rows a checksum covers, and the unit of decoding
FRAMES, META = "frames.u8", "meta.json"
# Bytes read back at every opening; the whole entry is read when it is smaller, or on ``verify=True``.
SAMPLE_BYTES = 64 * 2**20
# Takes the first row of a block and the block ``(<= BLOCK, 3, H, W)``.
Put = Callable[[int, np.ndarray], None]


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


def build_entry(path: Path, camera: str, shape: tuple[int, ...], decode: Callable[[Put], None]) -> None:
    """Write an entry of ``shape`` ``(N, 3, H, W)``; ``decode(put)`` calls ``put(first row, block)`` for every block.

    Raises ``DatasetError`` when the disk has no room, before writing or in the middle; nothing is left behind then.
    """
    row_bytes = int(np.prod(shape[1:]))
    total = shape[0] * row_bytes
    free = shutil.disk_usage(path.parent).free
    if total > 0.98 * free:
        raise DatasetError(
            f"{path.parent}: decoded frames of '{camera}' at {shape[2]}x{shape[3]} need {total / 1e9:.1f} GB, "
            f"{free / 1e9:.1f} GB are free; choose smaller images or another folder (ROBOPOLICY_CACHE)"
        )
    sums = [0] * -(-shape[0] // BLOCK)
    try:
        with atomic_directory(path, "frames") as aside:
            with open(aside / FRAMES, "wb") as file:

                def put(start: int, block: np.ndarray) -> None:
                    sums[start // BLOCK] = zlib.crc32(block.data)
                    _write_at(file.fileno(), block, start * row_bytes)

                decode(put)
            write_atomic(aside / META, json.dumps({"format": FORMAT, "camera": camera, "shape": shape, "crc32": sums}))
    except OSError as e:
        raise DatasetError(
            f"{path.parent}: writing decoded frames failed ({e}); free some room or choose another"
        ) from e


def _write_at(descriptor: int, block: np.ndarray, offset: int) -> None:
    view = block.data.cast("B")
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
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
