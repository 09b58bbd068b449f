"""The memory between the policy's process and the control process: who writes what, and where.

The control process writes observations as they arrive (2 s of states, the newest 8 pictures of each camera as the
bytes that came), its status after every tick, and the preflight's report; the policy's process writes the newest chunk,
the human's newest wish and the operator's heartbeat.  Everything else, what has an answer, goes over a channel.

Observations are put together on the policy's side, by the same ``Observer`` over the same samples: the control process
only copies what arrived (about 0.03 ms a picture) and never stops for somebody who wants to see.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence

from robopolicy.core.errors import ConfigError, FrameRefused, InvalidMessage
from robopolicy.real_robot.control.observations import FRAMES, Frame, NoSnapshot, Observer, Snapshot, StateSample
from robopolicy.real_robot.control.plan import Waypoints
from robopolicy.real_robot.driver.contract import Status
from robopolicy.real_robot.driver.memory import HEAD, Block, Cell, Ring, aligned
from robopolicy.real_robot.driver.packing import (
    CHUNK_BYTES,
    FRAME_HEAD,
    SAMPLE_BYTES,
    TELEOP_BYTES,
    frame_head,
    pack_chunk,
    pack_json,
    pack_sample,
    pack_status,
    pack_teleop,
    report_of,
    report_rows,
    unpack_chunk,
    unpack_frame,
    unpack_sample,
    unpack_status,
    unpack_teleop,
)
from robopolicy.real_robot.safety.types import Setpoint

STATES, WIDTHS, OBJECTS = 512, 256, 256  # slots: more than two seconds of what arrives at 100 Hz
WORDS = 1 << 16  # bytes for a status, or a report
NUMBERS = 1 << 12  # bytes for one message of the tracker of objects
LEAST_FRAME, MOST_FRAME = 1 << 14, 1 << 25  # bytes that a picture may be given
_GRIP = struct.Struct("<dd")
_TIME = struct.Struct("<d")


class Board:
    """All of it.  ``cameras``: names and the most bytes that one picture of each may have, in the same order on both
    sides.  The first to come makes the memory; the other gives the descriptor of it."""

    def __init__(self, cameras: Sequence[tuple[str, int]], fd: int | None = None) -> None:
        for name, most in cameras:
            if not LEAST_FRAME <= most <= MOST_FRAME:
                raise ConfigError(f"camera '{name}': room for {most} bytes, expected {LEAST_FRAME} to {MOST_FRAME}")
        self.block = block = Block(self._size(cameras), fd)
        self.status, self.report = Cell(block, WORDS), Cell(block, WORDS)
        self.states = Ring(block, STATES, SAMPLE_BYTES)
        self.widths = Ring(block, WIDTHS, _GRIP.size)
        self.objects = Ring(block, OBJECTS, NUMBERS)
        self.chunk, self.teleop = Cell(block, CHUNK_BYTES), Cell(block, TELEOP_BYTES)
        self.beat = Cell(block, _TIME.size)
        self.frames = {name: Ring(block, FRAMES, FRAME_HEAD + most) for name, most in cameras}
        self.sights = {name: Cell(block, _TIME.size) for name, _ in cameras}
        self.era = Cell(block, NUMBERS)

    @staticmethod
    def _size(cameras: Sequence[tuple[str, int]]) -> int:
        rings = [(STATES, SAMPLE_BYTES), (WIDTHS, _GRIP.size), (OBJECTS, NUMBERS)]
        rings += [(FRAMES, FRAME_HEAD + most) for _, most in cameras]
        cells = (WORDS, WORDS, CHUNK_BYTES, TELEOP_BYTES, NUMBERS, *(_TIME.size for _ in range(1 + len(cameras))))
        return sum(Ring.bytes_for(*r) for r in rings) + sum(aligned(HEAD + c) for c in cells)

    def rings(self) -> dict[str, Ring]:
        """Everything that observations are made of, by source."""
        cameras = {f"camera.{name}": ring for name, ring in self.frames.items()}
        return {"state": self.states, "gripper": self.widths, "objects": self.objects, **cameras}

    def close(self) -> None:
        """Give the memory back; twice is fine."""
        self.block.close()


class ControlSide:
    """The control process's end."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self._report: object = self  # what was written last; nothing yet
        self._chunk = self._teleop = self._beat = 0

    def show(self, status: Status) -> None:
        """Write the status, and the report if it is another than before."""
        if status.preflight is not self._report:
            self.board.report.write(pack_json(report_rows(status.preflight)))
            self._report = status.preflight
        self.board.status.write(pack_status(status))

    def new_chunk(self) -> Waypoints | None:
        """A chunk left since the last call; the newest, if there were several."""
        found = self.board.chunk.read() if self.board.chunk.version != self._chunk else None
        if found is None:
            return None
        self._chunk = found[0]
        return unpack_chunk(found[1])

    def new_teleop(self) -> tuple[Setpoint, float] | None:
        """A human's wish made since the last call, and when."""
        found = self.board.teleop.read() if self.board.teleop.version != self._teleop else None
        if found is None:
            return None
        self._teleop = found[0]
        return unpack_teleop(found[1])

    def new_beat(self) -> float | None:
        """When the operator was last heard, if that was since the last call."""
        found = self.board.beat.read() if self.board.beat.version != self._beat else None
        if found is None:
            return None
        self._beat = found[0]
        beat: float = _TIME.unpack(found[1])[0]
        return beat


class PolicySide:
    """The policy process's end."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self._status: tuple[int, Status] | None = None
        self._report: tuple[int, list[dict] | None] = (0, None)

    def status(self) -> Status | None:
        """The newest status, ``None`` before the first."""
        if self._status is not None and self.board.status.version == self._status[0]:
            return self._status[1]
        found = self.board.status.read()
        if found is not None:
            if self.board.report.version != self._report[0] and (report := self.board.report.read()) is not None:
                self._report = report[0], json.loads(report[1])
            self._status = found[0], unpack_status(found[1], report_of(self._report[1]))
        # While a write goes on the one before is the newest there is.
        return self._status[1] if self._status is not None else None

    def submit(self, chunk: Waypoints) -> None:
        """Leave a chunk; it replaces one that was not fetched yet."""
        self.board.chunk.write(*pack_chunk(chunk))

    def teleop(self, wish: Setpoint, made: float) -> None:
        """Leave a wish."""
        self.board.teleop.write(pack_teleop(wish, made))

    def beat(self, now: float) -> None:
        """The operator is there."""
        self.board.beat.write(_TIME.pack(now))


class SharedSink:
    """The control process's: a ``Sink`` that shares whatever its observer took.

    ``seen``: camera -> time up to which the observer knows it to see.  ``dropped``: pictures too large for their slot.
    """

    def __init__(self, board: Board, seen: Callable[[str], float]) -> None:
        self.board, self._seen, self.dropped = board, seen, 0

    def state(self, sample: StateSample) -> None:
        """See ``Sink``."""
        self.board.states.push(pack_sample(sample))

    def gripper(self, time: float, width: float) -> None:
        """See ``Sink``."""
        self.board.widths.push(_GRIP.pack(time, width))

    def objects(self, time: float, names: Sequence[str], values: Sequence[float]) -> None:
        """See ``Sink``."""
        try:
            self.board.objects.push(pack_json([time, list(names), list(values)]))
        except FrameRefused:
            self.dropped += 1

    def frame(self, camera: str, frame: Frame) -> None:
        """See ``Sink``; only pictures that are bytes can be shared, others raise ``InvalidMessage``."""
        if not isinstance(frame.data, bytes):
            raise InvalidMessage(f"camera '{camera}': expected a picture's bytes, got {type(frame.data).__name__}")
        try:
            self.board.frames[camera].push(frame_head(frame), frame.data)
        except FrameRefused:
            self.dropped += 1
        self.bad_frame(camera)

    def bad_frame(self, camera: str) -> None:
        """See ``Sink``."""
        self.board.sights[camera].write(_TIME.pack(self._seen(camera)))

    def restart(self) -> None:
        """See ``Sink``."""
        self.board.era.write(pack_json({name: ring.count for name, ring in self.board.rings().items()}))


class Mirror:
    """The policy process's: sees what the control process's observer took.  ``make``: an observer of the same make."""

    def __init__(self, board: Board, make: Callable[[], Observer]) -> None:
        self.board, self._make = board, make
        self.observer = make()
        self._era = 0
        self._read: dict[str, int] = {}
        self._seen: dict[str, float] = {}

    def snapshot(self, now: float, steps: int, dt: float) -> Snapshot | NoSnapshot:
        """The observation, from everything shared so far; see ``Observer.snapshot``."""
        self._pull()
        if self.board.era.version != self._era:  # all became void meanwhile
            self._pull()
        return self.observer.snapshot(now, steps, dt)

    def _pull(self) -> None:
        if self.board.era.version != self._era and (era := self.board.era.read()) is not None:
            self._era, self._read = era[0], json.loads(era[1])
            self.observer = self._make()
        b, o = self.board, self.observer
        for content in self._new("state", b.states):
            o.state(unpack_sample(content))
        for content in self._new("gripper", b.widths):
            o.gripper(*_GRIP.unpack(content))
        for content in self._new("objects", b.objects):
            o.objects(*json.loads(content))
        for name, ring in b.frames.items():
            frames = [unpack_frame(content) for content in self._new(f"camera.{name}", ring)]
            if (sight := b.sights[name].read()) is not None:
                self._seen[name] = _TIME.unpack(sight[1])[0]
            o.mirrored(name, frames, self._seen.get(name, -math.inf))

    def _new(self, source: str, ring: Ring) -> list[bytes]:
        self._read[source], new = ring.since(self._read.get(source, 0))
        return new


def camera_rooms(sizes: Mapping[str, tuple[int, int]]) -> list[tuple[str, int]]:
    """What ``Board`` is to know of cameras of these sizes (height, width): a JPEG larger than the picture's own three
    bytes a pixel is none."""
    return [(name, min(MOST_FRAME, max(LEAST_FRAME, 3 * h * w))) for name, (h, w) in sizes.items()]
