"""Batches prepared ahead by one background thread; counts the time that training waits for them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Iterates ``make(start), make(start + 1), ... make(stop - 1)``, at most ``depth`` ahead.

    An exception of ``make`` is raised in the consumer, at the step it belongs to.
    """

    def __init__(self, make: Callable[[int], T], start: int, stop: int, depth: int = 2) -> None:
        self._make, self._range = make, range(start, stop)
        self._queue: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        self.waited = 0.0
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        for step in self._range:
            try:
                item: tuple[T | None, BaseException | None] = (self._make(step), None)
            except BaseException as e:
                item = (None, e)
            if not self._put(item) or item[1] is not None:
                return

    def _put(self, item: tuple[T | None, BaseException | None]) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def __iter__(self) -> Iterator[T]:
        for _ in self._range:
            begin = time.perf_counter()
            value, error = self._queue.get()
            self.waited += time.perf_counter() - begin
            if error is not None:
                raise error
            yield value  # type: ignore[misc]

    def close(self) -> None:
        """Stop the thread and drop what it prepared."""
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(timeout=0.05)
