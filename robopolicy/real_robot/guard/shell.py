"""What the three shells of the guard share: one lock, one way out, and names.  Standard library only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from robopolicy.real_robot.guard.checks import Pose, Target
from robopolicy.real_robot.guard.config import GuardConfig
from robopolicy.real_robot.guard.core import Guard
from robopolicy.real_robot.guard.lease import TOPIC_LEASE, TOPIC_TARGET

TICK = 0.01  # s between ticks
STATUS_EVERY, STRANGERS_EVERY = 0.2, 0.5  # s


class Topics(NamedTuple):
    """Where the guard listens and speaks; ``measured_type``: ``franka_state``, ``franka_robot_state`` or ``pose``."""

    controller: str
    measured: str
    measured_type: str
    target: str = TOPIC_TARGET
    lease: str = TOPIC_LEASE


class Shell:
    """A guard for several threads; ``publish`` gets every pose that may go to the controller, in order."""

    def __init__(
        self,
        config: GuardConfig,
        publish: Callable[[Pose], None],
        now: Callable[[], float],
        ros_now: Callable[[], float],
        told: Callable[[str], None],
    ) -> None:
        self.guard = Guard(config)
        self._publish, self._now, self._ros_now, self._told = publish, now, ros_now, told
        self._lock = threading.Lock()
        self._holder = self.guard.holder

    def lease(self, text: str) -> None:
        """A lease was heard."""
        with self._lock:
            self._out(self.guard.lease(text, self._now(), self._ros_now()))

    def target(self, stamp: tuple[int, int], frame_id: str, position: Sequence[float], turn: Sequence[float]) -> None:
        """A setpoint was heard."""
        heard = Target(stamp, frame_id, tuple(position), tuple(turn))
        with self._lock:
            self._out(self.guard.target(heard, self._now(), self._ros_now()))

    def measured(self, stamp: tuple[int, int], position: Sequence[float], turn: Sequence[float]) -> None:
        """The arm is here."""
        with self._lock:
            self.guard.measured(stamp[0] + stamp[1] * 1e-9, tuple(position), tuple(turn), self._now())

    def measured_matrix(self, stamp: tuple[int, int], numbers: Sequence[float]) -> None:
        """The same from libfranka's ``O_T_EE``, sixteen numbers column by column."""
        m = [float(v) for v in numbers]
        self.measured(stamp, m[12:15], quaternion_of_columns(m))

    def tick(self) -> None:
        """Every 10 ms."""
        with self._lock:
            self._out(self.guard.tick(self._now()))

    def strangers(self, nodes: Sequence[str]) -> None:
        """Who else publishes on the controller's topic."""
        with self._lock:
            self.guard.strangers = tuple(sorted(nodes))

    def status(self) -> str:
        """One line."""
        with self._lock:
            return self.guard.status()

    def close(self, why: str = "the guard was ended") -> None:
        """Stop the arm before the guard goes."""
        with self._lock:
            if self.guard.holder is not None:
                self._out(self.guard.stop(why, self._now()))

    def _out(self, pose: Pose | None) -> None:
        if pose is not None:
            self._publish(pose)
        if self.guard.holder != self._holder:
            self._holder = self.guard.holder
            self._told(self.guard.status())


def quaternion_of_columns(m: Sequence[float]) -> tuple[float, float, float, float]:
    """Quaternion x, y, z, w of the rotation in sixteen (or eleven) numbers column by column; a broken one gives NaN."""
    xx, yx, zx, xy, yy, zy, xz, yz, zz = m[0], m[1], m[2], m[4], m[5], m[6], m[8], m[9], m[10]
    # Rows of 4 q q^T: the one with the largest diagonal entry is exact near half turns too.
    rows = (
        (1 + xx - yy - zz, xy + yx, xz + zx, zy - yz),
        (xy + yx, 1 - xx + yy - zz, yz + zy, xz - zx),
        (xz + zx, yz + zy, 1 - xx - yy + zz, yx - xy),
        (zy - yz, xz - zx, yx - xy, 1 + xx + yy + zz),
    )
    row = max(range(4), key=lambda i: rows[i][i])
    x, y, z, w = rows[row]
    size = (x * x + y * y + z * z + w * w) ** 0.5
    if not size > 0:
        return (float("nan"),) * 4
    return x / size, y / size, z / size, w / size
