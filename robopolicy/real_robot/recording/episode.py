"""An episode under way, and what is kept of it when it ends: columns of the episode table and the sidecar."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from robopolicy.real_robot.driver.contract import Status
from robopolicy.real_robot.log.settings import versions
from robopolicy.real_robot.recording.spool import Close

OUTCOMES = {None: "unjudged", True: "success", False: "failure"}


@dataclass
class Take:
    """The episode under way: ``begun`` and ``wall`` at its beginning, ``first`` the grid time of its first frame,
    ``origin`` that of the first that was written, all s; ``frames`` on the grid so far, of which ``written``."""

    task: str
    begun: float
    wall: float
    facts: dict[str, Any]
    first: float | None = None
    origin: float = 0.0
    frames: int = 0
    written: int = 0
    repeated: int = 0
    interventions: int = 0
    last: float = -1.0
    events: list[dict[str, Any]] = field(default_factory=list)


def closing(take: Take, success: bool | None, why: str, known: Mapping[str, Any], status: Status) -> Close:
    """The end of an episode that is kept; ``why`` marks one that ended early; ``known``: for the sidecar."""
    meta = {
        "success": success is True,
        "outcome": OUTCOMES[success],
        "ended": why,
        "intervention_frames": take.interventions,
        "repeated_frames": take.repeated,
    }
    sidecar = {
        **meta,
        "task": take.task,
        "frames": take.written,
        "began": {"monotonic": take.origin, "wall": take.wall + take.origin - take.begun},
        **known,
        "driver": _about(status),
        "versions": versions(),
        "events": take.events,
    }
    return Close(True, meta, sidecar)


def _about(status: Status) -> dict[str, Any]:
    """What the sidecar keeps of the driver."""
    kept = ("clock_offset", "late_p50", "late_p99", "counters", "rates", "ages", "recording")
    plain = {name: getattr(status, name) for name in kept}
    report = status.preflight
    return {**plain, "preflight": None if report is None else [dataclasses.asdict(c) for c in report.checks]}
