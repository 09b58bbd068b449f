"""Do our commands arrive?  The command topic, heard back through the bridge, is the only proof.

rosbridge answers nothing to a publish that failed, and after one damaged frame it drops every later one while the
socket stays open.  Pure bookkeeping: times are given, nothing is read or slept.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

Key = tuple[int, int]
REMEMBERED = 512  # stamps of ours kept to tell them from a stranger's


class Loopback:
    """Commands sent and seen again, by their stamp (seconds, nanoseconds), which must differ from one to the next.

    ``foreign`` counts messages on the command topic that we did not send: somebody else moves the robot.  The very
    first message of a subscription does not count: ROS 2 hands out an old one, of whoever commanded before us.
    """

    def __init__(self) -> None:
        self._waiting: OrderedDict[Key, float] = OrderedDict()
        self._ours: OrderedDict[Key, float] = OrderedDict()
        self._lock = threading.Lock()
        self._first = True
        self.sent_count = self.seen_count = self.foreign = 0
        self.last_delay: float | None = None

    def sent(self, key: Key, now: float) -> None:
        """A command with this stamp was handed to the link."""
        with self._lock:
            self.sent_count += 1
            self._waiting[key] = self._ours[key] = now
            while len(self._ours) > REMEMBERED:
                old, _ = self._ours.popitem(last=False)
                self._waiting.pop(old, None)

    def seen(self, key: Key | None, now: float) -> None:
        """A message came back; it confirms itself and everything sent before it (newest wins on the way)."""
        with self._lock:
            first, self._first = self._first, False
            if key is None or key not in self._ours:
                self.foreign += not first
                return
            self.seen_count += 1
            if key in self._waiting:
                self.last_delay = now - self._waiting[key]
                while self._waiting and self._waiting.popitem(last=False)[0] != key:
                    pass

    def age(self, now: float) -> float:
        """Seconds for which the oldest unconfirmed command has waited; 0 when nothing waits."""
        with self._lock:
            return now - next(iter(self._waiting.values())) if self._waiting else 0.0

    def reset(self) -> None:
        """Forget what waits: a new connection owes nothing for the old one."""
        with self._lock:
            self._waiting.clear()
            self._first = True
