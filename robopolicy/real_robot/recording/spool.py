"""Frames to a dataset by a thread of its own: encoding takes as long as it takes, and nobody waits for it.

The queue is bounded; an encoder that falls behind, or a disk that is full, ends the recording, and every episode that
was closed before stays.  ``datasets.Writer`` makes each closed episode durable by itself.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.core import io
from robopolicy.core.errors import RobopolicyError
from robopolicy.datasets.writer import Writer
from robopolicy.real_robot.control.observations import Snapshot
from robopolicy.real_robot.recording.features import Recordable

LOG = logging.getLogger(__name__)
SIDECARS, ENDED = "sidecars", "ended.json"


@dataclass(frozen=True, eq=False)
class FrameToWrite:
    """One frame; the observation is put together (and its pictures decoded) by the thread."""

    snapshot: Snapshot
    action: np.ndarray
    task: str
    extra: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Close:
    """End of an episode: kept with ``meta`` (columns) and ``sidecar``, or thrown away."""

    keep: bool
    meta: Mapping[str, Any] = field(default_factory=dict)
    sidecar: Mapping[str, Any] = field(default_factory=dict)


def sidecar_path(root: Path, episode: int) -> Path:
    """Where an episode's sidecar is."""
    return root / SIDECARS / f"episode-{episode:06d}.json"


class Spool:
    """Writes to the dataset of ``make_writer``, which is called here and now; ``depth``: frames that may wait."""

    def __init__(self, make_writer: Callable[[], Writer], features: Recordable, depth: int) -> None:
        self.writer, self._features = make_writer(), features
        self.ended = ""
        self.closed = self.writer.num_episodes
        self._queue: queue.Queue[FrameToWrite | Close | threading.Event | None] = queue.Queue(depth)
        self._drop_orphans()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def _drop_orphans(self) -> None:
        """Sidecars of episodes that a crash kept from being closed, and the mark of a recording that ended early: it
        goes on."""
        (self.writer.root / SIDECARS / ENDED).unlink(missing_ok=True)
        for path in (self.writer.root / SIDECARS).glob("episode-*.json"):
            if int(path.stem.removeprefix("episode-")) >= self.closed:
                path.unlink()

    def put(self, item: FrameToWrite | Close) -> None:
        """Queue something; never waits."""
        if self.ended:
            return
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self.end(f"the encoder is too slow: {self._queue.maxsize} frames were waiting")

    def end(self, why: str) -> None:
        """End the recording; the first reason counts."""
        if not self.ended:
            self.ended = why
            LOG.warning("recording ended: %s; %d closed episodes are kept", why, self.closed)

    def wait(self, seconds: float = 60.0) -> bool:
        """Until everything queued so far is written; false after ``seconds``, or if the recording ended."""
        done = threading.Event()
        try:
            self._queue.put(done, timeout=seconds)
        except queue.Full:
            return False
        return done.wait(seconds) and not self.ended

    def close(self, seconds: float = 60.0) -> bool:
        """Finish what is queued, drop an open episode, complete the statistics; false if that took too long."""
        if self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._queue.put(None, timeout=seconds)
        self._thread.join(seconds)
        if late := self._thread.is_alive():
            LOG.warning("the encoder was not done within %g s: %d closed episodes are kept", seconds, self.closed)
        return not late

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        item: FrameToWrite | Close | threading.Event | None = threading.Event()
        while item is not None:
            item = self._queue.get()
            try:
                if item is None:
                    self._finish()
                elif isinstance(item, threading.Event):
                    item.set()
                elif not self.ended:
                    self._write(item)
            except Exception as e:  # whatever it is, it is the end of the recording and not of the program
                self.end(str(e) if isinstance(e, RobopolicyError | OSError) else f"{type(e).__name__}: {e}")

    def _write(self, item: FrameToWrite | Close) -> None:
        if isinstance(item, FrameToWrite):
            self.writer.add_frame(self._features.observation(item.snapshot), item.action, item.task, **item.extra)
        elif not item.keep or not self.writer.frames_in_episode:
            self.writer.discard_episode()
        else:
            path = sidecar_path(self.writer.root, self.writer.num_episodes)
            io.write_atomic(path, json.dumps(item.sidecar, indent=1, default=str))
            self.closed = self.writer.save_episode(item.meta) + 1

    def _finish(self) -> None:
        self.writer.discard_episode()
        if self.ended:
            mark = {"ended": self.ended, "episodes": self.closed}
            io.write_atomic(self.writer.root / SIDECARS / ENDED, json.dumps(mark))
        else:
            self.writer.finalize()
