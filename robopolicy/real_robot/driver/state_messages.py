"""What the driver reads out of state messages: FrankaState (ROS 1), FrankaRobotState (ROS 2), finger joints.

Source: field meanings of libfranka (matrices column by column, wrenches as they act on the arm).  Differs between the
two: ROS 2 nests a JointState whose joints may come in any order, and has poses where ROS 1 has matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from robopolicy.core.errors import InvalidMessage
from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.interface import Ros
from robopolicy.real_robot.wire.messages import Message


@dataclass(frozen=True, eq=False)
class ArmState:
    """One state of the arm: ``pose`` of the tool in the base frame, ``q (7,)`` rad, ``dq (7,)`` rad/s, ``force (3,)``
    external force in N (base frame), ``mode`` 0..6, names of the ``errors`` that are up, share of ``success`` of the
    last 100 commands, ``tool (4, 4)`` flange to tool."""

    pose: Pose
    q: np.ndarray
    dq: np.ndarray
    force: np.ndarray
    mode: int
    errors: tuple[str, ...]
    success: float
    tool: np.ndarray


def arm_state(message: Message, ros: Ros, arm_id: str) -> ArmState:
    """The state in a checked message; raises ``InvalidMessage`` where it makes no sense."""
    if ros == "ros1":
        pose = Pose.of_matrix(_matrix(message["O_T_EE"]))
        q, dq = np.array(message["q"]), np.array(message["dq"])
        force, tool = np.array(message["O_F_ext_hat_K"][:3]), _matrix(message["F_T_EE"])
    else:
        pose, tool = _pose(message["o_t_ee"]["pose"]), _pose(message["f_t_ee"]["pose"]).matrix()
        q, dq = _joints(message["measured_joint_state"], arm_id)
        force = np.array([message["o_f_ext_hat_k"]["wrench"]["force"][axis] for axis in "xyz"])
    errors = tuple(name for name, up in message["current_errors"].items() if up)
    success = float(message["control_command_success_rate"])
    return ArmState(pose, q, dq, force, int(message["robot_mode"]), errors, success, tool)


def finger_width(message: Message, arm_id: str) -> float:
    """Distance between the fingers, m: the sum of both joints of a checked ``sensor_msgs/JointState``."""
    positions = message["position"]
    wanted = [f"{arm_id}_finger_joint{i}" for i in (1, 2)]
    found = dict(zip(message["name"], positions, strict=False))
    if all(name in found for name in wanted):
        return float(sum(found[name] for name in wanted))
    if len(positions) != 2:
        raise InvalidMessage(f"fingers: expected two joints, got {len(positions)}: {', '.join(message['name'])[:80]}")
    return float(sum(positions))


def pose_message(pose: Pose) -> dict[str, Any]:
    """``geometry_msgs/Pose``."""
    position = dict(zip("xyz", pose.position.tolist(), strict=True))
    return {"position": position, "orientation": dict(zip("xyzw", pose.quaternion.tolist(), strict=True))}


def _matrix(numbers: Sequence[float]) -> np.ndarray:
    return np.array(numbers, np.float64).reshape(4, 4).T


def _pose(message: Message) -> Pose:
    p, q = message["position"], message["orientation"]
    return Pose(np.array([p[axis] for axis in "xyz"]), np.array([q[axis] for axis in "xyzw"]))


def _joints(message: Message, arm_id: str) -> tuple[np.ndarray, np.ndarray]:
    names, position, velocity = message["name"], message["position"], message["velocity"]
    if len(position) != 7 or len(velocity) != 7:
        raise InvalidMessage(f"state: expected 7 joints, got {len(position)} positions and {len(velocity)} velocities")
    if len(names) not in (0, 7):
        raise InvalidMessage(f"state: expected the names of 7 joints, got {len(names)}")
    wanted = [f"{arm_id}_joint{i}" for i in range(1, 8)]
    order = [names.index(name) for name in wanted] if set(wanted) <= set(names) else list(range(7))
    return np.array(position, np.float64)[order], np.array(velocity, np.float64)[order]
