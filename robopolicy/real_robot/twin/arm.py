"""The arm of the twin: a millisecond of physics under the impedance law, robot modes, reflexes, brakes, recovery.

Source: the states and error names of libfranka; thresholds of franka_ros.  What stands for the real thing: external
torques are the contact forces of the physics, low-passed with 10 ms, not a momentum observer; an arm that is not in
"move" is held by stiff joint springs at the angles where it was caught, which take the place of its controlled stop and
brakes; joint limits are checked, self-collision is not.
"""

from __future__ import annotations

from enum import IntEnum

import mujoco
import numpy as np

from robopolicy.real_robot.frames import Pose, quaternion_of_matrix
from robopolicy.real_robot.hardware import RobotLimits, robot_limits
from robopolicy.real_robot.kinematics import hand_on_flange
from robopolicy.real_robot.twin.impedance import CartesianImpedance, ControllerCrash, ImpedanceGains
from robopolicy.sim.panda_model import JOINTS, TORQUE_MAX

WATCH_EVERY = 5  # ticks between looks at reflexes and limits
FILTER = 0.1  # share of the way to the raw external torque in a tick: time constant 10 ms
BRAKE_STIFFNESS = np.array((1500.0, 1500.0, 1000.0, 1000.0, 300.0, 300.0, 300.0))
BRAKE_DAMPING = np.array((100.0, 100.0, 70.0, 50.0, 12.0, 12.0, 10.0))
FORCE_DAMPING = 0.02**2 * np.eye(6)  # keeps the estimate of the force finite where the arm is stretched out
GUIDING_DAMPING = 2.0  # Nms/rad while a hand leads the arm
RECOVERY_TICKS = 200  # how long clearing an error takes
COMMAND_LOSS = "communication_constraints_violation"


class Mode(IntEnum):
    """``robot_mode`` of the state message."""

    OTHER = 0
    IDLE = 1
    MOVE = 2
    GUIDING = 3
    REFLEX = 4
    USER_STOPPED = 5
    RECOVERING = 6


class FrankaArm:
    """The Panda in a scene made ready by ``drive_by_torque``, controlled at every tick."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, gains: ImpedanceGains) -> None:
        self._model, self._data = model, data
        qpos = [int(model.joint(name).qposadr[0]) for name in JOINTS]
        dofs = [int(model.joint(name).dofadr[0]) for name in JOINTS]
        motors = [model.actuator(name).id for name in JOINTS]
        # The law reads them a thousand times a second: slices are views, index lists are copies.
        self._q, self._v, self._u = (slice(found[0], found[0] + 7) for found in (qpos, dofs, motors))
        self._hand = model.body("hand").id
        self._jac = np.zeros((2, 3, model.nv))
        self._jacobian = np.zeros((6, 7))
        self._quaternion = np.zeros(4)
        self._gains = gains
        self.law = CartesianImpedance(gains)
        self.limits: RobotLimits = robot_limits("panda")
        self.tool = hand_on_flange()
        self.restart()

    def restart(self) -> None:
        """After the scene was reset: at rest, no errors, the controller running with the present pose as target."""
        self.mode, self.errors, self.last_errors = Mode.MOVE, set[str](), set[str]()
        self.crashed, self.ticks = False, 0
        self.collision_torque = np.array(self.limits.collision_torque)
        self.collision_force = np.array(self.limits.collision_force)
        self.external_torque: np.ndarray = np.zeros(7)
        self.external_force: np.ndarray = np.zeros(6)
        self.joint_touch, self.force_touch = np.zeros(7), np.zeros(6)
        self._recovering_until = 0
        self.stop_pressed = False
        self._data.ctrl[self._u] = 0.0
        self.law.retune(self._gains)
        self.set_tool(hand_on_flange())
        mujoco.mj_step1(self._model, self._data)
        self._measure()
        self._hold()
        self._start_controller()

    # -- what is measured ----------------------------------------------------------------------------------------------

    @property
    def q(self) -> np.ndarray:
        """Joint angles ``(7,)``, rad."""
        return np.array(self._data.qpos[self._q])

    @property
    def dq(self) -> np.ndarray:
        """Joint speeds ``(7,)``, rad/s."""
        return np.array(self._data.qvel[self._v])

    @property
    def torque(self) -> np.ndarray:
        """Motor torques ``(7,)`` without what holds the arm against gravity, Nm."""
        return np.array(self._data.ctrl[self._u])

    @property
    def rotation(self) -> np.ndarray:
        """Rotation ``(3, 3)`` of the tool in the base frame."""
        matrix: np.ndarray = self._data.xmat[self._hand].reshape(3, 3) @ self._turn
        return matrix

    @property
    def matrix(self) -> np.ndarray:
        """``O_T_EE (4, 4)``."""
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = self.rotation, self._position
        return matrix

    @property
    def pose(self) -> Pose:
        """``O_T_EE`` as a pose."""
        return Pose(self._position, quaternion_of_matrix(self.rotation))

    @property
    def twist(self) -> np.ndarray:
        """Velocity ``(6,)`` of the tool in the base frame, m/s and rad/s."""
        speed: np.ndarray = self._jacobian @ self._data.qvel[self._v]
        return speed

    @property
    def target(self) -> Pose:
        """The newest target that the controller heard."""
        return Pose(np.array(self.law.target[0]), np.array(self.law.target[1]))

    # -- what others do to it ------------------------------------------------------------------------------------------

    def aim(self, position: np.ndarray, quaternion: np.ndarray) -> None:
        """A new equilibrium pose, as the topic brings it; heard only while the controller runs."""
        if self.mode is Mode.MOVE:
            self.law.aim(position.tolist(), quaternion.tolist())

    def set_tool(self, tool: np.ndarray) -> None:
        """Change ``F_T_EE (4, 4)``: what the arm calls its tool, and what the controller moves."""
        self.tool = np.array(tool, np.float64)
        to_hand = np.linalg.inv(hand_on_flange(0.0)) @ self.tool
        self._lever, self._turn = to_hand[:3, 3], to_hand[:3, :3]
        self._plain = np.allclose(self._turn, np.eye(3), atol=1e-9)

    def reflex(self, error: str = "cartesian_reflex") -> None:
        """Stop at once, with ``error`` set until it is recovered from."""
        self.errors.add(error)
        self.last_errors = set(self.errors)
        if self.mode is not Mode.USER_STOPPED:
            self._stop(Mode.REFLEX)

    def press_stop(self) -> None:
        """The user stop: brakes, commands are not heard."""
        self.stop_pressed = True
        self._stop(Mode.USER_STOPPED)

    def release_stop(self) -> None:
        """Let the user stop go; the arm stays braked until it is recovered."""
        if self.stop_pressed:
            self.stop_pressed = False
            self.mode = Mode.REFLEX if self.errors else Mode.IDLE

    def guide(self, on: bool) -> None:
        """Begin or end that somebody leads the arm by hand; a pressed user stop keeps the brakes on."""
        if on and not self.stop_pressed:
            self._stop(Mode.GUIDING)
        elif self.mode is Mode.GUIDING:
            self._stop(Mode.IDLE)

    def recover(self) -> str:
        """Begin to clear errors and start the controller again; "" if it began, else why not."""
        if self.crashed:
            return "the control node is gone; restart it"
        if self.stop_pressed:
            return "the user stop is pressed"
        if self.mode is not Mode.MOVE:
            self._stop(Mode.RECOVERING)  # held where a hand has led it, not where it was caught before
            self._recovering_until = self.ticks + RECOVERY_TICKS
        return ""

    @property
    def recovered(self) -> bool:
        """Whether the last recovery is over and the arm follows targets."""
        return self.mode is Mode.MOVE

    def crash(self) -> None:
        """The control node ends: the arm stops for want of commands."""
        self.crashed = True
        self.reflex(COMMAND_LOSS)

    def restart_node(self) -> None:
        """Start the control node again; the arm waits for a recovery."""
        self.crashed = False

    # -- one tick ------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Set the motors from the present state, advance one millisecond, measure."""
        data = self._data
        q, dq = data.qpos[self._q], data.qvel[self._v]
        if self.mode is Mode.MOVE:
            coriolis = data.qfrc_bias[self._v] - data.qfrc_gravcomp[self._v]
            try:
                torque = self.law.tick(q, dq, self._position, self._measured(), self._jacobian, coriolis)
            except ControllerCrash:
                self.crash()
                torque = self._brake(q, dq)
        elif self.mode is Mode.GUIDING:
            torque = -GUIDING_DAMPING * dq
        else:
            torque = self._brake(q, dq)
        data.ctrl[self._u] = torque
        mujoco.mj_step2(self._model, data)
        self.external_torque += FILTER * (data.qfrc_constraint[self._v] - self.external_torque)
        mujoco.mj_step1(self._model, data)
        self._measure()
        self.ticks += 1
        if self.ticks % WATCH_EVERY == 0:
            self._watch()

    def _measure(self) -> None:
        data = self._data
        self._position = data.xpos[self._hand] + data.xmat[self._hand].reshape(3, 3) @ self._lever
        mujoco.mj_jac(self._model, data, self._jac[0], self._jac[1], self._position, self._hand)
        self._jacobian[:3], self._jacobian[3:] = self._jac[0, :, self._v], self._jac[1, :, self._v]

    def _measured(self) -> tuple[float, float, float, float]:
        if self._plain:
            w, x, y, z = self._data.xquat[self._hand].tolist()
        else:
            mujoco.mju_mat2Quat(self._quaternion, self.rotation.ravel())
            w, x, y, z = self._quaternion.tolist()
        return x, y, z, w

    def _brake(self, q: np.ndarray, dq: np.ndarray) -> np.ndarray:
        torque = BRAKE_STIFFNESS * (self._held - q) - BRAKE_DAMPING * dq
        return np.minimum(np.maximum(torque, -TORQUE_MAX), TORQUE_MAX)

    def _hold(self) -> None:
        self._held = self.q

    def _stop(self, mode: Mode) -> None:
        if self.mode in (Mode.MOVE, Mode.GUIDING):
            self._hold()
        self.mode = mode

    def _start_controller(self) -> None:
        pose = self.pose
        self.law.restart(self.q, pose.position.tolist(), pose.quaternion.tolist())

    def _watch(self) -> None:
        """Reflexes, limits and the end of a recovery."""
        j = self._jacobian
        force = self.external_force = np.linalg.solve(j @ j.T + FORCE_DAMPING, j @ self.external_torque)
        self.joint_touch = (np.abs(self.external_torque) > self.collision_torque).astype(np.float64)
        self.force_touch = (np.abs(force) > self.collision_force).astype(np.float64)
        if self.mode is Mode.RECOVERING and self.ticks >= self._recovering_until:
            self._finish_recovery()
        if self.mode is not Mode.MOVE:
            return
        q, dq = self._data.qpos[self._q], self._data.qvel[self._v]
        if self.joint_touch.any():
            self.reflex("joint_reflex")
        elif self.force_touch.any():
            self.reflex("cartesian_reflex")
        elif (q < self.limits.q_min).any() or (q > self.limits.q_max).any():
            self.reflex("joint_position_limits_violation")
        elif (np.abs(dq) > self.limits.qd_max).any():
            self.reflex("joint_velocity_violation")
        else:
            twist = self.twist
            if twist[:3] @ twist[:3] > self.limits.translation[0] ** 2:
                self.reflex("cartesian_velocity_violation")

    def _finish_recovery(self) -> None:
        self.errors.clear()
        self.mode = Mode.MOVE
        self._start_controller()
