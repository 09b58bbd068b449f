"""The lines of ``chunks.jsonl`` and ``events.jsonl``: chunks, calls and looks as JSON that loses no bit.

Python writes the shortest decimal that reads back as the same float64, and writes ``NaN`` and ``Infinity`` as such:
valid for its own reader, not for every other; a policy's broken chunk must be kept as it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.control.watchdogs import Health
from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.log.tap import Call

EVENTS, CHUNKS, TICKS = "events.jsonl", "chunks.jsonl", "ticks.bin"
BROKEN = "broken"  # in place of what is no number; as it was, the chunk is refused


def line(**values: Any) -> bytes:
    """One line of JSON."""
    return (json.dumps(values, separators=(",", ":"), default=_plain) + "\n").encode()


def _plain(value: Any) -> Any:
    """What JSON does not know: arrays and NumPy's numbers as such, anything else as text."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value)


def _floats(values: Any) -> Any:
    """As the plan reads them; a list of float64 or ``BROKEN``."""
    try:
        return np.asarray(values, np.float64).tolist()
    except (TypeError, ValueError):
        return BROKEN


def plain_chunk(chunk: Waypoints) -> dict[str, Any]:
    """A chunk as JSON-ready data."""
    dt: Any = chunk.dt
    # The plan calculates with the period as it came, in its precision.
    narrow = isinstance(dt, np.floating) and not isinstance(dt, float)
    return {
        "chunk": int(chunk.chunk),
        "epoch": int(chunk.epoch),
        "dt": _floats(dt),
        **({"dt_type": dt.dtype.name} if narrow else {}),
        "stamps": _floats(chunk.stamps),
        "position": chunk.track.position.tolist(),
        "quaternion": chunk.track.quaternion.tolist(),
        "gripper": None if chunk.gripper is None else _floats(chunk.gripper),
    }


def chunk_of(data: Mapping[str, Any]) -> Waypoints:
    """Inverse of ``plain_chunk``."""
    dt = np.dtype(data["dt_type"]).type(data["dt"]) if "dt_type" in data else data["dt"]
    position = np.array(data["position"], np.float64)
    quaternion = np.array(data["quaternion"], np.float64)
    if position.size == 0:  # JSON keeps no shape of nothing
        position, quaternion = np.zeros((0, 3)), np.zeros((0, 4))
    gripper = data["gripper"]
    return Waypoints(
        Pose(position, quaternion),
        _array(data["stamps"]),
        dt,
        data["epoch"],
        None if gripper is None else _array(gripper),
        data["chunk"],
    )


def _array(values: Any) -> Any:
    return values if values == BROKEN else np.array(values, np.float64)


def plain_call(call: Call) -> dict[str, Any]:
    """A call as JSON-ready data."""
    return {
        "call": call.name,
        "at": float(call.at),
        "arguments": {k: str(v) for k, v in call.arguments.items()},
        "refused": call.refused,
        "why": call.why,
    }


def call_of(data: Mapping[str, Any]) -> Call:
    """Inverse of ``plain_call``."""
    return Call(data["call"], data["at"], data["arguments"], data["refused"], data["why"])


def plain_health(health: Health) -> dict[str, Any]:
    """What the watchdogs saw as JSON-ready data."""
    return asdict(health)


def health_of(data: Mapping[str, Any]) -> Health:
    """Inverse of ``plain_health``."""
    return Health(**{**data, "errors": tuple(data["errors"])})
