"""The lease that a driver renews with every setpoint, and its four words on the wire (``std_msgs/String``).

Source: our own; named in no ROS package.  ``DRIVER SESSION SEQUENCE STAMP``, for example
``arm-7f3a 3 1201 1700000000.012345678``: who commands, its how-manieth arming (it rises; a session that has ended never
comes back), a number that rises with every lease, and the stamp of the one setpoint that this lease vouches for.  A
setpoint without a lease of the holder moves nothing, so a stranger on the topic of targets does not either.
"""

from __future__ import annotations

from typing import NamedTuple

TOPIC_TARGET = "/robopolicy/target_pose"
TOPIC_LEASE = "/robopolicy/lease"
TOPIC_GUARD = "/robopolicy/guard"
LONGEST = 128  # characters of a lease, and digits never more than 19


class Lease(NamedTuple):
    """One lease; ``stamp`` is (seconds, nanoseconds)."""

    driver: str
    session: int
    sequence: int
    stamp: tuple[int, int]

    def text(self) -> str:
        """As it goes over the wire."""
        return "{} {} {} {}.{:09d}".format(self.driver, self.session, self.sequence, *self.stamp)


def read_lease(text: str) -> Lease | None:
    """The lease in a text, ``None`` for anything else."""
    words = text.split(" ") if isinstance(text, str) and len(text) <= LONGEST else []
    if len(words) != 4 or not words[0] or not words[0].isascii() or not words[0].isprintable():
        return None
    seconds, dot, nanos = words[3].partition(".")
    numbers = (words[1], words[2], seconds, nanos)
    if not dot or len(nanos) != 9 or not all(w.isascii() and w.isdigit() and len(w) <= 19 for w in numbers):
        return None
    return Lease(words[0], int(words[1]), int(words[2]), (int(seconds), int(nanos)))


class LeaseWriter:
    """The driver's side: one text for each setpoint; publish the lease first, then the setpoint with that stamp."""

    def __init__(self, driver: str) -> None:
        if not driver or " " in driver or not driver.isascii() or not driver.isprintable() or len(driver) > 40:
            raise ValueError(f"driver: expected one word of at most 40 letters, got {driver[:60]!r}")
        self.driver = driver
        self.session = self.sequence = 0

    def arm(self, session: int | None = None) -> None:
        """A new session: after every arming, and after every time that the driver fell silent."""
        session = self.session + 1 if session is None else session
        if session <= self.session:
            raise ValueError(f"session: {session} is not above {self.session}")
        self.session, self.sequence = session, 0

    def text(self, stamp: tuple[int, int]) -> str:
        """The lease of the setpoint with this stamp (seconds, nanoseconds)."""
        self.sequence += 1
        return Lease(self.driver, self.session, self.sequence, stamp).text()
