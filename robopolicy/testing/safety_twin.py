"""Adversarial trials of plan, loop and filter against the twin: joints, contacts, and the lag of a real controller.

As ``safety.trial``, with the whole control loop (state machine included) and the twin's physics at 1 kHz in place of a
first-order lag.  Chunks go in through ``submit``; in some stretches they go past the plan, as a human's wishes.
Whatever stops the arm is resumed at once; a fault begins a new loop, as an operator's restart does.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np

from robopolicy.core.errors import RequestRefused
from robopolicy.real_robot.control.loop import ControlLoop, Inputs, TickRecord
from robopolicy.real_robot.control.plan import Plan, Waypoints
from robopolicy.real_robot.control.states import MOVING, State, StateMachine
from robopolicy.real_robot.control.watchdogs import Health
from robopolicy.real_robot.frames import Pose, downward
from robopolicy.real_robot.limits import SafetyLimits, Timeouts
from robopolicy.real_robot.safety.filter import SafetyFilter
from robopolicy.real_robot.safety.types import Measured, SafetyFlag, Setpoint
from robopolicy.real_robot.twin.config import TwinConfig
from robopolicy.real_robot.twin.twin import Twin
from robopolicy.testing.safety import KINDS, Trace, adversarial_chunk, raw_setpoint

AGE = 4  # ms that a measured state is old when a tick sees it
LOOKS = 5  # ms between two looks at the tool's speed
SETTLE = 2000  # ms that the arm has to get to where a trial begins
CAP = 0.25  # m/s that the tool must stay below, whatever is sent


@dataclass
class TwinTrace:
    """What came of some trials: ``worst`` of each property of the emitted setpoints (above 0 is beyond the limit; see
    ``safety.Trace``), fastest tool speed (m/s) of the arm itself, and counts of everything else."""

    worst: dict[str, float] = field(default_factory=dict)
    tool_speed: float = 0.0
    seconds: float = 0.0
    counted: Counter[str] = field(default_factory=Counter)

    def take(self, other: TwinTrace) -> None:
        """Add the trials of another one."""
        for name, value in other.worst.items():
            self.worst[name] = max(self.worst.get(name, -np.inf), value)
        self.tool_speed, self.seconds = max(self.tool_speed, other.tool_speed), self.seconds + other.seconds
        self.counted += other.counted


class TwinTrial:
    """One twin, used for many seeds one after the other."""

    def __init__(self, limits: SafetyLimits | None = None, controller: str = "franka_ros") -> None:
        self.limits = limits or SafetyLimits()
        self.twin = Twin(TwinConfig(lock_step=True, cameras=(), controller=controller))  # type: ignore[arg-type]

    def close(self) -> None:
        """Free the twin."""
        self.twin.close()

    def run(self, seed: int, chunks: int, wild: bool = True, ticks: tuple[int, int] = (4, 16)) -> TwinTrace:
        """``chunks`` chunks, each followed for ``ticks`` (least, most) control ticks; not ``wild``: only such as drive
        the arm fast and far, without the ones that end a run."""
        return _Run(self, seed, wild, ticks).over(chunks)


class _Run:
    def __init__(self, trial: TwinTrial, seed: int, wild: bool, ticks: tuple[int, int]) -> None:
        self.rng, self.limits, self.twin = np.random.default_rng(seed), trial.limits, trial.twin
        self.ticks, self.wild, self.way = ticks, wild, np.zeros(3)
        self.trace, self.found = Trace(self.limits, Timeouts().tick), TwinTrace()
        self.now, self.epoch, self.started = 10.0, 0, self.twin.time
        self.twin.reset(seed)
        low, high = np.array(self.limits.workspace.low), np.array(self.limits.workspace.high)
        middle, reach = (low + high) / 2, 0.3 * (high - low)
        place = middle + self.rng.uniform(-1, 1, size=3) * reach
        self.twin.aim(Pose(place, downward(self.rng.uniform(-0.5, 0.5))))
        self.twin.step(SETTLE)
        if self.twin.arm.errors:  # the way there, which no filter looked at, was too much for it
            self.put_back()
        self.begin()

    def put_back(self) -> None:
        """The arm, without errors, over the middle of the table."""
        self.twin.reset(int(self.rng.integers(1 << 30)))
        self.twin.aim(Pose(np.array((0.5, 0.0, 0.4)), downward(0.0)))
        self.twin.step(SETTLE)

    def begin(self) -> None:
        """A loop that knows nothing of before, armed where the arm stands."""
        machine = StateMachine(Timeouts())
        self.loop = ControlLoop(SafetyFilter(self.limits), Plan(self.limits), machine)
        self.trace.cut()
        self.epoch = 0
        for _ in range(2):
            self.tick(settle=True)
        machine.ask_to_arm("Ada", self.now)
        machine.confirm_arming("Ada", self.now)
        self.tick(settle=True)
        machine.start(self.now)

    def over(self, chunks: int) -> TwinTrace:
        """See ``TwinTrial.run``."""
        human = False
        for _ in range(chunks):
            self.found.counted["chunks"] += 1
            human = human != (self.rng.uniform() < (0.2 if human else 0.05 * self.wild))
            self.go_on(human)
            chunk = self.hostile() if self.wild else self.fast()
            if human and self.loop.machine.state is State.RUNNING:
                self.loop.machine.intervene(self.now)
            if not human:
                self.found.counted["submitted"] += self.loop.submit(chunk)
            for k in range(int(self.rng.integers(self.ticks[0], self.ticks[1] + 1))):
                record = self.tick(raw_setpoint(chunk, k, self.rng) if human else None)
                if record.state not in MOVING:
                    break
        self.trace.cut()
        self.found.worst = dict(self.trace.worst)
        return self.found

    def hostile(self) -> Waypoints:
        """One that is meant to break something."""
        kind = str(self.rng.choice(np.array(KINDS)))
        # A second broken chunk within ten seconds is a fault, and a fault is the end of a fast stretch.
        kind = "walk" if kind == "broken" and self.rng.uniform() < 0.7 else kind
        here = self.loop.filter.pose or self.twin.pose
        epoch = self.loop.machine.epoch
        return self.odd(adversarial_chunk(self.rng, kind, here, self.now, epoch, self.limits))

    def fast(self) -> Waypoints:
        """One that goes on in the direction of the last, up to four times as fast as allowed, or turns back at once."""
        here, size = self.loop.filter.pose or self.twin.pose, 8
        chance = self.rng.uniform()
        if chance < 0.1 or not self.way.any():
            way = self.rng.normal(size=3)
            self.way = way / np.linalg.norm(way)
        elif chance < 0.2:
            self.way = -self.way
        k, dt = np.arange(1, size + 1), 0.05
        step = dt * self.limits.speed * self.rng.choice((0.9, 1.5, 4.0))
        track = Pose(here.position + k[:, None] * self.way * step, np.tile(here.quaternion, (size, 1)))
        return Waypoints(track, self.now + 0.2 + dt * k, dt, self.loop.machine.epoch)

    def odd(self, chunk: Waypoints) -> Waypoints:
        """Now and then with stamps that are late, early, standing, backwards or no numbers, or of another epoch."""
        kind = int(self.rng.integers(60))
        n = len(chunk.stamps)
        wrong = {
            0: chunk.stamps - 1.0,
            1: chunk.stamps + 2.0,
            2: chunk.stamps[::-1].copy(),
            3: np.full(n, chunk.stamps[0]),
            4: np.where(np.arange(n) == n // 2, np.nan, chunk.stamps),
        }
        if kind in wrong:
            return replace(chunk, stamps=wrong[kind])
        return replace(chunk, epoch=chunk.epoch - 1) if kind == 5 else chunk

    def go_on(self, human: bool) -> None:
        """Back to RUNNING, whatever has happened; a ``human`` goes on where he is."""
        machine, counted = self.loop.machine, self.found.counted
        if machine.state is State.HUMAN and not human:
            machine.release(self.now)
        if self.twin.arm.errors:
            counted["reflexes"] += 1
            self.put_back()
            self.begin()
        elif machine.state is State.HOLD:
            counted["holds"] += 1
            for _ in range(40 if "let go" in machine.why else 1):
                self.tick()
            with contextlib.suppress(RequestRefused):
                machine.resume(self.now)
        if machine.state in (State.FAULT, State.ESTOP):
            counted["faults"] += 1
            self.twin.step(200)  # it comes to rest
            if self.twin.arm.errors:
                counted["reflexes"] += 1
                self.put_back()
            self.begin()

    def tick(self, wish: Setpoint | None = None, settle: bool = False) -> TickRecord:
        """What the arm does until the next control tick, which comes late now and then, and that tick."""
        chance = 1.0 if settle else self.rng.uniform()
        periods = 12 if chance < 0.0008 else 3 if chance < 0.04 else 1
        self.advance(10 * periods - AGE)
        self.now += 0.01 * periods
        measured, arm = self.measured(), self.twin.arm
        self.advance(AGE)
        inputs = Inputs(measured, Health(mode=int(arm.mode), errors=tuple(sorted(arm.errors))))
        if wish is not None and self.loop.machine.state is State.HUMAN:
            inputs = replace(inputs, teleop=(wish, self.now))
        record = self.loop.tick(self.now, inputs)
        # A hold after a long pause knows no fresh state: it slows down where it is, and is no step.
        self.note(record, measured, 0.01 * periods < Timeouts().tick_hold)
        if record.publish is not None:
            self.twin.aim(record.publish)
        return record

    def measured(self) -> Measured:
        """What the robot says now; the tick that uses it comes ``AGE`` ms later."""
        arm, pose, at = self.twin.arm, self.twin.pose, self.now - 1e-3 * AGE
        force, width = np.array(arm.external_force[:3]), min(self.twin.hand.width, 0.08)
        return Measured(at, pose.position, pose.quaternion, np.array(arm.twist), np.array(arm.q), force, width)

    def advance(self, milliseconds: int) -> None:
        """Physics, with a look at the tool's speed every few milliseconds."""
        while milliseconds > 0:
            n = min(LOOKS, milliseconds)
            self.twin.step(n)
            milliseconds -= n
            self.found.tool_speed = max(self.found.tool_speed, float(np.linalg.norm(np.array(self.twin.arm.twist)[:3])))
        self.found.seconds = self.twin.time - self.started

    def note(self, record: TickRecord, measured: Measured, fresh: bool) -> None:
        """Look at what was emitted; ``fresh``: a hold of this tick is a step to the stop target."""
        left, self.epoch = record.epoch != self.epoch, record.epoch
        if record.emitted is None:
            return
        counted = self.found.counted
        counted["ticks"] += 1
        counted["published"] += record.publish is not None
        for flag in SafetyFlag:
            counted[f"flag {flag.name}"] += flag in record.flags
        if record.merge is not None and record.merge.refused is not None:
            counted["refused"] += 1
        if record.publish is not None:
            self.trace.add(record.emitted, measured, stopped=fresh and left and record.state not in MOVING)
