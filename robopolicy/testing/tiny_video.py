"""Small videos for tests: encode frames, and join files without encoding again."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.codec
import numpy as np

from robopolicy.core.scheduling import kept_scheduling

# Options of each encoder for a file that is quick to write and to seek in (a key frame every other frame).
ENCODERS: dict[str, dict[str, str]] = {
    "libx264": {"g": "2", "crf": "12", "bf": "0", "preset": "ultrafast"},
    "libsvtav1": {"g": "2", "crf": "20", "preset": "12"},
    "mpeg4": {"g": "2", "q": "3"},
}


def available_encoder(wanted: str | None = None) -> str:
    """``wanted``, or the first encoder of ``ENCODERS`` that this build of PyAV has."""
    for name in [wanted] if wanted else ENCODERS:
        try:
            av.codec.Codec(name, "w")
        except (av.codec.codec.UnknownCodecError, ValueError):
            continue
        return name
    raise RuntimeError(f"PyAV here has none of the encoders {[wanted] if wanted else list(ENCODERS)}")


def encode(path: Path, frames: np.ndarray, fps: int, codec: str | None = None) -> None:
    """Write frames ``(n, H, W, 3)`` uint8 RGB to an mp4 at ``fps`` Hz."""
    name = available_encoder(codec)
    path.parent.mkdir(parents=True, exist_ok=True)
    with kept_scheduling(), av.open(str(path), "w") as out:
        stream: Any = out.add_stream(name, rate=fps, options=ENCODERS.get(name, {"g": "2"}))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = number
            frame.time_base = Fraction(1, fps)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


def join(parts: list[Path], path: Path, fps: int) -> list[float]:
    """Copy the streams of ``parts`` one after another into ``path``; return the second at which each begins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    starts: list[float] = []
    frames_before = 0
    with av.open(str(path), "w") as out:
        target: Any = None
        for part in parts:
            starts.append(frames_before / fps)
            with av.open(str(part)) as source:
                stream = source.streams.video[0]
                if target is None:
                    target = out.add_stream_from_template(stream, opaque=True)
                assert stream.time_base is not None
                shift = round(Fraction(frames_before, fps) / stream.time_base)
                for packet in source.demux(stream):
                    if packet.dts is None or packet.pts is None:
                        continue
                    frames_before += 1
                    packet.pts += shift
                    packet.dts += shift
                    packet.stream = target
                    out.mux(packet)
    return starts
