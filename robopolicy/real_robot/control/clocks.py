"""Two clocks: the offset to the robot's, and whether a stamp can be believed.

Source: the offset of least round trip is NTP's (Mills, RFC 5905, section 10); the limits are this project's
(docs/safety.md).  Nothing here reads a clock by itself or sleeps: every function is given the time.

Local times are monotonic seconds.  ``theta`` is the robot's clock minus the local monotonic clock, so that the age of
data is ``now + theta - stamp``; the two have different origins and ``theta`` is a large number.  What an operator
understands, how far apart the two wall clocks are, is ``wall_offset``.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import Enum

STEP = 0.05  # s by which the offset may change at once before it counts as a step of a clock
FUTURE = 0.02  # s by which a stamp may be ahead of the corrected clock
SLEW = 50e-6  # s a second by which the offset in use follows the measured one
BURST = 20  # probes of which the one with the least round trip counts
WALL_LIMIT = 0.5  # s between the wall clocks above which preflight refuses
SPREAD_LIMIT = 0.02  # s between the offsets of the better half of a burst
WINDOW = 5.0  # s over which the least delay of a source is taken


@dataclass(frozen=True)
class Offset:
    """One measured offset: ``theta`` as above, ``error`` (half the round trip) bounds how wrong it is, ``spread`` among
    the better half of the burst, ``wall`` robot's clock minus local wall clock, ``at`` local monotonic; all seconds."""

    theta: float
    error: float
    spread: float
    wall: float
    at: float

    def problem(self) -> str | None:
        """Why preflight refuses this offset, or ``None``."""
        if abs(self.wall) > WALL_LIMIT:
            return (
                f"the robot's clock is {self.wall:+.3f} s off this machine's, more than {WALL_LIMIT} s: "
                "synchronise both to one time server"
            )
        if self.spread > SPREAD_LIMIT:
            return (
                f"the clock offset scatters by {1e3 * self.spread:.0f} ms, more than {1e3 * SPREAD_LIMIT:.0f} ms: "
                "look for load on the network or the robot's computer"
            )
        return None


class OffsetEstimator:
    """Offset to the robot's clock from bursts of time requests, followed slowly, with steps told apart from drift."""

    def __init__(self, burst: int = BURST) -> None:
        self._burst = burst
        self._samples: list[tuple[float, float, float]] = []
        self.measured: Offset | None = None
        self._theta, self._as_of = 0.0, 0.0

    def begin(self) -> None:
        """A new burst: what is left of one that was broken off may be of another clock."""
        self._samples = []

    def add(self, sent: float, server: float, received: float, wall: float) -> str | None:
        """One probe: local monotonic times of request and answer, the robot's time, the local wall clock at the answer.

        The burst-th probe closes a burst.  Returns a reason to hold when that shows a step of a clock, else ``None``.
        Probes that are not numbers, or that were answered before they were asked, are dropped.
        """
        round_trip = received - sent
        if not all(map(math.isfinite, (sent, server, received, wall))) or round_trip < 0:
            return None
        self._samples.append((round_trip, server - 0.5 * (sent + received), wall - received))
        if len(self._samples) < self._burst:
            return None
        samples, self._samples = sorted(self._samples), []
        round_trip, theta, base = samples[0]
        better = [s[1] for s in samples[: max(2, len(samples) // 2)]]
        fresh = Offset(theta, 0.5 * round_trip, max(better) - min(better), theta - base, received)
        return self._take(fresh)

    def _take(self, fresh: Offset) -> str | None:
        previous, self.measured = self.measured, fresh
        if previous is None:
            self._theta, self._as_of = fresh.theta, fresh.at
            return None
        change = fresh.theta - previous.theta
        # Both are uncertain by their error: only what exceeds those as well is surely a step.
        if abs(change) > STEP + fresh.error + previous.error:
            self._theta, self._as_of = fresh.theta, fresh.at
            return f"clock: the offset to the robot changed by {change:+.3f} s at once"
        return None

    def adopt(self, now: float) -> str | None:
        """Use the measured offset at once where the one in use is so far off that its stamps would be refused, which
        slewing would not mend for minutes; returns that as a reason to hold, else ``None``."""
        if self.measured is None or abs(gap := self.measured.theta - self.theta(now)) <= FUTURE + self.measured.error:
            return None
        self._theta = self.measured.theta
        return f"clock: the offset to the robot was {gap:+.3f} s off the measured one"

    @property
    def ready(self) -> bool:
        """Whether a burst was completed."""
        return self.measured is not None

    def theta(self, now: float) -> float:
        """Offset in use at ``now``: follows the measured one by at most 50 microseconds a second.

        Raises ``ValueError`` before the first burst: an age from a guessed offset is worse than none.
        """
        if self.measured is None:
            raise ValueError("clock offset: no burst of time requests was completed yet")
        allowed = SLEW * max(0.0, now - self._as_of)
        self._theta += min(max(self.measured.theta - self._theta, -allowed), allowed)
        self._as_of = max(now, self._as_of)
        return self._theta

    def age(self, stamp: float, now: float) -> float:
        """Age in seconds, at local ``now``, of data stamped by the robot's clock."""
        return now + self.theta(now) - stamp


class StampFault(str, Enum):
    """Why a stamped message counts as stale however recently it arrived."""

    NOT_A_NUMBER = "the stamp is no number"
    FUTURE = "the stamp lies in the future"
    BACKWARDS = "the stamp went backwards"
    FROZEN = "the stamp stands still while messages arrive"


@dataclass(frozen=True)
class Dated:
    """A message's verdict: ``time`` of its content in local monotonic seconds, ``fault`` or ``None``, and whether the
    time was made up from the arrival (``assumed``, for sources that stamp nothing)."""

    time: float
    fault: StampFault | None = None
    assumed: bool = False


class StampWatch:
    """Judges the stamps of one source.

    ``latency``: seconds between capture and arrival to assume when a stamp is zero (cameras without a clock).
    """

    def __init__(self, latency: float = 0.0) -> None:
        self._latency = latency
        self._newest = -math.inf
        self._delays: deque[tuple[float, float]] = deque()

    def judge(self, stamp: float, arrival: float, theta: float) -> Dated:
        """Date a message that arrived at local ``arrival``; ``theta`` from ``OffsetEstimator``."""
        if stamp == 0:
            return Dated(arrival - self._latency, assumed=True)
        if not math.isfinite(stamp):
            return Dated(-math.inf, StampFault.NOT_A_NUMBER)
        local = stamp - theta
        if local > arrival + FUTURE:
            return Dated(local, StampFault.FUTURE)
        if stamp == self._newest:
            return Dated(local, StampFault.FROZEN)
        if stamp < self._newest:
            return Dated(local, StampFault.BACKWARDS)
        self._newest = stamp
        self._remember(arrival, arrival - local)
        return Dated(local)

    def _remember(self, arrival: float, delay: float) -> None:
        while self._delays and self._delays[0][0] < arrival - WINDOW:
            self._delays.popleft()
        # A larger older delay can never be the least again.
        while self._delays and self._delays[-1][1] >= delay:
            self._delays.pop()
        self._delays.append((arrival, delay))

    @property
    def least_delay(self) -> float | None:
        """Least (arrival - stamp), corrected, of the last 5 s; below zero means that the offset is wrong by that
        much."""
        return self._delays[0][1] if self._delays else None

    def step(self, stamp: float, arrival: float, theta: float) -> float | None:
        """Seconds by which the source's clock jumped, if this message shows a jump of more than 50 ms; call before
        ``judge``.  A stamp ahead of time, or behind one already seen although it arrived later, cannot be latency."""
        if not math.isfinite(stamp) or stamp == 0:
            return None
        ahead = stamp - theta - arrival
        if ahead > STEP:
            return ahead
        back = stamp - self._newest
        return back if -math.inf < back < -STEP else None

    def restart(self) -> None:
        """Forget the newest stamp: after a reconnect or an accepted step of the clock."""
        self._newest = -math.inf
        self._delays.clear()
