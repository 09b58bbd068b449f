"""The robot's clock as the driver knows it: bursts of time requests, and whether stamps can be trusted.

Source: ``control.clocks``, which judges; here is what asks.  A probe waits for its answer, so it is made by a helper
thread, or by call in lock-step, never by a control tick.
"""

from __future__ import annotations

import math
import threading

from robopolicy.core.errors import BridgeError
from robopolicy.real_robot.clock import Clock
from robopolicy.real_robot.control.clocks import BURST, Offset, OffsetEstimator
from robopolicy.real_robot.wire.client import RosbridgeClient

PERIOD = 10.0  # s between two bursts
RETRY = 1.0  # s after a burst that failed
UNKNOWN = "clock: the robot's time is not known"


class ClockSync:
    """Offset to the robot's clock.

    ``trouble`` says why stamps cannot be trusted; it stays until a burst was completed after it was noticed *and* a
    control tick has seen it (``told``).  All methods may be called from any thread; ``probe`` waits for answers.
    """

    def __init__(self, client: RosbridgeClient, clock: Clock) -> None:
        self._client, self._clock = client, clock
        self._estimator = OffsetEstimator()
        self._lock = threading.Lock()
        self._next = self._asked = -math.inf
        self._moved = False
        self.trouble: str | None = UNKNOWN
        self.failure = ""

    @property
    def ready(self) -> bool:
        """Whether the offset is known."""
        return self._estimator.ready

    @property
    def offset(self) -> Offset | None:
        """The newest measured one."""
        return self._estimator.measured

    def theta(self, now: float) -> float:
        """Robot's clock minus local monotonic clock, s; raises ``ValueError`` before it is known."""
        with self._lock:
            return self._estimator.theta(now)

    def due(self, now: float) -> bool:
        """Whether a burst should be made now."""
        return now >= self._next

    def want(self) -> None:
        """A new connection: measure again soon."""
        self._next = -math.inf

    def hurry(self) -> None:
        """Stamps do not fit the offset in use: measure again, at most once a second."""
        self._next = min(self._next, self._asked + RETRY)

    def distrust(self, why: str) -> None:
        """Stamps show that a clock was set: nothing is believed until it was measured again."""
        with self._lock:
            if self.trouble is None:
                self.trouble = why
            self._next = -math.inf

    def probe(self) -> Offset | None:
        """One burst; the offset, or ``None`` and a ``failure`` if the server does not answer."""
        self._asked = self._clock.now()
        self._next = self._asked + PERIOD
        step: str | None = None
        with self._lock:
            self._estimator.begin()
        try:
            for _ in range(BURST):
                sent, server, received = self._client.server_time()
                with self._lock:
                    step = self._estimator.add(sent, server, received, self._clock.wall()) or step
        except BridgeError as e:
            self.failure, self._next = str(e), self._clock.now() + RETRY
            return None
        self.failure = ""
        with self._lock:
            step = step or self._estimator.adopt(self._clock.now())
            if self.trouble == UNKNOWN:
                self.trouble = None
            elif self.trouble is not None or step is not None:
                # What was dated with the old offset must not be compared with what is dated with the new one.
                self.trouble, self._moved = self.trouble or step, True
        return self._estimator.measured

    def told(self) -> bool:
        """A tick has seen the trouble; true, and the trouble is over, if the offset was measured after it began."""
        with self._lock:
            if not self._moved:
                return False
            self._moved, self.trouble = False, None
            return True
