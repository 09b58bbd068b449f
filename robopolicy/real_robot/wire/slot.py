"""The newest message of a topic, with the time of its arrival; older, repeated and invalid ones never get in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from robopolicy.core.errors import InvalidMessage
from robopolicy.real_robot.wire.messages import Message, conform, seconds_of, stamp_key
from robopolicy.real_robot.wire.schema import Flavour


@dataclass(frozen=True, slots=True)
class Sample:
    """One message: ``stamp`` as its sender wrote it (seconds of the robot's clock, None if unset), ``arrival`` local
    monotonic seconds, ``epoch`` the connection that brought it, ``count`` its number in the slot from 1."""

    message: Message
    stamp: float | None
    arrival: float
    epoch: int
    count: int


class Slot:
    """Newest-wins cell of one subscription, filled by the reader thread and read by anybody.

    Ordered by the header's stamp (to the nanosecond): a message that is not newer than the newest is dropped.  At a new
    connection a latched or replayed old message may come first; if its stamp is not newer than what was known before,
    it waits on probation until a still newer one shows that the source runs (its clock was set back).
    """

    def __init__(self, topic: str, type_name: str, ordered: bool = True) -> None:
        self.topic, self.type, self.ordered = topic, type_name, ordered
        self.on_sample: Callable[[Sample], None] | None = None
        self.received = self.invalid = self.stale = 0
        self.last_error = ""
        self.last_stale: tuple[float, float] | None = None  # stamp and arrival of what was dropped for its order
        self._newest: Sample | None = None
        self._key: tuple[int, int] | None = None
        self._probation: tuple[int, int] | None = None
        self._key_epoch = 0
        self._changed = threading.Condition()

    def newest(self) -> Sample | None:
        """The newest sample, None before the first."""
        return self._newest

    def age(self, now: float) -> float:
        """Seconds since the newest sample arrived (infinite before the first)."""
        sample = self._newest
        return float("inf") if sample is None else now - sample.arrival

    def wait(self, timeout: float, after: int = 0) -> Sample | None:
        """Wait for a sample whose count is above ``after``; None if none came."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None and self._newest.count > after, timeout)
            sample = self._newest
        return sample if sample is not None and sample.count > after else None

    def offer(self, message: object, flavour: Flavour, arrival: float, epoch: int) -> bool:
        """Take a message in, or count why not; true when it became the newest."""
        self.received += 1
        try:
            checked = conform(self.type, message, flavour, extra=True)
        except InvalidMessage as e:
            self.invalid += 1
            self.last_error = str(e)
            return False
        key = stamp_key(checked) if self.ordered else None
        if key is not None and not self._in_order(key, epoch):
            self.stale += 1
            self.last_stale = seconds_of(checked["header"]["stamp"]), arrival
            return False
        stamp = seconds_of(checked["header"]["stamp"]) if key is not None else None
        with self._changed:
            count = 1 if self._newest is None else self._newest.count + 1
            sample = self._newest = Sample(checked, stamp, arrival, epoch, count)
            self._changed.notify_all()
        if self.on_sample is not None:
            self.on_sample(sample)
        return True

    def restart(self) -> None:
        """Forget the order: the sender's clock was set, and what it says now is the truth."""
        self._key = self._probation = self.last_stale = None

    def _in_order(self, key: tuple[int, int], epoch: int) -> bool:
        if self._key is None or key > self._key:
            self._key, self._key_epoch, self._probation = key, epoch, None
            return True
        if epoch == self._key_epoch:
            return False
        if self._probation is not None and key > self._probation:
            self._key, self._key_epoch, self._probation = key, epoch, None
            return True
        self._probation = max(key, self._probation or key)
        return False
