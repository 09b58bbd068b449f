"""The twin's state as the messages of franka_ros (ROS 1) and franka_ros2 (ROS 2).

Field meanings are libfranka's: matrices column by column, wrenches as they act on the arm, ``K`` where the tool is.
What the twin does not model (motor side, loads) stays zero.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.interface import Interface
from robopolicy.real_robot.twin.arm import FrankaArm, Mode
from robopolicy.real_robot.wire.messages import Message, header, zeros
from robopolicy.real_robot.wire.schema import Flavour, lookup


@cache
def error_names(ros: Flavour) -> tuple[str, ...]:
    """All error flags of that flavour's message."""
    return tuple(f.name for f in lookup("franka_msgs/Errors", ros).fields)


def pose_message(pose: Pose) -> Message:
    """``geometry_msgs/Pose``."""
    (x, y, z), (qx, qy, qz, qw) = pose.position.tolist(), pose.quaternion.tolist()
    return {"position": {"x": x, "y": y, "z": z}, "orientation": {"x": qx, "y": qy, "z": qz, "w": qw}}


def pose_of_message(message: Message) -> Pose:
    """Pose of a ``geometry_msgs/Pose``, NaN and all."""
    p, q = message["position"], message["orientation"]
    return Pose(np.array((p["x"], p["y"], p["z"])), np.array((q["x"], q["y"], q["z"], q["w"])))


def column_major(matrix: np.ndarray) -> list[float]:
    """A ``(4, 4)`` matrix as libfranka's sixteen numbers."""
    numbers: list[float] = matrix.T.ravel().tolist()
    return numbers


def of_column_major(numbers: list[float]) -> np.ndarray:
    """Inverse of ``column_major``."""
    return np.array(numbers, np.float64).reshape(4, 4).T


def vector(values: np.ndarray) -> Message:
    """``geometry_msgs/Vector3``."""
    x, y, z = values.tolist()
    return {"x": x, "y": y, "z": z}


def wrench(values: np.ndarray) -> Message:
    """``geometry_msgs/Wrench`` or ``Twist`` parts of ``(6,)``."""
    return {"force": vector(values[:3]), "torque": vector(values[3:])}


IDENTITY = column_major(np.eye(4))


class StateMessages:
    """Builds the arm's messages; one instance a bus."""

    def __init__(self, arm: FrankaArm, face: Interface) -> None:
        self._arm, self._face = arm, face
        self._blank = zeros(face.state_type, face.ros)
        self._no_errors = dict.fromkeys(error_names(face.ros), False)
        self.joints = [f"{face.arm_id}_joint{i}" for i in range(1, 8)]
        self.fingers = [f"{face.arm_id}_finger_joint{i}" for i in (1, 2)]
        self._seq = 0

    def header(self, wall: float, frame: str | None = None) -> Message:
        """A stamped header; the base's frame unless told otherwise."""
        self._seq += 1
        return header(wall, self._face.base_frame if frame is None else frame, self._face.ros, self._seq)

    def joint_state(self, wall: float) -> Message:
        """``sensor_msgs/JointState`` of the arm."""
        arm = self._arm
        return {
            "header": self.header(wall, ""),
            "name": self.joints,
            "position": arm.q.tolist(),
            "velocity": arm.dq.tolist(),
            "effort": arm.torque.tolist(),
        }

    def finger_state(self, wall: float, width: float) -> Message:
        """``sensor_msgs/JointState`` of the hand: half the width for each finger, no speeds, no forces."""
        return {
            "header": self.header(wall, ""),
            "name": self.fingers,
            "position": [width / 2] * 2,
            "velocity": [0.0] * 2,
            "effort": [0.0] * 2,
        }

    def external_wrench(self, wall: float) -> Message:
        """``geometry_msgs/WrenchStamped`` in the frame of the tool."""
        frame = f"{self._face.arm_id}_K"
        return {"header": self.header(wall, frame), "wrench": wrench(self._in_tool(self._arm.external_force))}

    def state(self, wall: float, seconds: float) -> Message:
        """``FrankaState`` or ``FrankaRobotState``; ``seconds`` is the robot's own time."""
        arm = self._arm
        mode = Mode.OTHER if arm.crashed else arm.mode
        shared: Message = {
            "header": self.header(wall, ""),
            "time": seconds,
            "robot_mode": int(mode),
            "control_command_success_rate": 1.0 if mode is Mode.MOVE else 0.0,
            "current_errors": self._flags(arm.errors),
            "last_motion_errors": self._flags(arm.last_errors),
        }
        return self._blank | shared | (self._ros1() if self._face.ros == "ros1" else self._ros2(wall))

    def _ros1(self) -> Message:
        arm, law = self._arm, self._arm.law
        tool, q, dq = column_major(arm.tool), arm.q, arm.dq
        measured, reference = column_major(arm.matrix), Pose(*(np.array(v) for v in law.reference))
        return {
            "q": q.tolist(),
            "q_d": q.tolist(),
            "dq": dq.tolist(),
            "dq_d": dq.tolist(),
            "theta": q.tolist(),
            "dtheta": dq.tolist(),
            "tau_J": arm.torque.tolist(),
            "tau_J_d": law.torque.tolist(),
            "tau_ext_hat_filtered": arm.external_torque.tolist(),
            "O_F_ext_hat_K": arm.external_force.tolist(),
            "K_F_ext_hat_K": self._in_tool(arm.external_force).tolist(),
            "cartesian_collision": arm.force_touch.tolist(),
            "cartesian_contact": arm.force_touch.tolist(),
            "joint_collision": arm.joint_touch.tolist(),
            "joint_contact": arm.joint_touch.tolist(),
            "elbow": [float(q[2]), 1.0 if q[3] > 0 else -1.0],
            "O_T_EE": measured,
            "O_T_EE_d": column_major(reference.matrix()) if reference.finite() else measured,
            "O_T_EE_c": measured,
            "F_T_EE": tool,
            "F_T_NE": tool,
            "NE_T_EE": IDENTITY,
            "EE_T_K": IDENTITY,
            "m_ee": 0.73,
            "m_total": 0.73,
        }

    def _ros2(self, wall: float) -> Message:
        arm, law = self._arm, self._arm.law
        base, reference = self.header(wall), Pose(*(np.array(v) for v in law.reference))
        joints = self.joint_state(wall)
        tool = Pose.of_matrix(arm.tool)
        twist = arm.twist
        spin = {"linear": vector(twist[:3]), "angular": vector(twist[3:])}
        linear, angular = vector(arm.force_touch[:3]), vector(arm.force_touch[3:])

        def stamped(pose: Pose, frame: Message = base) -> Message:
            return {"header": frame, "pose": pose_message(pose)}

        return {
            "measured_joint_state": joints,
            "desired_joint_state": joints,
            "measured_joint_motor_state": joints,
            "tau_ext_hat_filtered": joints | {"effort": arm.external_torque.tolist()},
            "o_f_ext_hat_k": {"header": base, "wrench": wrench(arm.external_force)},
            "k_f_ext_hat_k": {"header": base, "wrench": wrench(self._in_tool(arm.external_force))},
            "collision_indicators": {
                "is_cartesian_linear_collision": linear,
                "is_cartesian_angular_collision": angular,
                "is_cartesian_linear_contact": linear,
                "is_cartesian_angular_contact": angular,
                "is_joint_collision": arm.joint_touch.tolist(),
                "is_joint_contact": arm.joint_touch.tolist(),
            },
            "o_t_ee": stamped(arm.pose),
            "o_t_ee_d": stamped(reference if reference.finite() else arm.pose),
            "o_t_ee_c": stamped(arm.pose),
            "f_t_ee": stamped(tool, self.header(wall, f"{self._face.arm_id}_link8")),
            "ee_t_k": stamped(Pose(np.zeros(3), np.array((0.0, 0.0, 0.0, 1.0)))),
            "o_dp_ee_d": {"header": base, "twist": spin},
            "o_dp_ee_c": {"header": base, "twist": spin},
        }

    def _flags(self, errors: set[str]) -> dict[str, Any]:
        return self._no_errors | dict.fromkeys(errors & set(self._no_errors), True)

    def _in_tool(self, force: np.ndarray) -> np.ndarray:
        in_tool: np.ndarray = force.reshape(2, 3) @ self._arm.rotation
        return in_tool.ravel()
