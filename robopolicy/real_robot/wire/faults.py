"""Faults of a network, on demand: what the twin's fault port and the tests switch on in the gateway."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from robopolicy.core.errors import ConfigError, did_you_mean

# name -> (default, largest); probabilities are per frame, times in seconds.
KNOBS: dict[str, tuple[float, float]] = {
    "delay": (0.0, 10.0),
    "jitter": (0.0, 10.0),
    "drop": (0.0, 1.0),
    "corrupt": (0.0, 1.0),
    "truncate": (0.0, 1.0),
    "duplicate": (0.0, 1.0),
    "reorder": (0.0, 1.0),
    "truncate_in": (0.0, 1.0),
    "drop_in": (0.0, 1.0),
}


class WireFaults:
    """Delay, drop, damage, repeat and re-order frames; all of it off until ``set``.

    Frames to the client suffer ``delay`` plus up to ``jitter``, ``drop``, ``corrupt`` (one character changed),
    ``truncate`` (the second half missing), ``duplicate`` and ``reorder`` (swapped with the next one); frames from
    the client ``drop_in`` and ``truncate_in``.
    """

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._held: dict[int, str | bytes] = {}
        self.values = {name: default for name, (default, _) in KNOBS.items()}

    @property
    def active(self) -> bool:
        """Whether any knob is turned."""
        return any(self.values.values()) or bool(self._held)

    def set(self, **values: float) -> None:
        """Turn knobs; raises ``ConfigError`` for an unknown one or a value out of range."""
        for name, value in values.items():
            if name not in KNOBS:
                raise ConfigError(f"unknown fault '{name}'" + did_you_mean(name, KNOBS))
            if not 0 <= value <= KNOBS[name][1]:
                raise ConfigError(f"fault {name}: must be in 0..{KNOBS[name][1]:g}, got {value}")
            self.values[name] = float(value)

    def clear(self) -> None:
        """All knobs back to nothing."""
        self.values = {name: default for name, (default, _) in KNOBS.items()}

    def _hits(self, name: str) -> bool:
        return self.values[name] > 0 and self._random.random() < self.values[name]

    def outgoing(self, frame: str | bytes, client: int = 0) -> list[str | bytes]:
        """What becomes of one frame to the client."""
        if self._hits("drop"):
            return []
        if self._hits("truncate"):
            frame = frame[: len(frame) // 2]
        if frame and self._hits("corrupt"):
            at = self._random.randrange(len(frame))
            frame = frame[:at] + (b"\xff" if isinstance(frame, bytes) else "\x00") + frame[at + 1 :]  # type: ignore[operator]
        frames = [frame] * (2 if self._hits("duplicate") else 1)
        if client in self._held:
            frames.append(self._held.pop(client))
        elif self._hits("reorder"):
            self._held[client] = frames.pop()
        return frames

    async def send(self, connection: Any, frame: str | bytes) -> None:
        """Send what is left of a frame, late."""
        wait = self.values["delay"] + self.values["jitter"] * self._random.random()
        if wait:
            await asyncio.sleep(wait)
        for part in self.outgoing(frame, id(connection)):
            await connection.send(part)

    async def incoming(self, frame: str | bytes) -> str | bytes | None:
        """What arrives of a frame from the client; None: nothing."""
        if self._hits("drop_in"):
            return None
        return frame[: len(frame) // 2] if self._hits("truncate_in") else frame
