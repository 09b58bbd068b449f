"""The row of ``ticks.bin``: everything that one tick of the control loop was given and what it decided.

Source: our own.  A row has a fixed size, so a file that was cut anywhere is read up to its last whole row; numbers are
stored as the loop saw them (float64), so that ``replay`` can ask for the same bits.  Differs from a table of columns on
purpose: a column file needs a footer, which a killed writer never writes.

File: ``MAGIC``, version and row size (``HEADER``), then rows of ``ROW``, little-endian, without gaps.  ``index`` counts
from 0; ``crc`` is the CRC-32 of the row before it.  Texts are numbers of ``{"text": ...}`` lines of ``events.jsonl``,
-1 for none; what is ``None`` in the loop is told by a bit of ``has``, its field then holds zero.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Callable
from enum import IntFlag
from typing import Any

import numpy as np

from robopolicy.real_robot.control.loop import Inputs, TickRecord
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.control.watchdogs import Health
from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.safety.types import Measured, Setpoint

VERSION = 1
MAGIC = b"RPTICKS\n"
HEADER = struct.Struct("<8sII")  # magic, version, bytes of a row
STATES = tuple(State)
"""``state`` of a row is an index into this; never reorder, ``run.json`` keeps the names."""


class Has(IntFlag):
    """Which optional parts of a row are there, and the yes-or-no values; never renumber."""

    LINK = 1 << 0  # health.link
    PREFLIGHT = 1 << 1  # health.preflight
    FILTER_FAULT = 1 << 2  # health.filter_fault
    LOOPBACK_AGE = 1 << 3
    CAMERA_AGE = 1 << 4
    OPERATOR_AGE = 1 << 5
    LOOPBACK_AT = 1 << 6
    OPERATOR_AT = 1 << 7
    JOINTS = 1 << 8  # measured.q has seven angles, else none
    TELEOP = 1 << 9
    TELEOP_GRIPPER = 1 << 10
    TELEOP_ACTION = 1 << 11
    WISH = 1 << 12  # the filter had a setpoint to follow
    WISH_GRIPPER = 1 << 13
    WISH_ACTION = 1 << 14
    EMITTED = 1 << 15  # the filter was in use
    EMITTED_POSE = 1 << 16
    EMITTED_GRIPPER = 1 << 17
    EMITTED_FAULT = 1 << 18
    PUBLISHED = 1 << 19  # the emitted pose was to be sent
    GRIPPER_SENT = 1 << 20  # and so was the emitted width
    MERGED = 1 << 21  # a chunk came
    OVER_BUDGET = 1 << 22
    STALE = 1 << 23
    GRIPPER_FAULT = 1 << 24  # health.gripper_fault


def _setpoint(prefix: str) -> list[tuple[Any, ...]]:
    return [
        (f"{prefix}_position", "<f8", 3),  # m, base frame
        (f"{prefix}_quaternion", "<f8", 4),  # x, y, z, w
        (f"{prefix}_width", "<f8"),  # m
        (f"{prefix}_rate", "<f8", 6),  # m/s, rad/s
        (f"{prefix}_left", "<f8", 2),  # m, rad to the end of the plan
        (f"{prefix}_action", "<f8", 7),  # position and quaternion of the policy's action ahead
        (f"{prefix}_number", "<i8", 3),  # action_number, action_steps, epoch
    ]


ROW = np.dtype(
    [
        ("index", "<u8"),
        ("before", "<u8"),  # numbered lines (chunks, calls) that were logged before this tick
        ("at", "<f8"),  # local monotonic s of the tick
        ("has", "<u4"),  # Has
        # -- given: the newest state ------------------------------------------------------------------------------
        ("measured_at", "<f8"),  # local monotonic s
        ("measured_position", "<f8", 3),  # m, base frame
        ("measured_quaternion", "<f8", 4),  # x, y, z, w
        ("measured_twist", "<f8", 6),  # m/s, rad/s
        ("measured_q", "<f8", 7),  # rad
        ("measured_force", "<f8", 3),  # N
        ("measured_width", "<f8"),  # m
        # -- given: what the watchdogs saw ------------------------------------------------------------------------
        ("health_age", "<f8", 4),  # s of state, loopback, camera, operator
        ("health_state_rate", "<f8"),  # Hz
        ("health_late", "<f8"),  # s
        ("health_starved", "<f8"),  # s
        ("health_count", "<i4", 2),  # robot mode, rival publishers
        ("health_text", "<i4", 5),  # errors and guard (JSON), clock, policy, gripper, filter_hold
        ("loopback_at", "<f8"),  # local monotonic s
        ("operator_at", "<f8"),
        # -- given: the human's wish ------------------------------------------------------------------------------
        ("teleop_made", "<f8"),  # local monotonic s
        *_setpoint("teleop"),
        # -- decided ----------------------------------------------------------------------------------------------
        ("state", "u1"),  # index into STATES
        ("epoch", "<i8"),
        *_setpoint("wish"),  # where plan or human wanted the tool: what the filter was asked for
        ("emitted_position", "<f8", 3),
        ("emitted_quaternion", "<f8", 4),
        ("emitted_width", "<f8"),
        ("emitted_rate", "<f8", 6),
        ("emitted_scale", "<f8"),
        ("flags", "<i8"),  # SafetyFlag
        ("hold_text", "<i4"),  # why the filter held
        ("merge", "<i4", 4),  # of a chunk: taken, late, jump (-1: none), slow
        ("merge_text", "<i4"),  # why a chunk was refused
        ("crc", "<u4"),
    ]
)
"""One tick."""

_LETTERS = {"<f8": "d", "<u8": "Q", "<i8": "q", "<i4": "i", "<u4": "I", "|u1": "B"}


def _code(dtype: np.dtype[Any]) -> str:
    fields = dtype.fields
    assert fields is not None
    parts = []
    for name in dtype.names or ():
        base, shape = fields[name][0].base, fields[name][0].shape
        parts.append(f"{math.prod(shape)}{_LETTERS[base.str]}")
    return "<" + "".join(parts)


_PACK = struct.Struct(_code(ROW).removesuffix("1I"))
_CRC = struct.Struct("<I")
assert _PACK.size + _CRC.size == ROW.itemsize

Number = Callable[[str | None], int]
"""From a text to its number; -1 for ``None``."""


def header() -> bytes:
    """The first bytes of ``ticks.bin``."""
    return HEADER.pack(MAGIC, VERSION, ROW.itemsize)


# -- from the loop to a row --------------------------------------------------------------------------------------------


def pack(index: int, before: int, inputs: Inputs, record: TickRecord, number: Number) -> bytes:
    """The row of one tick; ``before``: numbered lines logged until now; ``number`` gives texts their numbers."""
    has = _presence(inputs, record)
    health, emitted, merge = inputs.health, record.emitted, record.merge
    wish, made = inputs.teleop if inputs.teleop is not None else (None, 0.0)
    pose = emitted.pose if emitted is not None else None
    body = _PACK.pack(
        *(index, before, record.at, has),
        *_measured(inputs.measured),
        health.state_age,
        *(_or_zero(a) for a in (health.loopback_age, health.camera_age, health.operator_age)),
        *(health.state_rate, health.late, health.starved, health.mode, health.rivals),
        number(_words(health)),
        *(number(t) for t in (health.clock, health.policy, health.gripper, health.filter_hold)),
        *(_or_zero(inputs.loopback_at), _or_zero(inputs.operator_at), made),
        *_flat(wish),
        STATES.index(record.state),
        record.epoch,
        *_flat(record.wish),
        *_seven(pose),
        *((_or_zero(emitted.gripper), *emitted.rate.tolist(), emitted.scale) if emitted is not None else _ZEROS[:8]),
        int(record.flags),
        number(emitted.hold if emitted is not None else None),
        *((merge.taken, merge.late, -1 if merge.jump is None else merge.jump, merge.slow) if merge else (0, 0, -1, 0)),
        number(merge.refused if merge is not None else None),
    )
    return body + _CRC.pack(zlib.crc32(body))


_ZEROS = (0.0,) * 25
_NANS = (math.nan,) * 25


def _words(health: Health) -> str | None:
    """The errors as a JSON list, or, where a guard lets nothing through, an object with both."""
    if health.guard is not None:
        return json.dumps({"errors": health.errors, "guard": health.guard})
    return json.dumps(health.errors) if health.errors else None


def _or_zero(value: float | None) -> float:
    return 0.0 if value is None else value


def _presence(inputs: Inputs, record: TickRecord) -> int:
    health, emitted, merge = inputs.health, record.emitted, record.merge
    teleop = inputs.teleop[0] if inputs.teleop is not None else None
    bits = (
        *(health.link, health.preflight, health.filter_fault),
        *(a is not None for a in (health.loopback_age, health.camera_age, health.operator_age)),
        *(inputs.loopback_at is not None, inputs.operator_at is not None, len(inputs.measured.q) > 0),
        *_setpoint_bits(teleop),
        *_setpoint_bits(record.wish),
        emitted is not None,
        *((emitted.pose is not None, emitted.gripper is not None, emitted.fault) if emitted else (False,) * 3),
        *(record.publish is not None, record.gripper is not None, merge is not None),
        *((merge.over_budget, merge.stale) if merge is not None else (False, False)),
        health.gripper_fault,
    )
    return sum(1 << i for i, bit in enumerate(bits) if bit)


def _setpoint_bits(s: Setpoint | None) -> tuple[bool, bool, bool]:
    return (s is not None, s is not None and s.gripper is not None, s is not None and s.action is not None)


def _numbers(values: Any, size: int) -> list[float] | None:
    """The numbers as Python floats, or ``None`` for what the filter would not take for numbers of that shape."""
    array = np.asarray(values)
    if array.shape != (size,) or array.dtype.kind not in "fiu":
        return None
    numbers: list[float] = array.astype(np.float64).tolist()
    return numbers


def _measured(m: Measured) -> tuple[float, ...]:
    """A state whose shapes are wrong becomes NaN: neither is ever believed."""
    sizes = ((m.position, 3), (m.quaternion, 4), (m.twist, 6), (m.q if len(m.q) else _ZEROS[:7], 7), (m.force, 3))
    parts = [_numbers(values, size) for values, size in sizes]
    flat: list[float] = []
    for part in parts:
        if part is None:
            return _NANS
        flat += part
    return (float(m.at), *flat, float(m.width))


def _seven(pose: Pose | None) -> tuple[float, ...]:
    return (*pose.position.tolist(), *pose.quaternion.tolist()) if pose is not None else _ZEROS[:7]


def _flat(s: Setpoint | None) -> tuple[float, ...]:
    """The setpoint's numbers; wrong shapes become NaN, which the filter refuses just the same."""
    if s is None:
        return (*_ZEROS[:23], 0, 0, 0)
    parts = [_numbers(values, size) for values, size in ((s.position, 3), (s.quaternion, 4), (s.rate, 6))]
    position, quaternion, rate = (p if p is not None else [math.nan] * n for p, n in zip(parts, (3, 4, 6), strict=True))
    width = _or_zero(s.gripper)
    counts = (s.action_number, s.action_steps, s.epoch)
    return (*position, *quaternion, width, *rate, s.left, s.turn_left, *_seven(s.action), *counts)
