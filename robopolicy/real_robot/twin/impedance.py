"""The Cartesian impedance law of the robot's controllers, one tick at a time.

Source: the Cartesian impedance example of franka_ros (target filter 0.005 a tick, torque change 1 Nm a tick, damping
2 sqrt(k), damped pseudo-inverse with 0.2 for the null space), and its SERL variant (stiffer, with a clip on the error).
As there: a target is taken as it comes, never normalised, never checked; NaN in it becomes NaN in the torque, which is
when ``ControllerCrash`` is raised.  Scalars are plain floats, as a tick has a budget of a tenth of a millisecond.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.linalg.lapack import dposv

from robopolicy.core.configs import config_dataclass
from robopolicy.core.errors import ConfigError, RobopolicyError

PROJECTOR_DAMPING = 0.2  # of the pseudo-inverse in the null-space projector
Preset = Literal["franka_ros", "franka_ros_stiff", "serl"]


class ControllerCrash(RobopolicyError):
    """The torque is not finite: on the robot the hardware layer throws and the whole node ends."""


@config_dataclass
class ImpedanceGains:
    """Compliance of the arm."""

    translation: float = 200.0
    """Stiffness, N/m."""
    rotation: float = 10.0
    """Stiffness, Nm/rad; it acts on the sine of half the angle, as in the original."""
    null_space: float = 0.5
    """Stiffness towards the posture at the start that does not move the tool, Nm/rad."""
    first_joint: float | None = None
    """SERL only: extra weight of joint 1 in the null space."""
    damping: tuple[float, float] | None = None
    """Translational and rotational damping, Ns/m and Nms/rad; None is 2 sqrt(stiffness)."""
    filter: float = 0.005
    """Share of the way to the target that the reference goes in one tick; 0.005 is a time constant of 0.2 s."""
    torque_step: float = 1.0
    """Largest change of a joint's torque in one tick, Nm."""
    clip: tuple[float, float] | None = None
    """Largest error that counts, m and (half angle's sine) rad an axis; None is no clip."""

    def __post_init__(self) -> None:
        for name in ("translation", "rotation", "null_space"):
            if not 0 <= getattr(self, name) <= 1e4:
                raise ConfigError(f"{name}: expected a stiffness from 0 to 10000, got {getattr(self, name)}")
        if not (0 < self.filter <= 1 and self.torque_step > 0):
            raise ConfigError(f"expected 0 < filter <= 1 and torque_step > 0, got {self.filter} and {self.torque_step}")

    @staticmethod
    def preset(name: Preset) -> ImpedanceGains:
        """``franka_ros`` (200/10), ``franka_ros_stiff`` (the example's maxima 400/30), ``serl`` (2000/150, clipped)."""
        if name == "serl":
            return ImpedanceGains(2000.0, 150.0, 0.2, 100.0, (89.0, 7.0), clip=(0.01, 0.05))
        return ImpedanceGains(400.0, 30.0) if name == "franka_ros_stiff" else ImpedanceGains()


class CartesianImpedance:
    """Torques that pull the tool to a filtered target; feed it once every millisecond."""

    def __init__(self, gains: ImpedanceGains) -> None:
        self.retune(gains)
        self._square = np.empty((6, 6))
        self._wrench = np.zeros(6)
        self.restart(np.zeros(7), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))

    def retune(self, gains: ImpedanceGains) -> None:
        """Change the compliance; the torque follows at its limited rate."""
        self.gains = gains
        damping = gains.damping or (2 * math.sqrt(gains.translation), 2 * math.sqrt(gains.rotation))
        self._stiffness = np.repeat((gains.translation, gains.rotation), 3)
        self._damping = np.repeat(damping, 3)
        self._posture = np.full(7, gains.null_space)
        self._posture_damping = np.full(7, 2 * math.sqrt(gains.null_space))
        if gains.first_joint is not None:
            self._posture[0] *= gains.first_joint
            self._posture_damping[0] *= 2 * math.sqrt(gains.first_joint)
        clip = gains.clip or (math.inf, math.inf)
        self._clip = None if gains.clip is None else np.repeat(clip, 3)

    def restart(self, q: np.ndarray, position: Sequence[float], quaternion: Sequence[float]) -> None:
        """Start at rest: reference and target are the present pose (x, y, z, w), the posture is ``q (7,)``."""
        self._q0 = np.array(q, np.float64)
        self._position = [float(v) for v in position]
        self._quaternion = [float(v) for v in quaternion]
        self.target = (tuple(self._position), tuple(self._quaternion))
        self.torque = np.zeros(7)

    def aim(self, position: Sequence[float], quaternion: Sequence[float]) -> None:
        """New target, in the hemisphere of the one before; nothing about it is checked."""
        x, y, z, w = (float(v) for v in quaternion)
        a, b, c, d = self.target[1]
        if a * x + b * y + c * z + d * w < 0.0:
            x, y, z, w = -x, -y, -z, -w
        px, py, pz = (float(v) for v in position)
        self.target = ((px, py, pz), (x, y, z, w))

    @property
    def reference(self) -> tuple[list[float], list[float]]:
        """The filtered target: position and quaternion (x, y, z, w)."""
        return list(self._position), list(self._quaternion)

    def tick(
        self,
        q: np.ndarray,
        dq: np.ndarray,
        position: np.ndarray,
        quaternion: Sequence[float],
        jacobian: np.ndarray,
        coriolis: np.ndarray,
    ) -> np.ndarray:
        """Torque ``(7,)`` in Nm for the measured state; ``quaternion`` x, y, z, w, ``jacobian (6, 7)``.

        The target filter moves on afterwards, as in the original.  Raises ``ControllerCrash``.
        """
        self._wrench[:3] = position
        wrench = self._wrench
        wrench[:3] -= self._position
        wrench[3:] = self._turn(quaternion)
        if self._clip is not None:
            np.clip(wrench, -self._clip, self._clip, out=wrench)
        wrench *= self._stiffness
        wrench += self._damping * (jacobian @ dq)
        pull = self._posture * (self._q0 - q) - self._posture_damping * dq
        square = np.dot(jacobian, jacobian.T, out=self._square)
        square.flat[::7] += PROJECTOR_DAMPING**2
        _, held, _ = dposv(square, jacobian @ pull)
        wanted = coriolis + pull - (wrench + held) @ jacobian
        step = wanted - self.torque
        if not math.isfinite(float(step @ step)):
            raise ControllerCrash("the torque is not finite: the target was NaN, infinite or a broken quaternion")
        limit = self.gains.torque_step
        np.minimum(np.maximum(step, -limit, out=step), limit, out=step)
        self.torque = self.torque + step
        self._filter()
        return self.torque

    def _turn(self, measured: Sequence[float]) -> tuple[float, float, float]:
        """Rotation error in the base frame, reference minus measured turned into measured minus reference."""
        x, y, z, w = measured
        a, b, c, d = self._quaternion
        if a * x + b * y + c * z + d * w < 0.0:
            x, y, z, w = -x, -y, -z, -w
        size = x * x + y * y + z * z + w * w
        # Vector part of measured^-1 * reference, in the tool's frame.
        ex = (w * a - d * x - y * c + z * b) / size
        ey = (w * b - d * y - z * a + x * c) / size
        ez = (w * c - d * z - x * b + y * a) / size
        # Into the base frame: e + 2 w (v x e) + 2 v x (v x e), for a unit quaternion.
        tx, ty, tz = 2 * (y * ez - z * ey), 2 * (z * ex - x * ez), 2 * (x * ey - y * ex)
        return (
            -(ex + w * tx + y * tz - z * ty),
            -(ey + w * ty + z * tx - x * tz),
            -(ez + w * tz + x * ty - y * tx),
        )

    def _filter(self) -> None:
        """Move the reference towards the target: linear, and slerp for the rotation (of unequal lengths too)."""
        (px, py, pz), (x, y, z, w) = self.target
        share, p, r = self.gains.filter, self._position, self._quaternion
        p[0] += share * (px - p[0])
        p[1] += share * (py - p[1])
        p[2] += share * (pz - p[2])
        dot = r[0] * x + r[1] * y + r[2] * z + r[3] * w
        near = abs(dot)
        if near >= 1.0 - 1e-12:
            keep, take = 1.0 - share, share
        else:
            angle = math.acos(near) if near <= 1.0 else math.nan
            sine = math.sin(angle)
            keep, take = math.sin((1.0 - share) * angle) / sine, math.sin(share * angle) / sine
        if dot < 0.0:
            take = -take
        r[0] = keep * r[0] + take * x
        r[1] = keep * r[1] + take * y
        r[2] = keep * r[2] + take * z
        r[3] = keep * r[3] + take * w
