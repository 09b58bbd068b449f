"""Stage 3: consecutive actions of a policy lie close together; a chunk is cut where they do not.

The plan cuts chunks as they come (``first_jump``); the filter looks again at every tick, and counts.
"""

from __future__ import annotations

import numpy as np

from robopolicy.real_robot.frames import Pose, difference
from robopolicy.real_robot.limits import SafetyLimits

JUMPS_TO_FAULT = 3  # in one run
MOST_STEPS = 3  # action periods that are allowed for where actions in between were dropped


def first_jump(previous: Pose, actions: Pose, limits: SafetyLimits, steps: int = 1) -> int | None:
    """Index of the first of N ``actions`` that is too far from its predecessor (that of the first: ``previous``).

    ``steps``: action periods between ``previous`` and the first; more than one where late actions were dropped between
    them, and the limit for that one step is as many times larger, up to three.
    """
    positions = np.vstack((previous.position[None], actions.position))
    turns = np.vstack((previous.quaternion[None], actions.quaternion))
    with np.errstate(invalid="ignore", over="ignore"):
        far = np.linalg.norm(np.diff(positions, axis=0), axis=-1)
        wide = np.linalg.norm(difference(turns[:-1], turns[1:]), axis=-1)
        # Written so that NaN is a jump.
        room = np.ones(len(far))
        room[:1] = min(max(steps, 1), MOST_STEPS)
        wrong = np.flatnonzero(~((far <= room * limits.jump) & (wide <= room * limits.turn_jump)))
    return int(wrong[0]) if len(wrong) else None


class JumpStage:
    """Remembers the last action of the run that was let through, and how often one was not."""

    def __init__(self, limits: SafetyLimits) -> None:
        self._limits = limits
        self.start(None)

    def start(self, at: Pose | None) -> None:
        """A run begins with the tool at ``at``, which counts as the action before the first."""
        self._last, self._number, self._refused, self.count = at, -1, -1, 0

    def note(self) -> bool:
        """Count a jump found elsewhere (by the plan); returns whether that makes it a fault."""
        self.count += 1
        return self.count >= JUMPS_TO_FAULT

    def passes(self, action: Pose | None, number: int, steps: int = 1) -> bool:
        """Whether the setpoint on the way to this action may be followed."""
        if action is None or number == self._number:
            return True
        if number == self._refused:
            return False
        if self._last is not None:
            single = Pose(action.position[None], action.quaternion[None])
            if first_jump(self._last, single, self._limits, steps) is not None:
                self._refused = number
                self.count += 1
                return False
        self._last, self._number = action, number
        return True
