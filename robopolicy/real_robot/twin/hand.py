"""The Franka Hand: homing, move, grasp and stop with the robot's rules, read at 10 Hz as its ROS node does.

Source: libfranka's gripper (a grasp succeeds when width - inner < d < width + outer; widths outside the opening are
refused) and franka_gripper's node (the width is read every 0.1 s, so it is up to that old).  A new command ends the one
before.  Forces are those of one finger; the model's tendon pulls on both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import mujoco
import numpy as np

from robopolicy.sim.panda_model import FINGERS, WIDTH_MAX

STIFFNESS, DAMPING = 1000.0, 60.0  # N/m and Ns/m of the tendon, as the simulations' servo
MOVE_FORCE = 20.0  # N, limit while moving
READ_EVERY = 100  # ticks
STILL, STALL_TICKS, SETTLE_TICKS = 0.001, 100, 100  # m/s below which the fingers stand; how long; not before
NEAR = 0.0005  # m, a move has arrived
DROP_TICKS = 300  # how long a lost object slips through the pads
Kind = Literal["homing", "move", "grasp"]


@dataclass
class Job:
    """One command of the hand; ``done`` with ``success``, or with an ``error``."""

    kind: Kind
    width: float = 0.0
    speed: float = 0.1
    force: float = MOVE_FORCE
    inner: float = 0.005
    outer: float = 0.005
    stages: list[float] = field(default_factory=list)
    done: bool = False
    success: bool = False
    error: str = ""

    def end(self, error: str = "") -> None:
        """Successful without an ``error``."""
        if not self.done:
            self.done, self.success, self.error = True, not error, error


class Hand:
    """Fingers of a scene made ready by ``drive_by_torque``; call ``tick`` once before every physics step."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        self._model, self._data = model, data
        self._q = [int(model.joint(name).qposadr[0]) for name in FINGERS]
        self._v = [int(model.joint(name).dofadr[0]) for name in FINGERS]
        self._motor = model.actuator("gripper").id
        self._pads = [model.geom(name).id for name in ("left_pad", "right_pad")]
        self._solid = model.geom_contype[self._pads].copy(), model.geom_conaffinity[self._pads].copy()
        self.failing, self.slowness = 0, 1.0
        self.restart()

    def restart(self) -> None:
        """At rest where the fingers are; faults and commands are forgotten."""
        self.job: Job | None = None
        self.reading, self.grasped, self.failing, self.slowness = self.width, False, 0, 1.0
        self._reference = self._goal = self.width / 2
        self._limit, self._speed, self._grip = MOVE_FORCE, 0.1, 0.0
        self._ticks = self._still = self._age = 0
        self._solidify()

    @property
    def width(self) -> float:
        """Present distance between the fingers, m; the robot tells ``reading``, which is up to 0.1 s old."""
        return float(self._data.qpos[self._q[0]] + self._data.qpos[self._q[1]])

    def read(self) -> None:
        """Look at the width, as the node does ten times a second."""
        self.reading = self.width

    # -- commands ------------------------------------------------------------------------------------------------------

    def move(self, width: float, speed: float = 0.1) -> Job:
        """Bring the fingers ``width`` metres apart at ``speed`` m/s."""
        return self._begin(Job("move", float(width), float(speed)))

    def grasp(
        self, width: float, speed: float = 0.1, force: float = 20.0, inner: float = 0.005, outer: float = 0.005
    ) -> Job:
        """Close until something is held with ``force`` N, and see whether it is ``width`` wide."""
        return self._begin(Job("grasp", float(width), float(speed), float(force), float(inner), float(outer)))

    def homing(self) -> Job:
        """Close and open fully, which is how the hand learns its range."""
        return self._begin(Job("homing", WIDTH_MAX, 0.1, stages=[0.0, WIDTH_MAX]))

    def stop(self) -> None:
        """End the present command where the fingers are; a held object stays held."""
        if self.job is not None:
            self.job.end("stopped")
        self.job = None
        if not self.grasped:
            self._reference = self._goal = self.width / 2

    def lose_object(self) -> None:
        """Whatever is held slips out."""
        self._model.geom_contype[self._pads] = self._model.geom_conaffinity[self._pads] = 0
        self._slip_until = self._age + DROP_TICKS

    # -- one tick ------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Set the motor for the next millisecond and see whether the command is done."""
        self._age += 1
        if self._age % READ_EVERY == 0:
            self.read()
        qpos, qvel = self._data.qpos, self._data.qvel
        half = 0.5 * (float(qpos[self._q[0]]) + float(qpos[self._q[1]]))
        rate = 0.5 * (float(qvel[self._v[0]]) + float(qvel[self._v[1]]))
        if self._slip_until and self._age >= self._slip_until:
            self._solidify()
        if self._grip:
            pull = -2 * self._grip - DAMPING * rate
        else:
            most = 0.0005 * self._speed  # half a tick's width
            self._reference += min(max(self._goal - self._reference, -most), most)
            pull = STIFFNESS * (self._reference - half) - DAMPING * rate
            pull = min(max(pull, -2 * self._limit), 2 * self._limit)
        self._data.ctrl[self._motor] = pull
        if self.job is not None:
            self._follow(self.job, half, rate)

    def _follow(self, job: Job, half: float, rate: float) -> None:
        self._ticks += 1
        self._still = self._still + 1 if abs(rate) < STILL / 2 else 0
        stalled = self._ticks >= SETTLE_TICKS and self._still >= STALL_TICKS
        if job.kind == "grasp":
            if stalled:
                width = 2 * half
                held = job.width - job.inner < width < job.width + job.outer
                self.grasped, self._grip = held, job.force
                self._end(job, "" if held else f"grasp: the fingers stopped at {width:.4f} m")
            return
        if abs(2 * half - job.width if not job.stages else 2 * half - job.stages[0]) < NEAR:
            if job.stages:
                job.stages.pop(0)
            if not job.stages:
                self._end(job)
            else:
                self._goal, self._ticks, self._still = job.stages[0] / 2, 0, 0
        elif stalled and self._still >= 3 * STALL_TICKS:
            self._end(job, f"{job.kind}: the fingers stopped at {2 * half:.4f} m")

    def _end(self, job: Job, error: str = "") -> None:
        job.end(error)
        self.job = None

    def _begin(self, job: Job) -> Job:
        if self.job is not None:
            self.job.end("a newer command came")
        self.job = None
        if not 0 <= job.width <= WIDTH_MAX or not job.speed > 0 or not job.force > 0:
            job.end(f"{job.kind}: expected a width of 0 to {WIDTH_MAX} m, speed and force above 0, got {job}")
            return job
        if self.failing > 0:
            self.failing -= 1
            job.end(f"{job.kind}: command failed")
            return job
        self.job, self._grip, self.grasped = job, 0.0, False
        self._reference = self.width / 2
        self._goal = 0.0 if job.kind == "grasp" else (job.stages[0] if job.stages else job.width) / 2
        self._speed, self._limit = job.speed / self.slowness, job.force
        self._ticks = self._still = 0
        return job

    def _solidify(self) -> None:
        self._model.geom_contype[self._pads], self._model.geom_conaffinity[self._pads] = self._solid
        self._slip_until = 0

    def finger_speeds(self) -> np.ndarray:
        """Speeds ``(2,)`` of the fingers, m/s."""
        return np.array([self._data.qvel[i] for i in self._v])
