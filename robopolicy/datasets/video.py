"""Decodes video frames by integer number with PyAV, keeping a few containers open.

Source: LeRobot's mp4 files (AV1, h264, hevc, mpeg4; one stream, constant rate, often two frames a GOP).  A frame is
the one within half a frame time of ``start + k / fps``, so neither drift of concatenated files nor float32 time stamps
can pick a neighbour; there is no tolerance to tune.  Ascending requests never decode a GOP twice.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np

from robopolicy.core.errors import DatasetError

MIN_FORWARD_FRAMES = 8
# A time stamp this near (in frame times) is the one asked for; further off, the next frame might be nearer.
EXACT = 0.05


class _OpenVideo:
    """One open container and where its decoder stands."""

    def __init__(self, path: Path, fps: float, threads: int) -> None:
        self.path = path
        try:
            self.container = av.open(str(path))
        except (av.FFmpegError, OSError) as e:
            raise DatasetError(f"{path}: the video cannot be opened ({e}); restore the file") from e
        if not self.container.streams.video:
            raise DatasetError(f"{path}: no video stream")
        self.stream = self.container.streams.video[0]
        if self.stream.codec_context is None:
            raise DatasetError(f"{path}: no decoder for its video stream; restore the file")
        self.stream.codec_context.thread_count = threads
        if self.stream.time_base is None:
            raise DatasetError(f"{path}: the video stream has no time base")
        self.step = 1.0 / (fps * float(self.stream.time_base))  # pts ticks a frame
        self.first = self.stream.start_time or 0
        self.forward = MIN_FORWARD_FRAMES  # ahead of this many frames a seek is cheaper
        self.max_error = 0.0
        self._frames: Iterator[Any] = iter(())
        self._before: Any = None
        self._last: Any = None

    def close(self) -> None:
        self.container.close()

    def frame_at(self, seconds: float, fps: float) -> Any:
        """The frame shown at ``seconds``; ``DatasetError`` when the file has none there."""
        target = self.first + seconds * fps * self.step
        half = 0.5 * self.step
        try:
            if not self._ahead(target):
                self._seek(target)
            frame = self._walk(target)
        except (av.FFmpegError, OSError) as e:
            raise DatasetError(f"{self.path}: decoding failed at {seconds:.3f} s ({e}); restore the file") from e
        if frame is None or abs(frame.pts - target) > half:
            raise DatasetError(
                f"{self.path}: no frame at {seconds:.3f} s (frame {round(seconds * fps)}); the video is shorter "
                f"than its episode or has a gap; the file has {self.stream.frames} frames"
            )
        self.max_error = max(self.max_error, abs(frame.pts - target) / (self.step * fps))
        return frame

    def _ahead(self, target: float) -> bool:
        """Whether decoding on from here reaches ``target`` sooner than a seek."""
        start = self._before or self._last
        return (
            start is not None
            and start.pts <= target + EXACT * self.step
            and target - start.pts <= self.forward * self.step
        )

    def _seek(self, target: float) -> None:
        """Stand on a key frame at or before ``target`` (files order by decode time, so step back when past it)."""
        latest, back = target + EXACT * self.step, 0.0
        while True:
            offset = max(int(latest - back), self.first)
            self.container.seek(offset, stream=self.stream, backward=True)
            self._frames = self.container.decode(self.stream)
            self._before, self._last = None, next(self._frames, None)
            if self._last is None or self._last.pts <= latest or offset <= self.first:
                break
            back = max(2 * back, 16 * self.step)
        if self._last is not None:
            distance = (target - self._last.pts) / self.step
            self.forward = max(self.forward, int(distance) + 1)

    def _walk(self, target: float) -> Any:
        """Decode up to the first frame at or after ``target``; the nearer of it and the one before."""
        while self._last is not None and self._last.pts < target - EXACT * self.step:
            self._before, self._last = self._last, next(self._frames, None)
        near = [f for f in (self._before, self._last) if f is not None]
        return min(near, key=lambda f: abs(f.pts - target), default=None)


class VideoStore:
    """Frames of many files, at most ``max_open`` of them open; safe across threads (a lock) and forks (by process id).

    ``threads`` is the decoder's own thread count: 1 is fastest for scattered requests, since it has no delay to refill.
    """

    def __init__(self, fps: float, max_open: int = 8, threads: int = 1) -> None:
        self.fps = fps
        self.max_open = max_open
        self.threads = threads
        self._reset()

    def _reset(self) -> None:
        self._open: OrderedDict[Path, _OpenVideo] = OrderedDict()
        self._pid = os.getpid()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"fps": self.fps, "max_open": self.max_open, "threads": self.threads}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    @property
    def max_error_s(self) -> float:
        """Largest distance met between a frame's time stamp and ``start + k / fps``, in seconds."""
        return max((v.max_error for v in self._open.values()), default=0.0)

    def frame_count(self, path: Path) -> int:
        """Number of frames that the container's header states."""
        with self._lock:
            return int(self._get(path).stream.frames)

    def read(self, path: Path, seconds: np.ndarray) -> Iterator[np.ndarray]:
        """RGB frames ``(H, W, 3)`` uint8 of ``path`` at ``seconds`` ``(n,)``, which should ascend."""
        for t in seconds:
            if self._pid != os.getpid():  # decoders do not survive a fork
                self._reset()
            with self._lock:
                try:
                    frame = self._get(path).frame_at(float(t), self.fps)
                except DatasetError:
                    if path in self._open:
                        self._open.pop(path).close()
                    raise
                image = frame.to_ndarray(format="rgb24")
            yield image

    def _get(self, path: Path) -> _OpenVideo:
        video = self._open.get(path)
        if video is None:
            while len(self._open) >= self.max_open:
                self._open.popitem(last=False)[1].close()
            video = self._open[path] = _OpenVideo(path, self.fps, self.threads)
        self._open.move_to_end(path)
        return video

    def close(self) -> None:
        """Close every container."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()


def resize_rgb(image: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Image ``(H, W, 3)`` uint8 at ``size`` (height, width): area average when shrinking, linear when growing."""
    if size is None or image.shape[:2] == tuple(size):
        return image
    import cv2

    shrinks = size[0] < image.shape[0] or size[1] < image.shape[1]
    out: np.ndarray = cv2.resize(
        image, (size[1], size[0]), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return out
