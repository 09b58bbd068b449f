"""The safety filter: at every tick, from a wished setpoint and the measured arm to the pose that may be published.

Stages, one file each: finite numbers, gate, jump, workspace, limiter, lead, joints, force (docs/safety.md says what
each guarantees and what it does not).  Differs from running them as a chain: what joints, force and the slow start
find is a share of the speed, and workspace and lead are walls, all of which the *limiter* obeys.  A stage that moved
the pose after the limiter would break the acceleration limit, or the stage before it.

It does no input or output and reads no clock; the same inputs give the same outputs, bit for bit.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from robopolicy.core.errors import ConfigError, did_you_mean
from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.kinematics import PANDA, Kinematics
from robopolicy.real_robot.limits import RobotLimits, SafetyLimits, Timeouts, robot_limits
from robopolicy.real_robot.safety import force, gate, validity
from robopolicy.real_robot.safety.joints import JointStage, JointVerdict
from robopolicy.real_robot.safety.jump import JUMPS_TO_FAULT, JumpStage
from robopolicy.real_robot.safety.lead import Lead
from robopolicy.real_robot.safety.limiter import OUTSIDE, Body, Limiter, Walls, settled
from robopolicy.real_robot.safety.types import (
    STAGES,
    STOP_AHEAD,
    WIDTH_MOST,
    Emitted,
    Link,
    Measured,
    SafetyFlag,
    Setpoint,
)
from robopolicy.real_robot.safety.validity import Sample, Strikes, Wish
from robopolicy.real_robot.safety.vectors import add, quaternion, turned, vector
from robopolicy.real_robot.safety.workspace import FAR_TICKS, Workspace, too_far

RAMP_FROM = 0.2  # share of the speed limits at the start of a run
DRAG_TICKS = 5  # in a row before an arm that something else moves is held


class SafetyFilter:
    """One arm's filter.  ``stand`` first, ``go`` to let it move, then ``step`` every tick."""

    def __init__(
        self,
        limits: SafetyLimits,
        timeouts: Timeouts | None = None,
        kinematics: Kinematics = PANDA,
        robot: RobotLimits | None = None,
        stages: tuple[str, ...] = STAGES,
    ) -> None:
        self.limits, self.timeouts = limits, timeouts or Timeouts()
        self._arm = (kinematics, robot or robot_limits("panda"))
        self._stages = frozenset(stages)
        self._limiter = Limiter(limits, self.timeouts.tick)
        self._space, self._lead = Workspace(limits), Lead.of(limits)
        self._joints, self._jump = JointStage(limits, self._arm[1], kinematics), JumpStage(limits)
        self._body: Body | None = None
        self._sample: Sample | None = None
        self._why, self._ramp = "not started", (-math.inf, 1.0)
        self._far, self._dragged, self._ahead = 0, 0, 0.0  # the last: s by which steps ran ahead of the clock
        self._strikes = Strikes()
        self._width: float | None = None
        self._last: Emitted | None = None
        self._moving_flags = SafetyFlag.NONE

    def without(self, stage: str) -> SafetyFilter:
        """A new filter that lacks one stage; for tests that show what the stage is good for, and for nothing else."""
        if stage not in STAGES:
            raise ConfigError(f"the filter has no stage '{stage}'" + did_you_mean(stage, STAGES))
        rest = tuple(s for s in STAGES if s in self._stages and s != stage)
        return SafetyFilter(self.limits, self.timeouts, *self._arm, rest)

    # -- standing and going --------------------------------------------------------------------------------------------

    def stand(self, pose: Pose, why: str = "standing") -> None:
        """Stand still at ``pose``, which must be finite; the reason ``why`` is what ``step`` reports."""
        self._body = Body(vector(pose.position), quaternion(pose.quaternion))
        self._why, self._last, self._width = why, None, None

    def go(self, now: float, ramp: float = 1.0) -> None:
        """Follow setpoints from where it is, moving or not: the speed limits rise from 20 % over ``ramp`` seconds.

        Raises ``ConfigError`` before the filter was given a place to stand.
        """
        if self._body is None:
            raise ConfigError("safety filter: go() before stand(); arm first, so that there is a pose to start from")
        self._why, self._ramp, self._far, self._dragged, self._last = "", (now, ramp), 0, 0, None
        self._jump.start(self._body.pose())

    def hold(self, why: str, now: float) -> None:
        """Stop: the stop target is the measured pose plus 0.1 s of its motion; with no state fresh enough to know that,
        the setpoint slows down where it is.  A hold that already stands keeps its first reason."""
        if self._why:
            return
        # What was emitted last must not be repeated after this, not even by an early tick.
        self._why, self._last = why or "held", None
        sample, body = self._sample, self._body
        if sample is None or body is None or abs(now - sample.at) > self.timeouts.state_soft:
            return
        way, turn = validity.carried(sample, STOP_AHEAD, self.limits.speed, self.limits.turn_speed)
        q = validity.hemisphere(turned(sample.quaternion, turn), body.quaternion)
        self._body = Body(add(sample.position, way), q)

    @property
    def going(self) -> bool:
        """Whether setpoints are followed."""
        return not self._why

    @property
    def pose(self) -> Pose | None:
        """Where the setpoint is."""
        return self._body.pose() if self._body is not None else None

    def note_jump(self) -> bool:
        """Count a jump that the plan cut off; true when that was the last one allowed, which is a fault."""
        return self._jump.note()

    # -- one tick ------------------------------------------------------------------------------------------------------

    def step(self, setpoint: Setpoint | None, measured: Measured, dt: float, now: float, link: Link) -> Emitted:
        """One tick.

        ``setpoint``: ``None`` when there is none (the plan has ended): slow down, then stand.  ``measured``: the newest
        state, old or new.  ``dt``: seconds since the last tick; what it moves by is never more than one tick's worth,
        so that a late tick is not caught up.  ``now``: local monotonic seconds.
        """
        self._hear(measured, now)
        tick = self.timeouts.tick
        self._ahead = min(max(0.0, self._ahead - dt), 2 * tick)
        if self._last is not None and (dt < gate.EARLY * tick or self._ahead > tick) and "gate" in self._stages:
            return self._emit_again()
        self._ahead += tick
        flags, fault, wish, scale = SafetyFlag.NONE, False, None, 1.0
        if self.going:
            wish, flags, fault = self._judged(setpoint, dt, now, link)
        if self.going and wish is not None:
            wish, scale, more = self._bounded(wish, now)
            flags |= more
        left = (setpoint.left, setpoint.turn_left) if setpoint is not None else (0.0, 0.0)
        if SafetyFlag.WORKSPACE in flags:
            left = (0.0, left[1])
        self._move(wish if self.going else None, left, scale)
        flags |= self._moving_flags
        grip, clamped = self._grip(setpoint if wish is not None and self.going else None)
        return self._emit(flags | clamped, fault, grip, scale)

    def _hear(self, measured: Measured, now: float) -> None:
        """Keep the newest state that can be believed; one from the future must not shut out all that follow."""
        sample = validity.checked_sample(measured)
        if sample is None or sample.at > now + self.timeouts.state_soft:
            return
        if self._sample is None or sample.at >= self._sample.at:
            self._sample = sample

    def _judged(
        self, setpoint: Setpoint | None, dt: float, now: float, link: Link
    ) -> tuple[Wish | None, SafetyFlag, bool]:
        """Stages 1 to 3: the setpoint if it may be followed, flags, and whether a hold is a fault."""
        assert self._body is not None
        state_at = self._sample.at if self._sample is not None else -math.inf
        flags, wish = SafetyFlag.NONE, None
        if "gate" in self._stages:
            verdict = gate.judge(
                link, setpoint.epoch if setpoint is not None else None, state_at, dt, now, self.timeouts
            )
            flags |= verdict.flags
            if verdict.hold is not None:
                self.hold(verdict.hold, now)
                return None, flags, False
            if verdict.slow:
                return None, flags, False
        if setpoint is None:
            return None, flags | SafetyFlag.STARVED, False
        if "finite" not in self._stages:
            wish = validity.unchecked_setpoint(setpoint)
        else:
            wish = validity.checked_setpoint(setpoint, self._body.quaternion)
            if wish is None:
                again = self._strikes.second(now)
                if again:
                    self.hold(
                        "the setpoint is not finite, of a wrong shape, or its quaternion is not of unit length", now
                    )
                return None, flags | SafetyFlag.NOT_FINITE, again
        if "jump" in self._stages and not self._jump.passes(
            setpoint.action, setpoint.action_number, setpoint.action_steps
        ):
            fault = self._jump.count >= JUMPS_TO_FAULT
            if fault:
                self.hold(f"jump: {JUMPS_TO_FAULT} actions of the policy were too far from the ones before", now)
            return None, flags | SafetyFlag.JUMP, fault
        return wish, flags, False

    def _bounded(self, wish: Wish, now: float) -> tuple[Wish | None, float, SafetyFlag]:
        """Stages 4, 7 and 8: the target inside the workspace, and the share of the speed limits; may hold."""
        assert self._body is not None
        flags, sample = SafetyFlag.NONE, self._sample
        if "workspace" in self._stages:
            inside = self._space.project(wish.position, wish.quaternion, self._span())
            far = too_far(wish.position, inside)
            self._far = self._far + 1 if far else 0
            if inside != wish.position:
                flags |= SafetyFlag.WORKSPACE
                # The target now stands at the wall, or slides on it: nothing is known of its own motion.
                wish = Wish(inside, wish.quaternion, (0.0, 0.0, 0.0), wish.turning)
            if self._far >= FAR_TICKS:
                self.hold("workspace: the target is more than 5 cm outside", now)
                return None, 1.0, flags
        since = (now - self._ramp[0]) / self._ramp[1] if self._ramp[1] > 0 else 1.0
        scale = min(1.0, RAMP_FROM + (1 - RAMP_FROM) * max(0.0, since))
        flags |= SafetyFlag.RAMP if scale < 1 else SafetyFlag.NONE
        verdicts = []
        if "joints" in self._stages and sample is not None:
            body = self._body
            found = self._joints.judge(sample.q, body.position, body.quaternion, body.velocity, body.turning)
            verdicts.append((found, SafetyFlag.JOINTS))
        if "force" in self._stages and sample is not None:
            verdicts.append((JointVerdict(*force.judge(sample.force, self.limits)), SafetyFlag.FORCE))
        for verdict, flag in verdicts:
            scale = min(scale, verdict.scale)
            flags |= flag if verdict.scale < 1 else SafetyFlag.NONE
            if verdict.hold is not None:
                self.hold(verdict.hold, now)
                return None, scale, flags
        return wish, scale, flags

    def _span(self) -> float:
        """Width that the fingers may have now, m."""
        measured = self._sample.width if self._sample is not None else WIDTH_MOST
        return min(max(measured, self._width or 0.0, 0.0), WIDTH_MOST)

    def _move(self, wish: Wish | None, left: tuple[float, float], scale: float) -> None:
        """Stages 5 and 6: one tick of the limiter, then the cap about an arm that went away."""
        self._moving_flags = SafetyFlag.NONE
        body, sample = self._body, self._sample
        if body is None or sample is None:
            return
        space = self._space if "workspace" in self._stages else None
        lead = self._lead if "lead" in self._stages else None
        walls = Walls(space, lead, sample, self._span())
        if "limiter" in self._stages:
            body, self._moving_flags = self._limiter.step(body, wish, left, scale, walls)
        elif wish is not None:
            body = Body(wish.position, wish.quaternion)
        if lead is not None:
            place = lead.drag(body.position, sample.position)
            turn = lead.turn_drag(body.quaternion, sample.quaternion)
            if place is not None or turn is not None:
                body = Body(place or body.position, turn or body.quaternion)
                self._moving_flags |= SafetyFlag.DRAGGED
        self._dragged = self._dragged + 1 if SafetyFlag.DRAGGED in self._moving_flags else 0
        self._body = body
        if self._dragged >= DRAG_TICKS and self.going:
            self.hold("lead: something else moves the arm away from its setpoint", sample.at)
        assert self._body is not None
        self._body = settled(self._body, walls)

    def _grip(self, setpoint: Setpoint | None) -> tuple[float | None, SafetyFlag]:
        """Width to ask of the hand: within its range, and never so wide that a finger would touch the table."""
        if setpoint is None or setpoint.gripper is None or self._body is None:
            return self._width, SafetyFlag.NONE
        width = min(max(setpoint.gripper, 0.0), WIDTH_MOST)
        if "workspace" in self._stages:
            width = self._space.width_allowed(self._body.position, self._body.quaternion, width)
        self._width = width
        return width, SafetyFlag.GRIPPER if width != setpoint.gripper else SafetyFlag.NONE

    # -- out -----------------------------------------------------------------------------------------------------------

    def _publishable(self) -> bool:
        """The last look: a body, inside the workspace, within the lead cap."""
        body, sample = self._body, self._sample
        if body is None or sample is None:
            return False
        if "workspace" in self._stages and self._space.excess(body.position, body.quaternion, self._span()) > OUTSIDE:
            return False
        if "lead" not in self._stages:
            return True
        return self._lead.fits(body.position, body.quaternion, sample.position, sample.quaternion)

    def _emit(self, flags: SafetyFlag, fault: bool, grip: float | None, scale: float) -> Emitted:
        body, why = self._body, self._why or None
        pose, rate = None, np.zeros(6)
        if body is not None and self._publishable():
            pose, rate = body.pose(), body.rate()
        elif self.going:
            self._why = why = "no pose satisfies the workspace and the lead cap: the arm is outside"
        flags |= SafetyFlag.HELD if why is not None else SafetyFlag.NONE
        self._last = Emitted(pose, grip, flags, why, fault, rate, scale)
        return self._last

    def _emit_again(self) -> Emitted:
        assert self._last is not None
        return dataclasses.replace(self._last, flags=self._last.flags | SafetyFlag.EARLY_TICK)
