"""What the guard on the robot's side says of itself, and when that is a reason to hold.

Source: one line on ``/robopolicy/guard`` five times a second (``guard.core.Guard.status``): who holds the lease, or why
nothing passes.  A driver whose targets are refused there would otherwise see its own targets come back from the bridge
and an arm that does not follow.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Protocol

from robopolicy.real_robot.guard.lease import TOPIC_GUARD

if TYPE_CHECKING:
    from robopolicy.real_robot.wire.client import RosbridgeClient
    from robopolicy.real_robot.wire.slot import Sample

SILENT = 1.0  # s without a word, five of its periods, after which the guard counts as gone
TAKES = 1.0  # s that it has to say that it has taken a new session
HELD = re.compile(r"held by (\S+) \(session (\d+)\)")


class Newest(Protocol):
    """Where its last line is: a ``Slot``."""

    def newest(self) -> Sample | None:
        """The last one."""
        ...


class GuardWatch:
    """Hears the guard; ``needed``: targets go to it.  Times are local monotonic."""

    def __init__(self, needed: bool) -> None:
        self.needed = needed
        self.slot: Newest | None = None
        self._session: tuple[str, int] | None = None
        self._began = -math.inf
        self._taken = self._over = False

    def subscribe(self, client: RosbridgeClient) -> None:
        """Hear it (once; the client repeats it after a reconnect)."""
        self.slot = client.subscribe(TOPIC_GUARD, "std_msgs/String", ordered=False)

    def began(self, session: tuple[str, int] | None, now: float) -> None:
        """Leases are of this session (driver, number) from now on; ``None``: of none."""
        self._session, self._began, self._taken = session, now, False

    @property
    def ended(self) -> bool:
        """Whether, when last asked for its ``problem``, it had taken the session, or had the time to, and held it no
        longer: only a new one passes then."""
        return self._over

    def heard(self, epoch: int) -> Sample | None:
        """Its last line on the connection ``epoch``."""
        sample = self.slot.newest() if self.slot is not None else None
        return sample if sample is not None and sample.epoch == epoch else None

    def problem(self, now: float, epoch: int) -> str | None:
        """Why nothing that is sent gets through it, or ``None``; call at every tick."""
        self._over = False
        if not self.needed:
            return None
        sample = self.heard(epoch)
        if sample is None:
            return f"the guard is not heard on {TOPIC_GUARD}; is its node up?"
        if not now - sample.arrival <= SILENT:
            return f"the guard was last heard {now - sample.arrival:.1f} s ago, limit {SILENT:g} s; is its node up?"
        if self._session is None:
            return None
        text = said(sample)
        holder = HELD.match(text)
        if holder is not None and (holder[1], int(holder[2])) == self._session:
            self._taken = True
            return None
        if not self._taken and now - self._began <= TAKES:
            return None
        self._over = True
        if holder is not None:
            return f"the guard is {text}: another driver commands"
        why = text.removeprefix("silent: ")
        return f"the guard has stopped the arm: {why}" if self._taken else f"the guard lets nothing through: {why}"


def said(sample: Sample) -> str:
    """The first part of its line, without what it has counted."""
    text: str = sample.message["data"]
    return text.split("; ")[0][:200]
