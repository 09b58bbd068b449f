"""What was seen when: the newest observation at every look, and, after a late look, what went by in between.

A recorder lives in the policy's process, whose main thread may stall for some frames.  The driver keeps the last two
seconds of states and the last eight pictures of each camera, so what a late look missed can still be put together,
with its true times.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque

import numpy as np

from robopolicy.real_robot.control.observations import STATE_SECONDS, Snapshot
from robopolicy.real_robot.driver.contract import Driver
from robopolicy.real_robot.frames import Pose

LATE = 0.04  # s between two looks after which something may have been missed; they are 20 ms apart
FINE = 0.01  # s between the instants that are asked for afterwards
TINY = 1e-6  # s


class Sights:
    """Observations of ``driver``, oldest first."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._seen: deque[Snapshot] = deque()
        self._looked: float | None = None
        self.missed = 0
        """Observations that were put together afterwards."""

    def look(self, now: float) -> None:
        """Remember the newest observation, if it is new; ``now``: the driver's time."""
        late = self._looked is not None and now - self._looked > LATE
        self._looked = now
        snapshot = self._driver.snapshot()
        if not isinstance(snapshot, Snapshot) or (self._seen and snapshot.time <= self._seen[-1].time):
            return
        if late and self._seen:
            between = self._between(self._seen[-1], snapshot.time)
            self.missed += len(between)
            self._seen.extend(between)
        self._seen.append(snapshot)

    def since(self, time: float) -> Snapshot | None:
        """The oldest one of ``time`` or later."""
        return next((s for s in self._seen if s.time >= time), None)

    def at(self, time: float) -> Snapshot | None:
        """The newest one at or before ``time``."""
        return next((s for s in reversed(self._seen) if s.time <= time), None)

    def forget(self, before: float) -> None:
        """Drop what nobody will ask for who asks for ``before`` or later."""
        while len(self._seen) > 1 and self._seen[1].time <= before:
            self._seen.popleft()

    def _between(self, last: Snapshot, until: float) -> list[Snapshot]:
        """What the driver still has of the time after ``last`` and before ``until``."""
        steps = 1 + math.floor(min(until - last.time, STATE_SECONDS) / FINE + TINY)
        history = self._driver.snapshot(steps, FINE) if steps > 1 else None
        if not isinstance(history, Snapshot):
            return []
        instants = history.time - FINE * np.arange(steps - 1, -1, -1.0)
        kept = [i for i in _chosen(history, instants) if last.time + TINY < instants[i] < until - TINY]
        return [_instant(history, i, float(instants[i])) for i in kept if history.valid[i]]


def _chosen(history: Snapshot, instants: np.ndarray) -> list[int]:
    """Which instants are observations of their own: all, or with cameras the nearest to each picture of the anchor."""
    if not history.frames:
        return list(range(len(instants)))
    times = np.array([f.time for f in next(iter(history.frames.values()))])
    found = [int(np.abs(instants - time).argmin()) for time in np.unique(times)]
    return [i for i in found if abs(instants[i] - times[i]) <= FINE]


def _instant(history: Snapshot, i: int, time: float) -> Snapshot:
    """One instant of several as an observation of its own."""
    one = slice(i, i + 1)
    return dataclasses.replace(
        history,
        time=time,
        poses=Pose(history.poses.position[one], history.poses.quaternion[one]),
        q=history.q[one],
        force=history.force[one],
        width=history.width[one],
        frames={name: frames[one] for name, frames in history.frames.items()},
        ages={name: age + history.time - time for name, age in history.ages.items()},
        valid=history.valid[one],
        objects=None if history.objects is None else history.objects[one],
    )
