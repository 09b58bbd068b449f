"""Bytes to files by a thread of its own, so that whoever has a deadline never waits for a disk.

``put`` only appends to a queue in memory.  The thread writes what is there ten times a second, in the order of
``FILES`` (a row refers to lines, so lines go first), and flushes to the disk once a second.  A write that fails, or a
queue that grows beyond its bound because the disk is too slow, ends the recording: it is marked, nothing else happens.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from robopolicy.core import io
from robopolicy.real_robot.log.lines import CHUNKS, EVENTS, TICKS

FILES = (EVENTS, CHUNKS, TICKS)
END = "end.json"
LIMIT = 16 << 20  # bytes waiting in memory above which the disk is too slow: three minutes of ticks
PERIOD, SYNC = 0.1, 1.0  # s between writes, and between flushes to the disk


class RawFile(Protocol):
    """What is needed of a file."""

    def write(self, data: memoryview, /) -> int | None:
        """Write some of ``data``; how many bytes it was."""
        ...

    def fileno(self) -> int:
        """For the flush to the disk."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


def append_to(path: Path) -> RawFile:
    """The file, opened to append, without a buffer of Python's own."""
    return open(path, "ab", buffering=0)


class LogWriter:
    """See the module.  ``open_file`` and ``limit`` are parameters for tests."""

    def __init__(self, folder: Path, limit: int = LIMIT, open_file: Callable[[Path], RawFile] = append_to) -> None:
        self.folder, self.limit = folder, limit
        self.ended = ""
        self._lock = threading.Lock()
        self._waiting: dict[str, list[bytes]] = {name: [] for name in FILES}
        self._size = 0
        self._stop, self._facts = threading.Event(), dict[str, Any]()
        self._files = {name: open_file(folder / name) for name in FILES}
        self._thread = threading.Thread(target=self._run, name="run-log", daemon=True)
        self._thread.start()

    def put(self, name: str, data: bytes) -> None:
        """Queue ``data`` for the end of the file ``name``; never waits, and does nothing once the recording ended."""
        with self._lock:
            if self.ended or self._stop.is_set():
                return
            self._size += len(data)
            if self._size <= self.limit:
                self._waiting[name].append(data)
                return
        self.end(f"the disk is too slow: {self._size / 2**20:.1f} MiB were waiting to be written")

    def end(self, why: str) -> None:
        """End the recording for a reason; the first one counts."""
        with self._lock:
            if not self.ended:
                self.ended = why
                self._drop()

    def _drop(self) -> None:
        for blocks in self._waiting.values():
            blocks.clear()
        self._size = 0

    def close(self, wait: float = 5.0, **facts: Any) -> bool:
        """Write what is queued, mark the end (``facts`` go into the mark) and stop; false if the disk did not answer
        within ``wait`` seconds."""
        self._facts = facts
        self._stop.set()
        self._thread.join(wait)
        return not self._thread.is_alive()

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._write_until_the_end()
        except OSError as e:
            self.end(f"the log could not be written: {e}")
        for file in self._files.values():
            with contextlib.suppress(OSError):
                file.close()
        with contextlib.suppress(OSError):  # a full disk takes no mark either; without one the log counts as cut
            mark = {"complete": not self.ended, "why": self.ended, **self._facts}
            io.write_atomic(self.folder / END, json.dumps(mark, default=str))

    def _write_until_the_end(self) -> None:
        synced = time.monotonic()
        while not self.ended:
            last = self._stop.wait(PERIOD)
            self._drain()
            if last or time.monotonic() - synced >= SYNC:
                for file in self._files.values():
                    os.fsync(file.fileno())
                synced = time.monotonic()
            if last:
                return

    def _drain(self) -> None:
        with self._lock:
            blocks, self._waiting = self._waiting, {name: [] for name in FILES}
        for name in FILES:
            data = b"".join(blocks[name])
            _write_all(self._files[name], data)
            with self._lock:
                self._size -= min(len(data), self._size)


def _write_all(file: RawFile, data: bytes) -> None:
    """A raw file may take less than it was given, and does so just before a disk is full."""
    left = memoryview(data)
    while left:
        if not (count := file.write(left)):
            raise OSError("nothing of the data was taken")
        left = left[count:]
