"""What goes out: targets of the arm on its command topic, and the watch over that topic.

Every target is a complete ``PoseStamped`` with a stamp of its own (robot's clock, strictly rising), by which it is
known again when it is heard back.  It is sent on the connection for which preflight was green, or not at all.
Where a guard stands on the robot's side, a lease goes out before each target and vouches for it by that stamp.
"""

from __future__ import annotations

import uuid
from collections import Counter

import numpy as np

from robopolicy.core.errors import BridgeError, LinkDown
from robopolicy.real_robot.clock import Clock
from robopolicy.real_robot.driver.state_messages import pose_message
from robopolicy.real_robot.frames import IDENTITY, Pose
from robopolicy.real_robot.guard.lease import TOPIC_LEASE, TOPIC_TARGET, LeaseWriter
from robopolicy.real_robot.interface import Interface
from robopolicy.real_robot.wire.client import RosbridgeClient
from robopolicy.real_robot.wire.loopback import Loopback
from robopolicy.real_robot.wire.messages import header, stamp_key
from robopolicy.real_robot.wire.slot import Slot

TARGET, LEASE = "geometry_msgs/PoseStamped", "std_msgs/String"
MEMORY = 1.0  # s for which a stranger's message on the command topic counts
HERE = Pose(np.zeros(3), IDENTITY)
STAMP_STEP = 2e-6  # s between two stamps; floats of this size tell 0.3 microseconds apart


class Commands:
    """Targets of one arm.  ``open`` first; a driver that only watches never calls it.

    ``probe_topic``: a topic of ours that nobody else has, to learn under which names the graph knows us and how long a
    message takes, without a message on the command topic.
    """

    def __init__(self, client: RosbridgeClient, names: Interface, clock: Clock) -> None:
        self._client, self._names, self._clock = client, names, clock
        self.counters: Counter[str] = Counter()
        self.loopback: Loopback | None = None
        self.probe_topic = f"/robopolicy/probe_{uuid.uuid4().hex[:8]}"
        self.rival_nodes: tuple[str, ...] = ()
        self._probe: Slot | None = None
        self._probes = 0
        self._own: tuple[int, tuple[str, ...]] = (0, ())
        self._foreign, self._foreign_at = 0, -float("inf")
        self._stamp, self._seq = 0.0, 0
        self._lease = LeaseWriter(f"driver-{uuid.uuid4().hex[:8]}") if names.command == TOPIC_TARGET else None

    @property
    def opened(self) -> bool:
        """Whether targets may be sent at all."""
        return self.loopback is not None

    def open(self) -> None:
        """Advertise the command topic and hear it back."""
        if self.loopback is None:
            self._advertise()
            self.loopback = self._client.watch_loopback(self._names.command, TARGET)

    def advertise_again(self) -> None:
        """A gateway refuses a second writer for as long as the first is there: ask once more."""
        if self.opened:
            self._advertise()

    def _advertise(self) -> None:
        self._client.advertise(self._names.command, TARGET)
        if self._lease is not None:
            self._client.advertise(TOPIC_LEASE, LEASE)

    def arm(self) -> None:
        """The operator has armed: a new session for the guard, which lets a session that ended never come back."""
        if self._lease is not None:
            self._lease.arm()

    @property
    def session(self) -> tuple[str, int] | None:
        """Whose leases they are, driver and arming; ``None`` without a guard."""
        return None if self._lease is None else (self._lease.driver, self._lease.session)

    def restart(self) -> None:
        """A new link: strangers heard on the old one do not count."""
        self.rival_nodes, self._foreign_at = (), -float("inf")
        self._foreign = self.loopback.foreign if self.loopback is not None else 0

    def clock_set(self) -> None:
        """The robot's clock was set: stamps need not rise above those of before, which may lie in its future."""
        self._stamp = 0.0

    def send(self, pose: Pose, robot_time: float, epoch: int) -> bool:
        """Send a target now, or never; false if the link is not that of ``epoch``.  Never raises for a lost link."""
        self._stamp, self._seq = max(robot_time, self._stamp + STAMP_STEP), self._seq + 1
        stamped = header(self._stamp, self._names.base_frame, self._names.ros, self._seq % 2**32)
        message = {"header": stamped, "pose": pose_message(pose)}
        stamp = stamp_key(message)
        if self._lease is not None and stamp is not None:
            self._client.publish(TOPIC_LEASE, {"data": self._lease.text(stamp)}, epoch=epoch, drop=True)
        sent = self._client.publish(self._names.command, message, epoch=epoch, drop=True)
        self.counters["published" if sent else "not_published"] += 1
        return sent

    def close(self) -> None:
        """Take the command topic back."""
        if self.loopback is not None:
            self._client.unadvertise(self._names.command)
            if self._lease is not None:
                self._client.unadvertise(TOPIC_LEASE)
            self.loopback = None

    # -- watching the topic --------------------------------------------------------------------------------------------

    def age(self, now: float) -> float | None:
        """Seconds for which the oldest target sent has not been heard back; ``None`` for who only watches."""
        return self.loopback.age(now) if self.loopback is not None else None

    def rivals(self, now: float) -> int:
        """Publishers on the command topic that are not we: nodes of the graph, or whose messages were heard within the
        last second (all clients of one rosbridge are the same node)."""
        if self.loopback is None:
            return 0
        if self.loopback.foreign > self._foreign:
            self._foreign, self._foreign_at = self.loopback.foreign, now
        return max(len(self.rival_nodes), int(now - self._foreign_at <= MEMORY))

    def rendezvous(self, timeout: float) -> bool:
        """Send a message on the probe topic and wait (real time) for it to come back: everything sent before has then
        reached the robot, and everything that the robot had said by then has reached us."""
        if self._probe is None:
            self._client.advertise(self.probe_topic, TARGET)
            self._probe = self._client.subscribe(self.probe_topic, TARGET, ordered=False)
        self._probes += 1
        message = {"header": header(self._probes, "", self._names.ros), "pose": pose_message(HERE)}
        before = self._probe.newest()
        count = before.count if before is not None else 0
        try:
            self._client.publish(self.probe_topic, message)
        except LinkDown:
            return False
        return self._probe.wait(timeout, after=count) is not None

    def own_nodes(self) -> tuple[str, ...]:
        """Names under which the graph knows this client, as of this connection; waits for answers."""
        epoch, known = self._own
        if epoch != self._client.epoch or not known:
            epoch = self._client.epoch
            self._client.advertise(self.probe_topic, TARGET)
            known = tuple(self._client.publishers(self.probe_topic))
            self._own = epoch, known
        return known

    def look_for_rivals(self) -> None:
        """Ask the graph who publishes on the command topic; waits for answers, and notes nothing if there is none."""
        try:
            own = self.own_nodes()
            found = self._client.publishers(self._names.command)
        except BridgeError:
            self.counters["graph_unanswered"] += 1
            return
        self.rival_nodes = tuple(sorted(set(found) - set(own)))
