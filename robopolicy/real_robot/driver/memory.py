"""Memory that two processes share and neither can leave behind: cells that are read whole or not at all, and rings.

Source: sequence locks (Lameter 2005, "Effective synchronization on Linux/NUMA systems", section on seqlocks): a number
that is odd while its cell is written and that readers compare before and after.  Differs: a checksum over the content
as well, so that nothing rests on the order in which a processor makes stores visible; and nobody ever waits: a reader
who comes in between is told so and looks again when it likes.  The control loop uses nothing else between processes.

The memory has no name (an anonymous file handed on by its descriptor), so whoever dies, however, nothing stays behind.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import zlib

from robopolicy.core.errors import FrameRefused

TRIES = 4  # looks at a cell that is being written, before the reader gives up for now
HEAD = 16  # bytes of a cell before its content: number of writes (8), length (4), checksum (4)
ALIGN = 64


def aligned(size: int) -> int:
    """``size`` bytes rounded up to whole cache lines."""
    return -(-size // ALIGN) * ALIGN


class Block:
    """``size`` bytes of shared memory; ``Block(size)`` makes them, ``Block(size, fd)`` maps those of another process.

    ``take`` hands out consecutive pieces, in the same order on both sides.
    """

    def __init__(self, size: int, fd: int | None = None) -> None:
        self.size, self._at = size, 0
        self.fd = _anonymous(size) if fd is None else fd
        self._map = mmap.mmap(self.fd, size)
        self._view = memoryview(self._map)
        self._taken: list[memoryview] = []

    def take(self, size: int) -> memoryview:
        """The next ``size`` bytes, from a cache line's start on."""
        start, self._at = self._at, self._at + aligned(size)
        if self._at > self.size:
            raise ValueError(f"shared memory: {self._at} bytes asked for, {self.size} made")
        return self.cut(self._view, start, start + size)

    def cut(self, view: memoryview, start: int, end: int, kind: str = "B") -> memoryview:
        """A part of a view, as numbers of ``kind``; ``close`` takes it back."""
        part = view[start:end]
        self._taken.append(part)
        if kind != "B":
            part = part.cast(kind)  # type: ignore[call-overload]
            self._taken.append(part)
        return part

    def close(self) -> None:
        """Give the memory back; every piece handed out is dead from then on.  Safe to call twice."""
        if self._map.closed:
            return
        for view in reversed(self._taken):
            view.release()
        self._taken.clear()
        self._view.release()
        self._map.close()
        os.close(self.fd)


def _anonymous(size: int) -> int:
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("robopolicy", os.MFD_CLOEXEC)
    else:  # no such thing outside Linux: a file that has no name any more does as well
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd


class Cell:
    """One message, the newest; one process writes, any number read."""

    def __init__(self, block: Block, capacity: int) -> None:
        self.capacity = capacity
        view = block.take(HEAD + capacity)
        self._count = block.cut(view, 0, 8, "Q")
        self._meta = block.cut(view, 8, HEAD, "I")
        self._body = block.cut(view, HEAD, HEAD + capacity)
        self._lock = threading.Lock()  # between threads of the writing process only

    @property
    def version(self) -> int:
        """A number that differs after every write; 0 before the first."""
        return self._count[0]

    def write(self, *parts: bytes) -> None:
        """Replace the content; raises ``FrameRefused`` if it does not fit, and nothing changes."""
        size = sum(map(len, parts))
        if size > self.capacity:
            raise FrameRefused(f"shared memory: {size} bytes for a cell of {self.capacity}")
        with self._lock:
            begun = self._count[0] | 1  # odd already if a writer died in the middle
            self._count[0] = begun
            at, check = 0, 0
            for part in parts:
                self._body[at : at + len(part)] = part
                at, check = at + len(part), zlib.crc32(part, check)
            self._meta[0], self._meta[1] = size, check
            self._count[0] = begun + 1

    def read(self) -> tuple[int, bytes] | None:
        """``(version, content)``; ``None`` before the first write, or while one is going on."""
        for _ in range(TRIES):
            before = self._count[0]
            if before == 0 or before & 1:
                continue
            size, check = self._meta[0], self._meta[1]
            if size > self.capacity:
                continue
            content = bytes(self._body[:size])
            if self._count[0] == before and zlib.crc32(content) == check:
                return before, content
        return None


class Ring:
    """The newest ``slots`` messages of one writer, numbered from 0."""

    def __init__(self, block: Block, slots: int, capacity: int) -> None:
        self.capacity = capacity
        self._head = block.cut(block.take(8), 0, 8, "Q")
        self._cells = [Cell(block, 8 + capacity) for _ in range(slots)]

    @staticmethod
    def bytes_for(slots: int, capacity: int) -> int:
        """Memory that such a ring takes."""
        return ALIGN + slots * aligned(HEAD + 8 + capacity)

    @property
    def count(self) -> int:
        """Messages pushed so far."""
        return self._head[0]

    def push(self, *parts: bytes) -> None:
        """Add one; it takes the place of the oldest.  Raises ``FrameRefused`` if it does not fit."""
        number = self._head[0]
        self._cells[number % len(self._cells)].write(number.to_bytes(8, "little"), *parts)
        self._head[0] = number + 1

    def since(self, number: int) -> tuple[int, list[bytes]]:
        """Messages from ``number`` on, oldest first, as far as they are still there; and the number to ask with next.

        One that is overwritten while it is read is left out: a newer one has taken its place.
        """
        end = self._head[0]
        out = []
        for i in range(max(number, end - len(self._cells)), end):
            found = self._cells[i % len(self._cells)].read()
            if found is not None and int.from_bytes(found[1][:8], "little") == i:
                out.append(found[1][8:])
        return end, out
