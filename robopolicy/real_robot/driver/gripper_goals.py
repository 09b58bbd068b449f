"""One goal of the hand: what is under way, and what is kept for the record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from robopolicy.real_robot.wire.client_actions import GoalHandle

Kind = Literal["move", "grasp", "homing"]


@dataclass(frozen=True)
class GripperEvent:
    """For the record: what was asked of the hand, or became of it, and when (local monotonic)."""

    at: float
    what: str
    width: float
    text: str = ""


@dataclass
class Running:
    """A goal under way: since when, and how long it may take, s."""

    kind: Kind
    width: float
    handle: GoalHandle
    since: float
    limit: float
