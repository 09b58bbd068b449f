"""Stage 7: joint limits, joint speeds and singularities, predicted by one damped least-squares step.

The controller's own joint angles for a commanded pose are unknown; one linear step from the measured angles says where
the arm is being drawn.  It slows the tool down before it holds, and lets every joint move away from its end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robopolicy.real_robot.frames import difference
from robopolicy.real_robot.kinematics import Kinematics, damped_step, smallest_singular_value
from robopolicy.real_robot.limits import RobotLimits, SafetyLimits
from robopolicy.real_robot.safety.vectors import Quaternion, Vector

AHEAD = 0.1  # s of the setpoint's own motion that the prediction looks ahead
SINGULAR = 0.05  # smallest singular value of the Jacobian below which the tool slows down
LEAST = 0.1  # share of the speed that always remains, so that the arm can leave again
LAG = 0.25  # s in which a stiff controller draws the arm to its setpoint: predicted step over lag is a joint speed
EASY = 0.6  # share of the joint speed limit, drawn at, from which the tool slows down
DEEPER = 1e-3  # rad towards an end that count as moving there


@dataclass(frozen=True)
class JointVerdict:
    """``scale``: share of the speed limits.  ``hold``: why to hold, or ``None``."""

    scale: float = 1.0
    hold: str | None = None


class JointStage:
    """The check for one arm."""

    def __init__(self, limits: SafetyLimits, robot: RobotLimits, kinematics: Kinematics) -> None:
        self._limits, self._robot, self._kinematics = limits, robot, kinematics
        self._low, self._high = np.array(robot.q_min), np.array(robot.q_max)

    def judge(
        self, q: np.ndarray, position: Vector, quaternion: Quaternion, velocity: Vector, turning: Vector
    ) -> JointVerdict:
        """Judge the setpoint ``position``, ``quaternion`` moving with ``velocity`` and ``turning``, from angles
        ``q``."""
        if q.shape != (7,):
            return JointVerdict(LEAST, "the state has no joint angles; the joint limits cannot be watched")
        pose, jacobian = self._kinematics.linearise(q)
        rate = np.array((*velocity, *turning))
        error = np.concatenate((position - pose.position, difference(pose.quaternion, np.array(quaternion))))
        change, speeds = damped_step(jacobian[None], np.stack((error + AHEAD * rate, rate)))
        return self._weigh(q, change, speeds, float(smallest_singular_value(jacobian)), velocity, turning)

    def _weigh(
        self, q: np.ndarray, change: np.ndarray, speeds: np.ndarray, singular: float, velocity: Vector, turning: Vector
    ) -> JointVerdict:
        limits = self._limits
        # What the arm has yet to catch up with moves its joints too, most of all near a singularity or an elbow flip.
        drawn = self._share(q, change / LAG)
        largest = int(np.argmax(drawn))
        if drawn[largest] > 1:
            return JointVerdict(
                LEAST,
                f"joint {largest + 1} would turn by {change[largest]:+.2f} rad at once: a singularity or elbow flip",
            )
        now = np.minimum(q - self._low, self._high - q)
        then = np.minimum(q + change - self._low, self._high - q - change)
        nearing = then < now - DEEPER
        scale = 1.0
        if nearing.any():
            margin = np.where(nearing, then, np.inf)
            worst = int(np.argmin(margin))
            if margin[worst] < limits.joint_stop:
                return JointVerdict(
                    LEAST,
                    f"joint {worst + 1} is drawn to {margin[worst]:.2f} rad from its end, least {limits.joint_stop:g}",
                )
            scale = (float(margin[worst]) - limits.joint_stop) / (limits.joint_slow - limits.joint_stop)
        scale = min(scale, singular / SINGULAR)
        if drawn[largest] > EASY:
            scale = min(scale, (1 - float(drawn[largest])) / (1 - EASY))
        over = float(self._share(q, speeds).max())
        if over > 1:
            share = max(np.linalg.norm(velocity) / limits.speed, np.linalg.norm(turning) / limits.turn_speed)
            scale = min(scale, float(share) / over)
        return JointVerdict(min(1.0, max(LEAST, scale)))

    def _share(self, q: np.ndarray, speeds: np.ndarray) -> np.ndarray:
        """Joint speeds ``(7,)`` as shares of what is allowed at ``q``."""
        slowest, fastest = self._robot.joint_speeds(q)
        most = np.where(speeds < 0, -slowest, fastest)
        shares: np.ndarray = np.abs(speeds) / np.maximum(self._limits.joint_speed * most, 1e-9)
        return shares
