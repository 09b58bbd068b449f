"""What crosses between the policy's process and the control process, as bytes: JSON for words, float64 for numbers.

Every ``pack_x`` has an ``unpack_x`` that gives an equal thing back.  Nothing here judges numbers (``Waypoints.problem``
and the safety filter do), and nothing here can run code from what it reads.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from robopolicy.core import errors
from robopolicy.core.errors import InvalidChunk, InvalidMessage, RobopolicyError
from robopolicy.real_robot.control.observations import Frame, StateSample
from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.driver.contract import Check, Report, Status
from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.safety.types import SafetyFlag, Setpoint

MOST_ACTIONS = 1024  # of one chunk
_CHUNK = struct.Struct("<qqdI?xxx")  # epoch, number, dt, actions, with a gripper?
CHUNK_BYTES = _CHUNK.size + 8 * 9 * MOST_ACTIONS
SAMPLE_BYTES = 8 * (1 + 3 + 4 + 7 + 7 + 3)
TELEOP_BYTES = 8 * (1 + 3 + 4 + 1 + 6 + 2)
_FRAME = struct.Struct("<d?")
FRAME_HEAD = _FRAME.size


# -- words -------------------------------------------------------------------------------------------------------------


def pack_json(value: Any) -> bytes:
    """Plain data as JSON; arrays become lists, anything else that JSON does not know its text."""
    return json.dumps(value, default=_plain, separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return dict(value) if isinstance(value, Mapping) else str(value)


def report_rows(report: Report | None) -> list[dict[str, Any]] | None:
    """A preflight's report as plain data."""
    return None if report is None else [asdict(c) for c in report.checks]


def report_of(checks: list[dict[str, Any]] | None) -> Report | None:
    """The inverse of ``report_rows``."""
    return None if checks is None else Report(tuple(Check(**c) for c in checks))


def pack_error(error: BaseException) -> dict[str, str]:
    """What the other side needs to raise the same error."""
    return {"type": type(error).__name__, "text": str(error)}


def error_of(packed: Mapping[str, str]) -> RobopolicyError:
    """The error that ``pack_error`` described; one that is not of this project's becomes a ``BridgeError``."""
    kind = getattr(errors, packed["type"], None)
    if isinstance(kind, type) and issubclass(kind, RobopolicyError):
        return kind(packed["text"])
    return errors.BridgeError(f"control process: {packed['type']}: {packed['text']}")


def pack_status(status: Status) -> bytes:
    """A status without its preflight report, which changes rarely and has a place of its own."""
    out = {f.name: getattr(status, f.name) for f in fields(status) if f.name != "preflight"}
    for name in ("measured", "emitted"):
        pose = out[name]
        out[name] = None if pose is None else [pose.position.tolist(), pose.quaternion.tolist()]
    return pack_json(out | {"state": status.state.value, "flags": int(status.flags)})


def unpack_status(content: bytes, preflight: Report | None) -> Status:
    """The inverse of ``pack_status``."""
    got = json.loads(content)
    for name in ("measured", "emitted"):
        got[name] = None if got[name] is None else Pose(*map(np.array, got[name]))
    got["state"], got["flags"] = State(got["state"]), SafetyFlag(got["flags"])
    got["q"], got["errors"] = tuple(got["q"]), tuple(got["errors"])
    return Status(**got, preflight=preflight)


# -- numbers -----------------------------------------------------------------------------------------------------------


def pack_sample(sample: StateSample) -> bytes:
    """A state of the arm: 25 float64."""
    pose = sample.pose
    return np.concatenate(
        ((sample.time,), pose.position, pose.quaternion, sample.q, sample.dq, sample.force), dtype=np.float64
    ).tobytes()


def unpack_sample(content: bytes) -> StateSample:
    """The inverse of ``pack_sample``."""
    v = np.frombuffer(content)
    return StateSample(float(v[0]), Pose(v[1:4], v[4:8]), v[8:15], v[15:22], v[22:25])


def frame_head(frame: Frame) -> bytes:
    """What is said of a picture before its bytes."""
    return _FRAME.pack(frame.time, frame.assumed)


def unpack_frame(content: bytes) -> Frame:
    """A picture from its head and its bytes."""
    time, assumed = _FRAME.unpack_from(content)
    return Frame(time, content[FRAME_HEAD:], assumed)


def pack_chunk(chunk: Waypoints) -> tuple[bytes, ...]:
    """A chunk of at most 1024 actions; raises ``InvalidChunk`` for a longer one."""
    n = len(chunk.stamps)
    if n > MOST_ACTIONS:
        raise InvalidChunk(f"chunk: {n} actions, at most {MOST_ACTIONS} fit; submit the first ones")
    rows = [chunk.stamps, *chunk.track.position.T, *chunk.track.quaternion.T]
    if chunk.gripper is not None:
        rows.append(chunk.gripper)
    head = _CHUNK.pack(chunk.epoch, chunk.chunk, chunk.dt, n, chunk.gripper is not None)
    return head, np.array(rows, np.float64).tobytes()


def unpack_chunk(content: bytes) -> Waypoints:
    """The inverse of ``pack_chunk``."""
    epoch, number, dt, n, hand = _CHUNK.unpack_from(content)
    v = np.frombuffer(content, np.float64, offset=_CHUNK.size).reshape(8 + hand, n)
    return Waypoints(Pose(v[1:4].T, v[4:8].T), v[0], dt, epoch, v[8] if hand else None, number)


def no_chunk(epoch: int, number: int) -> Waypoints:
    """What is sent in place of a chunk that was refused on this side already: one that the control loop refuses too, so
    that it stops there and counts, and no number of the policy's gets across."""
    nan = np.full((1, 7), np.nan)
    return Waypoints(Pose(nan[:, :3], nan[:, 3:]), np.zeros(1), 1.0, epoch, None, number)


def pack_teleop(wish: Setpoint, made: float) -> bytes:
    """A human's wish and when it was made: 17 float64; what only plans have is left out.

    Raises ``InvalidMessage`` for other shapes, which could not be read over there.
    """
    if (np.shape(wish.position), np.shape(wish.quaternion), np.shape(wish.rate)) != ((3,), (4,), (6,)):
        raise InvalidMessage("wish: expected 3 numbers of a position, 4 of a quaternion and 6 of a rate")
    grip = np.nan if wish.gripper is None else wish.gripper
    return np.concatenate(
        ((made,), wish.position, wish.quaternion, (grip,), wish.rate, (wish.left, wish.turn_left)), dtype=np.float64
    ).tobytes()


def unpack_teleop(content: bytes) -> tuple[Setpoint, float]:
    """The inverse of ``pack_teleop``; a gripper width that is no number is no wish."""
    v = np.frombuffer(content)
    grip = None if np.isnan(v[8]) else float(v[8])
    return Setpoint(v[1:4], v[4:8], grip, v[9:15], float(v[15]), float(v[16])), float(v[0])
