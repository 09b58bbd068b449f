"""Episodes as a recording for the Rerun viewer (optional package ``rerun-sdk``): cameras, states, actions over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.core.errors import ConfigError
from robopolicy.datasets.reader import Reader
from robopolicy.datasets.reader_types import Episode
from robopolicy.datasets.view import charted_keys

EPISODES = 5
BATCH = 32  # frames decoded together


def write_recording(reader: Reader, out: Path | None, episodes: Sequence[int] | None = None) -> Path | None:
    """Write ``out`` (``.rrd``), or open the viewer when it is None.  ``episodes``: ids, by default the first five.

    Raises ``ConfigError`` when rerun is not installed.
    """
    rr, stream = open_stream(reader.root.resolve().name, out)
    shown = reader.episodes[:EPISODES] if episodes is None else tuple(reader.episode(i) for i in episodes)
    start = 0.0
    for episode in shown:
        _log_episode(rr, stream, reader, episode, start)
        start += episode.length / reader.fps
    stream.flush()
    stream.disconnect()
    return out


def open_stream(name: str, out: Path | None) -> tuple[Any, Any]:
    """Rerun and a stream of its that writes ``out``, or that opens the viewer when it is None.

    Raises ``ConfigError`` when rerun is not installed.
    """
    try:
        import rerun as rr
    except ImportError as e:
        raise ConfigError(f"rerun is not installed ({e}); install it with: pip install rerun-sdk") from e
    stream: Any = rr.RecordingStream(f"robopolicy/{name}")
    if out is None:
        stream.spawn()
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        stream.save(out)
    return rr, stream


def _log_episode(rr: Any, stream: Any, reader: Reader, episode: Episode, start: float) -> None:
    """Frames one after another on the time lines ``frame`` (of the dataset) and ``time`` (of the recording)."""
    rows = np.arange(episode.start, episode.stop)
    times = [
        rr.TimeColumn("frame", sequence=rows),
        rr.TimeColumn("time", duration=start + np.arange(episode.length) / reader.fps),
    ]
    for key in charted_keys(reader):
        values = reader.columns[key][rows].reshape(episode.length, -1).astype(np.float64)
        stream.send_columns(key.replace(".", "/"), times, rr.Scalars.columns(scalars=values))
    text = f"episode {episode.index}: {reader.task_of(episode.start)}"
    stream.set_time("frame", sequence=episode.start)
    stream.set_time("time", duration=start)
    stream.log("episode", rr.TextLog(text))
    for camera in reader.camera_keys:
        for first in range(0, episode.length, BATCH):
            batch = rows[first : first + BATCH]
            for row, image in zip(batch, reader.frames(camera, batch), strict=True):
                stream.set_time("frame", sequence=int(row))
                stream.set_time("time", duration=start + (row - episode.start) / reader.fps)
                picture = rr.Image(np.ascontiguousarray(image.transpose(1, 2, 0))).compress(jpeg_quality=90)
                stream.log(camera.replace(".", "/"), picture)
