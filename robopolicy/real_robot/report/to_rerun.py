"""A recorded run for the Rerun viewer (optional package ``rerun-sdk``): motion in space, curves, states, flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.datasets.view_rerun import open_stream
from robopolicy.real_robot.report.series import RunSeries, Track

COLOURS = {"plan": (138, 143, 150), "emitted": (15, 107, 143), "measured": (194, 87, 26)}


def write_recording(series: RunSeries, out: Path | None) -> Path | None:
    """Write ``out`` (``.rrd``), or open the viewer when it is None.

    Raises ``ConfigError`` when rerun is not installed.
    """
    rr, stream = open_stream(series.name, out)
    for name, track in (("plan", series.plan), ("emitted", series.emitted), ("measured", series.measured)):
        _log_track(rr, stream, name, series.time, track)
    curves = {
        "speed/emitted": series.speed,
        "speed/measured": series.measured_speed,
        "lead": series.lead,
        "force": series.force,
        "gripper/measured": series.width_measured,
        "gripper/emitted": series.width_emitted,
        "state": series.state,
        "flags": series.flags,
        **{f"age/{source}": age for source, age in series.ages.items()},
    }
    for name, values in curves.items():
        good = np.isfinite(values)
        if good.any():
            columns = rr.Scalars.columns(scalars=values[good].astype(np.float64))
            stream.send_columns(name, [rr.TimeColumn("time", duration=series.time[good])], columns)
    for at, text in series.events:
        stream.set_time("time", duration=max(0.0, at))
        stream.log("events", rr.TextLog(text))
    stream.flush()
    stream.disconnect()
    return out


def _log_track(rr: Any, stream: Any, name: str, time: np.ndarray, track: Track) -> None:
    """The whole way as a line, the moving point, and its three coordinates as curves."""
    good = np.isfinite(track.position).all(axis=-1)
    if not good.any():
        return
    times = [rr.TimeColumn("time", duration=time[good])]
    points = track.position[good]
    colour = COLOURS[name]
    stream.log(f"world/{name}/way", rr.LineStrips3D([points], colors=[colour]), static=True)
    stream.send_columns(f"world/{name}/tool", times, rr.Points3D.columns(positions=points))
    stream.log(f"world/{name}/tool", rr.Points3D.from_fields(colors=[colour], radii=[0.006]), static=True)
    for k, axis in enumerate("xyz"):
        stream.send_columns(f"position/{axis}/{name}", times, rr.Scalars.columns(scalars=points[:, k]))
