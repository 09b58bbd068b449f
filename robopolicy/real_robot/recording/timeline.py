"""What was wanted of the tool when, and what was emitted: seen from outside the driver, by looking at it often.

The plan's own book is in the control process; here is kept as much of it as a recording needs, from the chunks that
were submitted (dated when the tool shall be there), the human's wishes (which the arm follows a latency later) and the
driver's status.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, replace

from robopolicy.real_robot.control.plan import SLACK, Waypoints
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.driver.contract import Status
from robopolicy.real_robot.frames import Pose, interpolate
from robopolicy.real_robot.recording.sights import LATE
from robopolicy.real_robot.safety.types import SafetyFlag, Setpoint

KEEP = 5.0  # s of the past


@dataclass(frozen=True, eq=False)
class Wanted:
    """Where the tool was to be at ``time``: by ``step`` of chunk ``chunk``, or by a human or nobody (-1)."""

    time: float
    pose: Pose
    width: float | None
    chunk: int = -1
    step: int = -1
    human: bool = False


@dataclass(frozen=True, eq=False)
class Look:
    """One look at the driver."""

    at: float
    state: State
    emitted: Pose | None
    width: float | None
    flags: SafetyFlag


class Timeline:
    """``latency``, ``gripper_latency``: seconds by which arm and hand follow what is emitted (the driver's)."""

    def __init__(self, latency: float, gripper_latency: float) -> None:
        self.latency, self.gripper_latency = latency, gripper_latency
        self._actions: deque[Wanted] = deque()
        self._wishes: deque[Wanted] = deque()
        self._looks: deque[Look] = deque()
        self._period = 0.0

    # -- what happens --------------------------------------------------------------------------------------------------

    def look(self, status: Status) -> None:
        """The driver as it is now."""
        if self._looks and status.now <= self._looks[-1].at:
            return
        if self._looks and self._looks[-1].state is State.RUNNING and status.state is not State.RUNNING:
            self._cut(status.now)  # the plan was cleared: what was not due yet never came
        self._looks.append(Look(status.now, status.state, status.emitted, status.emitted_gripper, status.flags))
        for queue, time in ((self._looks, "at"), (self._actions, "time"), (self._wishes, "time")):
            while len(queue) > 1 and getattr(queue[1], time) < status.now - KEEP:
                queue.popleft()  # type: ignore[attr-defined]

    def chunk(self, chunk: Waypoints, now: float) -> None:
        """A chunk was taken at ``now``: its actions that are not late replace what lay ahead.  One that the plan will
        refuse changes nothing."""
        if chunk.problem() is not None:
            return
        stamps = [float(s) for s in chunk.stamps]
        coming = [i for i, due in enumerate(stamps) if due - self.latency > now + SLACK]
        if not coming:
            return
        self._cut(now)
        self._period = float(chunk.dt)
        for i in coming:
            pose = Pose(chunk.track.position[i], chunk.track.quaternion[i])
            width = None if chunk.gripper is None else float(chunk.gripper[i])
            self._actions.append(Wanted(stamps[i], pose, width, int(chunk.chunk), i))

    def _cut(self, now: float) -> None:
        while self._actions and self._actions[-1].time - self.latency > now + SLACK:
            self._actions.pop()

    def wish(self, setpoint: Setpoint, made: float) -> None:
        """A human's wish."""
        if not self._wishes or made + self.latency > self._wishes[-1].time:
            pose = Pose(setpoint.position, setpoint.quaternion)
            self._wishes.append(Wanted(made + self.latency, pose, setpoint.gripper, human=True))

    # -- what was ------------------------------------------------------------------------------------------------------

    @property
    def since(self) -> float | None:
        """Since when something has been emitted at every look; ``None`` if at the last one nothing was."""
        found = None
        for k in reversed(self._looks):
            if k.emitted is None:
                break
            found = k.at
        return found

    def emitted(self, at: float) -> Look | None:
        """The last look at or before ``at``, if anything had been emitted by then; between two that lie far apart the
        pose is interpolated."""
        i = bisect_right(self._looks, at, key=lambda k: k.at)
        look = self._looks[i - 1] if i else None
        if look is None or look.emitted is None:
            return None
        after = self._looks[i] if i < len(self._looks) else look
        if after.at - look.at <= LATE or after.emitted is None:
            return look
        return replace(look, emitted=interpolate(look.emitted, after.emitted, (at - look.at) / (after.at - look.at)))

    def flags(self, after: float, until: float) -> SafetyFlag:
        """All flags seen after one time and until another."""
        found = SafetyFlag.NONE
        for k in self._looks:
            if after < k.at <= until:
                found |= k.flags
        return found

    def wanted(self, due: float) -> Wanted | None:
        """Where the tool was to be at ``due``: by the policy's nearest action while it ran, by the human's last wish
        while he had the arm, else where it stood."""
        was = self.emitted(due - self.latency)
        if was is None or was.emitted is None:
            return None
        stood = Wanted(due, was.emitted, was.width)
        if was.state is State.RUNNING and self._actions:
            i = bisect_right(self._actions, due, key=lambda a: a.time)
            near = [self._actions[k] for k in (i - 1, i) if 0 <= k < len(self._actions)]
            found = min(near, key=lambda a: abs(a.time - due))
            return found if found.time <= due + 0.5 * self._period else stood
        if was.state is State.HUMAN:
            i = bisect_right(self._wishes, due, key=lambda a: a.time)
            if not i:
                return Wanted(due, was.emitted, was.width, human=True)
            found = self._wishes[i - 1]
            # The hand is followed sooner than the arm.
            k = bisect_right(self._wishes, due + self.latency - self.gripper_latency, key=lambda a: a.time)
            return Wanted(found.time, found.pose, self._wishes[k - 1].width, human=True)
        return stood
