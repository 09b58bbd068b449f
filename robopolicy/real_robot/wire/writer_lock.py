"""One writer a topic: the first to advertise holds it, and loses it after a while of silence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from robopolicy.core.errors import FrameRefused
from robopolicy.real_robot.clock import Clock


@dataclass
class _Hold:
    silence: float
    owner: str | None = None
    heard: float = 0.0


class WriterLock:
    """Who may write on the command topics.

    ROS has no ownership: two publishers on a target topic make the arm follow both.  A topic named here has one writer;
    a second one is refused as long as the first has advertised or published within ``silence`` seconds.
    """

    def __init__(self, topics: Iterable[str], clock: Clock, silence: float = 0.5) -> None:
        self._holds = {t: _Hold(silence) for t in topics}
        self._clock = clock

    def add(self, topic: str, silence: float = 0.5) -> None:
        """Guard one more topic."""
        self._holds.setdefault(topic, _Hold(silence))

    def take(self, topic: str, owner: str) -> None:
        """``owner`` advertises; raises ``FrameRefused`` while another one holds the topic."""
        self.check(topic, owner)

    def check(self, topic: str, owner: str) -> None:
        """``owner`` publishes: renew its hold, or take a hold that was lost; raises ``FrameRefused`` otherwise."""
        hold = self._holds.get(topic)
        if hold is None:
            return
        now = self._clock.now()
        if hold.owner not in (None, owner) and now - hold.heard < hold.silence:
            raise FrameRefused(f"{topic} has a writer ({hold.owner}); it is free after {hold.silence} s of silence")
        hold.owner, hold.heard = owner, now

    def release(self, topic: str, owner: str) -> None:
        """``owner`` has unadvertised or left."""
        hold = self._holds.get(topic)
        if hold is not None and hold.owner == owner:
            hold.owner = None

    def holder(self, topic: str) -> str | None:
        """Who holds the topic now; None when nobody does or the hold was lost."""
        hold = self._holds.get(topic)
        if hold is None or self._clock.now() - hold.heard >= hold.silence:
            return None
        return hold.owner
