"""The guard itself: one setpoint at a time is let through or not, and one stop target is given when a lease ends.

Source: our own.  A second implementation, in scalars, of what the driver's safety filter does in arrays (finite
numbers, quaternion, workspace, step, lead), and of what only the robot's side can do: age of a stamp by the robot's
clock, the lease, and one driver at a time.  It knows nothing of sockets, threads or ROS: times and messages are handed
in, poses come back.  What differs from a filter: it never mends a target, it refuses it; the controller keeps the last.

When to use: always, on the computer that runs the controller, as the only publisher of the controller's topic.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

from robopolicy.real_robot.guard.checks import CHECKS, Case, Pose, Target, distance, finite, unit
from robopolicy.real_robot.guard.config import GuardConfig
from robopolicy.real_robot.guard.lease import Lease, read_lease

WINDOW = 0.06  # s over which the measured speed is taken
WAITING, VOUCHED, DRIVERS = 8, 64, 64  # entries remembered at most
LIVE, LIVE_SPAN = 5, 0.03  # samples behind the newest, and s in which they came at least, that show a clock set back


class _Measured(NamedTuple):
    pose: Pose
    stamp: float
    arrival: float


class Guard:
    """Feed it ``measured``, ``lease``, ``target`` and ``tick``; publish every pose that one of the last three returns.

    ``now`` is monotonic, ``ros_now`` the robot's time of day, both in seconds.  ``counts`` says how often what was
    refused, and ``passed``; ``why`` is the reason of the last silence.  Not safe for several threads: the shells lock.
    """

    def __init__(self, config: GuardConfig | None = None) -> None:
        self.config = config or GuardConfig()
        self.holder: tuple[str, int] | None = None
        self.why = "nobody has taken the lease"
        self.counts: dict[str, int] = {}
        self.strangers: tuple[str, ...] = ()
        self._spent: dict[str, int] = {}
        self._sequence = -1
        self._leased = self._passed = 0.0
        self._vouched: deque[tuple[int, int]] = deque(maxlen=VOUCHED)
        self._waiting: deque[Target] = deque()
        self._last: Pose | None = None
        self._last_stamp: tuple[int, int] = (0, 0)
        self._track: deque[_Measured] = deque(maxlen=64)
        self._behind: deque[_Measured] = deque(maxlen=LIVE)
        self._clock = ""

    # -- what comes in -------------------------------------------------------------------------------------------------

    def measured(self, stamp: float, position: tuple[float, ...], quaternion: tuple[float, ...], now: float) -> None:
        """The arm is here; samples with a number missing or with a stamp that is not newer are left out.

        Not for ever: stamps that go on rising behind the newest, at the pace of arrival, are of a clock that was set
        back.  What was known is void then, and the next tick ends the session.
        """
        turn = unit(quaternion)
        known = turn is not None and len(position) == 3 and finite(tuple(position)) and stamp == stamp
        if turn is None or not known:
            self._count("measured refused")
            return
        sample = _Measured(Pose(tuple(position), turn), stamp, now)
        if self._track and stamp <= self._track[-1].stamp:
            self._count("measured refused")
            self._look_back(sample)
            return
        self._behind.clear()
        self._track.append(sample)

    def _look_back(self, sample: _Measured) -> None:
        behind = self._behind
        if behind and sample.stamp <= behind[-1].stamp:
            behind.clear()
        behind.append(sample)
        came, told = sample.arrival - behind[0].arrival, sample.stamp - behind[0].stamp
        # A heap of old samples that comes at once is no clock.
        if len(behind) == LIVE and came >= max(LIVE_SPAN, told / 2):
            newest = self._track[-1]
            back = newest.stamp + (sample.arrival - newest.arrival) - sample.stamp
            self._clock = f"the robot's clock was set back by {back:.3f} s"
            self._count("clock set back")
            self._track.clear()
            self._track.extend(behind)
            behind.clear()

    def lease(self, text: str, now: float, ros_now: float) -> Pose | None:
        """A lease was heard; returns the setpoint that had waited for it, if that may pass."""
        lease = read_lease(text)
        if lease is None:
            return self._refuse("lease unreadable")
        if self.holder is not None and now - self._leased > self.config.lease:
            return self._refuse("lease late")  # the next tick stops the arm
        mine = (lease.driver, lease.session)
        if self.holder is not None and self.holder != mine:
            if self.holder[0] != lease.driver or self.holder[1] > lease.session:
                # A second driver has to be armed again, by a person, once the first is gone.
                self._spend(*mine)
                return self._refuse("second driver")
            self._end(f"{lease.driver} was armed again")
        if self.holder is None and not self._take(lease, now):
            return None
        if lease.sequence <= self._sequence:
            return self._refuse("lease repeated")
        self._sequence, self._leased = lease.sequence, now
        self._vouched.append(lease.stamp)
        for waiting in list(self._waiting):
            if waiting.stamp == lease.stamp:
                self._waiting.remove(waiting)
                return self._judge(waiting, now, ros_now)
        return None

    def target(self, target: Target, now: float, ros_now: float) -> Pose | None:
        """A setpoint was heard; returns what may go to the controller.  Lease and setpoint may come in either order."""
        if self.holder is None:
            return self._refuse("no lease")
        if target.stamp in self._vouched:
            return self._judge(target, now, ros_now)
        if len(self._waiting) >= WAITING:
            self._waiting.popleft()
            self._count("not vouched for")
        self._waiting.append(target)
        return None

    def tick(self, now: float) -> Pose | None:
        """To be called every 10 ms; the stop target, once, when the lease or the stream of setpoints has ended."""
        clock, self._clock = self._clock, ""
        if self.holder is None:
            return None
        if clock:
            return self.stop(clock, now)
        if self.strangers:
            return self.stop("others publish on the controller's topic: " + ", ".join(self.strangers), now)
        if now - self._leased > self.config.lease:
            return self.stop(f"no lease for {self.config.lease:g} s", now)
        if now - self._passed > self.config.lease:
            return self.stop(f"no setpoint passed for {self.config.lease:g} s", now)
        return None

    def stop(self, why: str, now: float) -> Pose | None:
        """End the session: the stop target if the arm's place is known, then silence until another session."""
        self._end(why)
        self._count("stops")
        here = self._here(now)
        return None if here is None else self._stop_target(here)

    # -- the lease -----------------------------------------------------------------------------------------------------

    def _take(self, lease: Lease, now: float) -> bool:
        if lease.session <= self._spent.get(lease.driver, -1):
            self._count("session over")
            return False
        if self.strangers:
            self._spend(lease.driver, lease.session)
            self._count("strangers")
            return False
        self.holder, self.why = (lease.driver, lease.session), ""
        self._sequence, self._last, self._last_stamp = -1, None, (0, 0)
        self._passed = now
        return True

    def _end(self, why: str) -> None:
        if self.holder is not None:
            self._spend(*self.holder)
        self.holder, self.why, self._last = None, why, None
        self._vouched.clear()
        self._waiting.clear()

    def _spend(self, driver: str, session: int) -> None:
        self._spent[driver] = max(session, self._spent.pop(driver, -1))
        while len(self._spent) > DRIVERS:
            del self._spent[next(iter(self._spent))]

    # -- a setpoint ----------------------------------------------------------------------------------------------------

    def _judge(self, target: Target, now: float, ros_now: float) -> Pose | None:
        here = self._here(now)
        if here is None:
            return self._refuse("arm's place unknown")
        case = Case(self.config, target, here, self._last, self._last_stamp, ros_now)
        for name, refuses in CHECKS:
            if refuses(case):
                return self._refuse(name)
        size = math.sqrt(sum(v * v for v in target.quaternion))
        pose = Pose(tuple(target.position), tuple(v / size for v in target.quaternion))
        self._last, self._last_stamp, self._passed = pose, target.stamp, now
        self._count("passed")
        return pose

    def _here(self, now: float) -> Pose | None:
        fresh = self._track and 0 <= now - self._track[-1].arrival <= self.config.measured_age
        return self._track[-1].pose if fresh else None

    def _stop_target(self, here: Pose) -> Pose | None:
        newest = self._track[-1]
        base = next(m for m in self._track if newest.stamp - m.stamp <= WINDOW)
        span = newest.stamp - base.stamp
        moved = [here.position[i] - base.pose.position[i] for i in range(3)]
        way = distance(here.position, base.pose.position)
        share = self.config.stop_time / span if span > 0 else 0.0
        if way * share > self.config.speed * self.config.stop_time:
            share = self.config.speed * self.config.stop_time / way
        low, high = self.config.box_low, self.config.box_high
        point = tuple(min(max(here.position[i] + moved[i] * share, low[i]), high[i]) for i in range(3))
        # An arm that was led far out of the box is not pulled back into it.
        return Pose(point, here.quaternion) if distance(point, here.position) <= self.config.lead else None

    # -- bookkeeping ---------------------------------------------------------------------------------------------------

    def _refuse(self, why: str) -> Pose | None:
        self._count(why)
        return None

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def status(self) -> str:
        """One line for people and for ``/robopolicy/guard``."""
        state = "held by {} (session {})".format(*self.holder) if self.holder else f"silent: {self.why}"
        return state + "".join(f"; {name} {n}" for name, n in sorted(self.counts.items()))
