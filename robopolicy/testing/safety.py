"""Adversarial trials of the robot's safety filter: chunks meant to break it, a simple arm, and what was violated.

For anyone who changes a stage, the limits, or writes a filter of their own: run ``trial`` over many seeds and look at
``Trace.violations``.  The arm is a first-order lag, which is what an impedance controller's target filter looks like
from outside; the twin is the better arm, this one is fast enough for ten thousand chunks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from robopolicy.real_robot.control.plan import Plan, Waypoints
from robopolicy.real_robot.frames import Pose, difference, downward, normalised, slerp, turned
from robopolicy.real_robot.limits import SafetyLimits
from robopolicy.real_robot.safety.filter import SafetyFilter
from robopolicy.real_robot.safety.types import STOP_AHEAD, Emitted, Link, Measured, SafetyFlag, Setpoint
from robopolicy.real_robot.safety.workspace import Workspace

KINDS = ("walk", "steps", "nyquist", "ramp", "tour", "teleport", "huge", "broken", "spin", "edge")
"""Sorts of chunks: a random walk, steps to anywhere, an alternation at every action, steady drift into a wall, a tour
through and beyond the workspace, targets thrown about the arm, numbers of any size, NaN and infinity, wild rotations,
and targets that slide along the walls."""
TOLERANCE = 1e-6  # relative, of speeds and their derivatives, and metres or radians of places


class FirstOrderArm:
    """An arm whose tool goes towards the last published pose with time constant ``lag`` seconds."""

    def __init__(self, pose: Pose, lag: float = 0.3) -> None:
        self.position, self.quaternion, self._lag = pose.position.copy(), pose.quaternion.copy(), lag
        self._rate = np.zeros(6)

    def follow(self, pose: Pose, dt: float) -> None:
        """Let ``dt`` seconds pass with ``pose`` as the target."""
        share = dt / self._lag
        way = np.concatenate((pose.position - self.position, difference(self.quaternion, pose.quaternion))) * share
        self.position = self.position + way[:3]
        self.quaternion = normalised(slerp(self.quaternion, pose.quaternion, share))
        self._rate = way / dt

    def measured(self, at: float, width: float = 0.0) -> Measured:
        """Its state, dated ``at``."""
        return Measured(at, self.position.copy(), self.quaternion.copy(), self._rate.copy(), width=width)


def adversarial_chunk(
    rng: np.random.Generator, kind: str, here: Pose, now: float, epoch: int, limits: SafetyLimits, size: int = 8
) -> Waypoints:
    """A chunk of ``size`` actions of one of ``KINDS``, about the pose ``here``."""
    k = np.arange(1, size + 1)[:, None]
    low, high = np.array(limits.workspace.low), np.array(limits.workspace.high)
    sign = np.where(k % 2, 1.0, -1.0)
    wild = rng.normal(size=(size, 3))
    one, turn = rng.normal(size=3), rng.normal(size=3)
    offsets = {
        "walk": np.cumsum(wild * 0.01, axis=0),
        "steps": wild * 0.3,
        "nyquist": sign * one * 0.01 * rng.choice((0.2, 1.0, 3.0)),
        "ramp": k * one / np.linalg.norm(one) * 0.012,
        "tour": k * one * 0.02,
        "teleport": np.where(rng.uniform(size=(size, 1)) < 0.2, wild, 0.002 * wild),
        "huge": wild * 10 ** rng.uniform(-6, 9),
        "broken": 0.005 * wild,
        "spin": 0.002 * wild,
    }
    if kind == "edge":
        positions = np.clip(here.position + np.cumsum(wild * 0.02, axis=0), low, high)
        axis = int(rng.integers(3))
        positions[:, axis] = rng.choice((low[axis], high[axis])) + rng.normal(scale=0.01, size=size)
    else:
        positions = here.position + offsets[kind]
    turns = {"spin": wild * 2.0, "nyquist": sign * turn * 0.05, "walk": np.cumsum(wild * 0.03, axis=0)}
    quaternions = turned(here.quaternion, turns.get(kind, 0.02 * k * turn))
    quaternions = quaternions * np.where(rng.uniform(size=(size, 1)) < 0.5, -1.0, 1.0)  # signs mean nothing
    if kind == "broken":
        bad = rng.choice((np.nan, np.inf, -np.inf, 1e308))
        (positions if rng.uniform() < 0.5 else quaternions)[rng.integers(size), rng.integers(3)] = bad
    dt = float(rng.choice((0.02, 0.05, 0.1)))
    stamps = now + float(rng.choice((0.0, 0.05, -0.1))) + dt * np.arange(1, size + 1)
    grip = rng.normal(0.04, 0.1, size=size)
    return Waypoints(Pose(positions, quaternions), stamps, dt, epoch, grip)


@dataclass
class Trace:
    """What a filter emitted, in stretches between stops (a stop target is a step by design)."""

    limits: SafetyLimits
    tick: float
    worst: dict[str, float] = field(default_factory=dict)
    ticks: int = 0
    _positions: list[np.ndarray] = field(default_factory=list)
    _quaternions: list[np.ndarray] = field(default_factory=list)
    _space: Workspace = field(init=False)

    def __post_init__(self) -> None:
        self._space = Workspace(self.limits)

    def _note(self, name: str, value: float) -> None:
        # NaN must never pass for small.
        self.worst[name] = max(self.worst.get(name, -np.inf), value if np.isfinite(value) else np.inf)

    def begin(self, at: Pose) -> None:
        """A stretch begins at rest at a pose."""
        self.cut()
        self._positions, self._quaternions = [at.position], [at.quaternion]

    def add(self, e: Emitted, m: Measured, stopped: bool = False) -> None:
        """One tick; ``stopped``: it is the first of a hold."""
        self.ticks += 1
        if e.pose is None:
            return self.cut()
        p, q = e.pose.position, e.pose.quaternion
        self._note("finite", 0.0 if e.pose.finite() and np.isfinite(e.rate).all() else np.inf)
        self._note("unit", abs(float(np.linalg.norm(q)) - 1))
        self._note("workspace", self._space.excess((p[0], p[1], p[2]), (q[0], q[1], q[2], q[3]), m.width))
        self._note("lead", float(np.linalg.norm(p - m.position)) - self.limits.lead)
        self._note("turn_lead", float(np.linalg.norm(difference(m.quaternion, q))) - self.limits.turn_lead)
        if e.gripper is not None:
            self._note("gripper", max(-e.gripper, e.gripper - 0.079))
        if stopped:
            ahead = float(np.linalg.norm(p - m.position))
            self._note("stop", ahead - STOP_AHEAD * self.limits.speed)
            self.cut()
        if self._quaternions:
            self._note("hemisphere", -float(q @ self._quaternions[-1]))
        self._positions.append(p)
        self._quaternions.append(q)
        return None

    def cut(self) -> None:
        """End a stretch; it began at rest."""
        if len(self._positions) > 1:
            limits, dt = self.limits, self.tick
            p, q = np.array(self._positions), np.array(self._quaternions)
            rates = (
                ("", np.diff(p, axis=0) / dt, limits.speed, limits.acceleration),
                ("turn_", difference(q[:-1], q[1:]) / dt, limits.turn_speed, limits.turn_acceleration),
            )
            for name, v, fastest, hardest in rates:
                v = np.vstack((np.zeros((2, 3)), v))
                a = np.diff(v, axis=0) / dt
                j = np.diff(a, axis=0) / dt
                tops = (("speed", v, fastest), ("acceleration", a, hardest), ("jerk", j, hardest / limits.jerk_time))
                for what, values, limit in tops:
                    self._note(name + what, float(np.linalg.norm(values, axis=-1).max()) / limit - 1)
        self._positions, self._quaternions = [], []

    def violations(self) -> dict[str, float]:
        """Properties that were violated, and by how much."""
        self.cut()
        return {name: worst for name, worst in self.worst.items() if worst > TOLERANCE}


def trial(
    safety: SafetyFilter, seed: int, chunks: int, ticks: int, kinds: tuple[str, ...] = KINDS, direct: float = 0.2
) -> Trace:
    """Send ``chunks`` adversarial chunks of ``ticks`` control ticks each through plan and filter to a first-order arm.

    With probability ``direct`` a chunk goes to the filter as raw setpoints, past the plan's own checks; ticks come
    late, early and without a setpoint now and then.  Holds are resumed at once.
    """
    rng, limits, tick = np.random.default_rng(seed), safety.limits, safety.timeouts.tick
    low, high = np.array(limits.workspace.low), np.array(limits.workspace.high)
    space, q = Workspace(limits), downward(rng.uniform(-1, 1))
    x, y, z = space.project(tuple((low + rng.uniform(size=3) * (high - low)).tolist()), tuple(q.tolist()), 0.08)
    here = Pose(np.array((x, y, z)), q)
    arm, plan, trace = FirstOrderArm(here, float(rng.uniform(0.1, 0.4))), Plan(limits), Trace(limits, tick)
    now, epoch = 10.0, 0
    safety.stand(here)
    safety.go(now, 0.0)
    plan.start(here, now, epoch)
    trace.begin(here)
    for _ in range(chunks):
        kind = str(rng.choice(np.array(kinds)))
        chunk = adversarial_chunk(rng, kind, safety.pose or here, now, epoch, limits)
        raw = rng.uniform() < direct
        if not raw:
            plan.merge(chunk, now)
        for k in range(ticks):
            now += tick * float(rng.choice((1.0, 1.0, 1.0, 1.0, 3.0)))
            wish = plan.at(now) if not raw else raw_setpoint(chunk, k, rng)
            measured = arm.measured(now - 0.005)
            going = safety.going
            e = safety.step(wish if rng.uniform() < 0.97 else None, measured, tick, now, Link(epoch))
            trace.add(e, measured, stopped=going and e.hold is not None)
            if SafetyFlag.DRAGGED in e.flags:
                trace.worst["dragged"] = np.inf
            if e.pose is not None:
                arm.follow(e.pose, tick)
            if e.hold is not None:
                epoch += 1
                safety.go(now, float(rng.choice((0.0, 0.5))))
                plan.start(safety.pose or here, now, epoch)
                break
    return trace


def raw_setpoint(chunk: Waypoints, k: int, rng: np.random.Generator) -> Setpoint:
    """Action ``k`` of a chunk as a setpoint of its own, past the plan's checks, with a speed that may be nonsense."""
    i = k % len(chunk.stamps)
    pose = Pose(chunk.track.position[i], chunk.track.quaternion[i])
    rate = rng.normal(size=6) * rng.choice((0.0, 0.1, 10.0))
    grip = float(chunk.gripper[i]) if chunk.gripper is not None else None
    left = float(rng.choice((0.0, 0.01, np.inf)))
    return Setpoint(pose.position, pose.quaternion, grip, rate, left, left, epoch=chunk.epoch)
