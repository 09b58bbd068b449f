"""One constant-rate mp4 an episode and camera, encoded while frames come in, with PyAV's bundled encoders only.

A key frame every other frame (LeRobot's choice for random access), no B-frames (so presentation order is coding
order and the first time stamp is 0), 4:2:0.  Use the PNG storage of the writer when pixels must stay exact.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.core.errors import ConfigError, DatasetError
from robopolicy.core.scheduling import kept_scheduling

GOP = 2
# Encoder -> (name in info.json, options).  In order of preference: h264 decodes fastest on a CPU.
ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "libx264": ("h264", {"crf": "18", "preset": "veryfast", "bf": "0", "threads": "1"}),
    "libsvtav1": ("av1", {"crf": "30", "preset": "12", "svtav1-params": "lp=1"}),
}


@functools.cache
def probe_encoder(wanted: str | None = None) -> str:
    """First encoder this machine's PyAV has, or ``wanted`` if it has it; raises ``ConfigError`` otherwise."""
    import av.codec

    if wanted is not None and wanted not in ENCODERS:
        raise ConfigError(f"video codec '{wanted}' is not one of {', '.join(ENCODERS)}")
    for name in [wanted] if wanted else ENCODERS:
        try:
            av.codec.Codec(name, "w")
        except av.codec.codec.UnknownCodecError:
            continue
        return name
    raise ConfigError(
        f"PyAV has no encoder {wanted or 'libx264 or libsvtav1'}; install the PyPI wheel of av, or write images as png"
    )


def check_size(key: str, height: int, width: int, encoder: str) -> None:
    """Refuse sizes the encoder cannot take (4:2:0 needs even sides, SVT-AV1 at least 64 pixels)."""
    least = 64 if encoder == "libsvtav1" else 16
    if height % 2 or width % 2 or min(height, width) < least:
        raise ConfigError(
            f"{key}: {encoder} needs even sides of at least {least} pixels, got {height}x{width}; "
            "resize the camera or write with image_storage='png'"
        )


class VideoWriter:
    """Encodes frames into ``path`` at exactly ``fps``."""

    def __init__(self, path: Path, height: int, width: int, fps: float, encoder: str) -> None:
        import av

        self.path = path
        self.frames = 0
        rate = Fraction(fps).limit_denominator(60000)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._container: Any = av.open(str(path), "w", format="mp4")
        _, options = ENCODERS[encoder]
        self._stream: Any = self._container.add_stream(encoder, rate=rate, options=options)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.codec_context.gop_size = GOP
        self._stream.codec_context.time_base = self._time_base = 1 / rate

    def add(self, image: np.ndarray) -> None:
        """Append one frame, (3, H, W) uint8."""
        import av

        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image.transpose(1, 2, 0)), format="rgb24")
        frame.pts, frame.time_base = self.frames, self._time_base
        # The first frame opens the encoder, whose threads would be real-time ones under root.
        with kept_scheduling() if self.frames == 0 else contextlib.nullcontext():
            self._container.mux(self._stream.encode(frame))
        self.frames += 1

    def close(self) -> None:
        """Flush, write the file's index, and check by demuxing that every frame is in it."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        if (found := count_frames(self.path)) != self.frames:
            raise DatasetError(f"{self.path}: encoded {self.frames} frames but the file holds {found}; encoder fault")

    def abort(self) -> None:
        """Close without checking and delete the file."""
        import av

        with contextlib.suppress(OSError, av.FFmpegError):  # the trailer of a file that is deleted anyway
            self._container.close()
        self.path.unlink(missing_ok=True)


def count_frames(path: Path) -> int:
    """Number of frames in a video, by demuxing (no decoding); raises ``DatasetError`` if it is no readable video."""
    return len(frame_times(path))


def frame_times(path: Path) -> list[float]:
    """Presentation times in seconds of all frames, ascending, by demuxing."""
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DatasetError(f"{path}: no video stream in it; restore the file")
            packets = container.demux(container.streams.video[0])
            return sorted(float(p.pts * p.time_base) for p in packets if p.pts is not None and p.size)
    except (av.FFmpegError, OSError) as e:
        raise DatasetError(f"{path}: not a readable video ({e}); restore the file or record the episode again") from e


def describe_video(path: Path, fps: float) -> dict[str, Any]:
    """The ``info`` block of a video feature, read from a file of it."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context
        return {
            "video.height": codec.height,
            "video.width": codec.width,
            "video.codec": codec.codec.canonical_name,
            "video.pix_fmt": codec.pix_fmt,
            "video.is_depth_map": False,
            "video.fps": fps,
            "video.channels": 3,
            "has_audio": bool(container.streams.audio),
        }


def decode_some(path: Path, every: int) -> Iterator[np.ndarray]:
    """Each ``every``-th frame of a video, (3, H, W) uint8."""
    import av

    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number % every == 0:
                yield frame.to_ndarray(format="rgb24").transpose(2, 0, 1)
