"""Adversarial trials of the robot-side guard: messages meant to get past it, and what was wrong with what did.

For anyone who changes a check of ``robopolicy.real_robot.guard``: run ``trial`` and look at ``Trial.violations``.  The
judge is a third statement of the rules, in arrays, by the conversions of ``robopolicy.real_robot.frames``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from robopolicy.real_robot.frames import difference, downward, turned
from robopolicy.real_robot.guard.checks import Pose, Target
from robopolicy.real_robot.guard.config import GuardConfig
from robopolicy.real_robot.guard.core import Guard
from robopolicy.real_robot.guard.lease import LeaseWriter

KINDS = (
    *("good", "good", "good", "stop", "nan", "huge", "quaternion", "frame", "old", "future", "again", "outside"),
    *("creep", "edge", "step", "spin", "lead", "turn_lead", "unvouched", "stranger", "early"),
)
"""What a message is: a good one, a step back to the arm, numbers of any kind, another frame, stamps of another time or
seen before, a place outside, a steady drift away from the
arm and through the walls, a place at the border, too far from the last or from the arm, without a lease, of a second
driver, before its lease."""
WALL = 1_700_000_000
DT = 0.01


def stamp_of(seconds: float) -> tuple[int, int]:
    """ROS time (seconds, nanoseconds)."""
    nanos = round(seconds * 1e9)
    return nanos // 10**9, nanos % 10**9


@dataclass
class Trial:
    """What came out: poses passed, stop targets, sessions, and one line for each pose that should not have."""

    passed: int = 0
    stops: int = 0
    sessions: int = 0
    violations: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


def trial(seed: int, messages: int, config: GuardConfig | None = None) -> Trial:
    """Send so many messages, one every 10 ms and now and then after a gap, to a guard before an arm that follows."""
    rng, run = np.random.default_rng(seed), _Run(config or GuardConfig())
    for _ in range(messages):
        if rng.random() < 0.005:
            # Mostly into the room, where the lead is what ends it, else through the walls of the corner.
            run.creeps, run.course = 80, np.abs(rng.normal(size=3)) * (1 if rng.random() < 0.3 else -1)
        run.creeps -= 1
        run.one(rng, "creep" if run.creeps > 0 else str(rng.choice(KINDS)))
    run.trial.counts = run.guard.counts
    return run.trial


class _Run:
    def __init__(self, config: GuardConfig) -> None:
        self.config, self.guard, self.writer, self.trial = config, Guard(config), LeaseWriter("arm-1"), Trial()
        self.now = 0.0
        # Near a corner of the workspace, so that what leaves the box need not be far away.
        self.position, self.quaternion = np.array(config.box_high) - 0.03, downward(0.3)
        self.want = self.position.copy(), self.quaternion.copy()
        self.creeps, self.course = 0, np.ones(3)
        self.last: Pose | None = None
        self.used: set[tuple[int, int]] = set()

    def one(self, rng: np.random.Generator, kind: str) -> None:
        self.now += DT if rng.random() > 0.01 else rng.choice((0.05, 0.12, 0.2, 0.4))
        self._tick()
        if self.guard.holder is None:
            self.writer.arm()
            self.trial.sessions += 1
            self.want, self.last = (self.position.copy(), self.quaternion.copy()), None
        target = self._message(rng, kind)
        self._send(target, kind)

    def _tick(self) -> None:
        stamp = WALL + self.now
        self.guard.measured(stamp, tuple(self.position.tolist()), tuple(self.quaternion.tolist()), self.now)
        pose = self.guard.tick(self.now)
        if pose is not None:
            self.trial.stops += 1
            self._judge(pose, None, "stop of the guard")

    def _message(self, rng: np.random.Generator, kind: str) -> Target:
        """A message of that kind, beside the stream of good ones."""
        c, push = self.config, rng.normal(size=3)
        push /= np.linalg.norm(push)
        low, high = np.array(c.box_low), np.array(c.box_high)
        inside = np.clip(self.want[0] + push * 0.001, low, high)
        way = inside - self.position
        inside = self.position + way * min(1.0, 0.04 / max(float(np.linalg.norm(way)), 1e-9))
        at, turn = inside, turned(self.want[1], push * 0.002)
        stamp, frame = stamp_of(WALL + self.now - rng.uniform(0, 0.004)), c.frame_id
        if kind == "good":
            self.want = at, turn
        elif kind == "frame":
            frame = str(rng.choice(("", "world", "panda_link8", "fr3_link0")))
        elif kind in ("old", "future"):
            stamp = stamp_of(WALL + self.now + (-rng.uniform(0.16, 20) if kind == "old" else rng.uniform(0.03, 20)))
        elif kind == "again":
            stamp = max(self.used, default=stamp)
        else:
            at, turn = self._place(rng, kind, at, turn, push)
        return Target(stamp, frame, tuple(at.tolist()), tuple(turn.tolist()))

    def _place(
        self, rng: np.random.Generator, kind: str, at: np.ndarray, turn: np.ndarray, push: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where a bad message of that kind is, instead of ``at`` and ``turn``."""
        high = np.array(self.config.box_high)
        if kind == "stop":
            at, turn = self.want = self.position.copy(), self.quaternion.copy()
        elif kind == "creep":
            last = self.last or Pose(tuple(self.position), tuple(self.quaternion))
            step = self.course / np.linalg.norm(self.course)
            at, turn = np.array(last.position) + step * 0.0024, turned(last.quaternion, step * 0.008)
        elif kind == "nan":
            at = at.copy()
            at[rng.integers(3)] = rng.choice((np.nan, np.inf, -np.inf))
        elif kind == "huge":
            at = push * 10.0 ** rng.integers(1, 300)
        elif kind == "quaternion":
            turn = turn * rng.choice((0.0, 0.5, 0.94, 1.06, 2.0, np.nan))
        elif kind == "outside":
            at = high + np.abs(push) * rng.choice((1e-5, 0.01, 0.3))
        elif kind == "edge":
            at = np.where(rng.random(3) < 0.5, at, high)
        elif kind == "step":
            at = self.position + push * rng.uniform(0.035, 0.05)
        elif kind == "spin":
            turn = turned(self.quaternion, push * rng.uniform(0.1, 0.25))
        elif kind == "lead":
            at = self.position + push * rng.uniform(0.061, 0.5)
        elif kind == "turn_lead":
            turn = turned(self.quaternion, push * rng.uniform(0.31, 3.0))
        return at, turn

    def _send(self, target: Target, kind: str) -> None:
        ros_now = WALL + self.now
        lease = self.writer.text(target.stamp) if kind not in ("unvouched", "stranger") else None
        if kind == "stranger":
            lease = LeaseWriter("thief").text(target.stamp)
        if kind == "unvouched":
            target = target._replace(stamp=(target.stamp[0], target.stamp[1] + 1))
        out: list[Pose | None] = []
        if lease is not None and kind != "early":
            out.append(self.guard.lease(lease, self.now, ros_now))
        out.append(self.guard.target(target, self.now, ros_now))
        if lease is not None and kind == "early":
            out.append(self.guard.lease(lease, self.now, ros_now))
        for pose in out:
            if pose is not None:
                self.trial.passed += 1
                self._judge(pose, target, kind)
                self.used.add(target.stamp)
                self.last = pose

    def _judge(self, pose: Pose, target: Target | None, kind: str) -> None:
        """Write down what a pose must not be, and let the arm follow it."""
        c, at, turn = self.config, np.array(pose.position), np.array(pose.quaternion)
        wrong = []
        if not (np.isfinite(at).all() and np.isfinite(turn).all()):
            wrong.append("not finite")
        elif abs(np.linalg.norm(turn) - 1) > 1e-9:
            wrong.append("length of the quaternion")
        if not ((at >= np.array(c.box_low) - 1e-6) & (at <= np.array(c.box_high) + 1e-6)).all():
            wrong.append("outside the box")
        off, turned_off = np.linalg.norm(at - self.position), np.linalg.norm(difference(self.quaternion, turn))
        if not off <= c.lead + 1e-9 or not turned_off <= c.turn_lead + 1e-9:
            wrong.append("too far from the arm")
        near, turned_near = off <= 0.1 * c.speed + 0.0051, turned_off <= 0.1 * c.turn_speed + 0.0201
        if self.last is not None:
            near = near or np.linalg.norm(at - self.last.position) <= 0.1 * c.speed + 0.0011
            turned_near = turned_near or np.linalg.norm(difference(self.last.quaternion, turn)) <= 0.07
        if not (near and turned_near):
            wrong.append("too far from the last")
        if target is not None:
            age = WALL + self.now - (target.stamp[0] + target.stamp[1] * 1e-9)
            wrong += ["frame"] * (target.frame_id != c.frame_id) + ["age"] * (not -0.021 <= age <= c.age + 1e-6)
            wrong += ["stamp seen before"] * (target.stamp in self.used) + ["no lease"] * (
                kind in ("unvouched", "stranger")
            )
            size = np.linalg.norm(target.quaternion)
            wrong += ["no unit quaternion"] * (not 0.95 <= size <= 1.05)
        self.trial.violations += [f"{kind}: {w}" for w in wrong]
        if np.isfinite(at).all() and np.isfinite(turn).all() and off < 1:
            self.position = self.position + (at - self.position) * 0.03
            self.quaternion = turned(self.quaternion, difference(self.quaternion, turn) * 0.02)
