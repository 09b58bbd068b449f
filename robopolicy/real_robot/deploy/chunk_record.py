"""What became of the chunks of a run: their fate, the filter's flags, and how smoothly one follows another."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from robopolicy.real_robot.control.loop import Inputs, TickRecord
from robopolicy.real_robot.control.plan import Merge, Waypoints
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.control.watchdogs import Health
from robopolicy.real_robot.log.tap import Call
from robopolicy.real_robot.safety.types import SafetyFlag


@dataclass(frozen=True, eq=False)
class Steps:
    """Distances over one action period, m: ``inside`` chunks, and at the ``borders`` where one replaced another."""

    inside: np.ndarray
    borders: np.ndarray


class ChunkRecorder:
    """A ``Tap`` that keeps what the driver did with every chunk, and counts the filter's flags, ticks by ticks."""

    def __init__(self) -> None:
        self.chunks: list[tuple[Waypoints, Merge, float]] = []
        self.flags: Counter[str] = Counter()
        self.notes: list[tuple[str, float]] = []
        self._waiting: Waypoints | None = None
        self._path: list[np.ndarray | None] = []  # the plan's place at every tick, None where nothing ran
        self._replaced: list[int] = []  # ticks at which a chunk began

    def ticked(self, inputs: Inputs, record: TickRecord) -> None:
        """See ``Tap``."""
        for flag in SafetyFlag:
            if flag & record.flags:
                self.flags[str(flag.name).lower()] += 1
        if record.merge is not None and self._waiting is not None:
            self.chunks.append((self._waiting, record.merge, record.at))
            self._waiting = None
        if record.merge is not None and record.merge.taken:
            self._replaced.append(len(self._path))
        moving = record.state is State.RUNNING and record.wish is not None
        self._path.append(np.array(record.wish.position) if moving and record.wish is not None else None)

    def submitted(self, chunk: Waypoints, taken: bool, at: float) -> None:
        """See ``Tap``."""
        self._waiting = chunk if taken else None

    def called(self, call: Call) -> None:
        """See ``Tap``."""

    def looked(self, at: float, health: Health) -> None:
        """See ``Tap``."""

    def noted(self, name: str, at: float, **facts: Any) -> None:
        """See ``Tap``."""
        self.notes.append((name, at))

    def references(self, ticks: int) -> Steps:
        """How far the reference that the plan passes to the filter goes in ``ticks`` ticks (an action period).

        A border's step begins where the old chunk was left, whenever the new one's first action is due, so that chunks
        whose actions do not fall on the same instants are compared fairly.
        """
        inside: list[float] = []
        borders: list[float] = []
        starts = [*self._replaced, len(self._path)]
        for k, (begin, end) in enumerate(pairwise(starts)):
            for place in range(begin, end - ticks, ticks):
                here, there = self._path[place], self._path[place + ticks]
                if here is not None and there is not None:
                    step = float(np.linalg.norm(there - here))
                    (borders if place == begin and k > 0 else inside).append(step)
        return Steps(np.array(inside), np.array(borders))

    def actions(self, latency: float) -> Steps:
        """Distances between consecutive actions that were executed, whatever time lies between the two at a border
        (up to twice a period); ``latency``: by which the arm's plan passes its actions early."""
        inside: list[float] = []
        borders: list[float] = []
        last: np.ndarray | None = None
        taken = [(w, m, at) for w, m, at in self.chunks if m.taken]
        for k, (waypoints, merge, _) in enumerate(taken):
            until = taken[k + 1][2] if k + 1 < len(taken) else np.inf
            due = waypoints.stamps - latency
            index = [i for i in range(merge.late, merge.late + merge.taken) if due[i] <= until]
            places = waypoints.track.position[index]
            if len(places) == 0:
                continue
            if last is not None:
                borders.append(float(np.linalg.norm(places[0] - last)))
            inside += np.linalg.norm(np.diff(places, axis=0), axis=-1).tolist()
            last = places[-1]
        return Steps(np.array(inside), np.array(borders))
