"""Items of the preflight that look at the robot itself, and at whether a policy fits it.

Source: fields of FrankaState / FrankaRobotState as the maker documents them; limits are the configuration's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from robopolicy.real_robot.control.checks import Difference
from robopolicy.real_robot.driver.config import FrankaBridgeConfig
from robopolicy.real_robot.driver.contract import Check, Status
from robopolicy.real_robot.driver.pictures import picture_problem
from robopolicy.real_robot.driver.state_messages import ArmState, arm_state
from robopolicy.real_robot.frames import Pose, difference
from robopolicy.real_robot.interface import MODES
from robopolicy.real_robot.safety.workspace import Workspace
from robopolicy.real_robot.wire.client import RosbridgeClient

USABLE = (1, 2)  # idle, move
SUCCESS = 0.95  # of the commands of the last 100 ms, while it moves
SHIFT, TURN = 0.001, np.radians(0.5)  # m, rad by which the tool may differ from the configured one
HAND_AGE = 0.5  # s; the hand is read ten times a second
STEPS_LEFT = 2  # action steps of a chunk that must be left when its answer is there


class Robot(Protocol):
    """What is looked at; see ``preflight.Inspected``."""

    client: RosbridgeClient
    config: FrankaBridgeConfig

    def status(self) -> Status:
        """The driver now."""
        ...


def robot_checks(core: Robot) -> Iterable[Check]:
    """Mode, errors, tool, joints, place and hand of the arm, and the sizes of its pictures."""
    names, config = core.config.interface(), core.config
    slot = core.client.inbox.slots.get(names.state)
    sample = slot.newest() if slot is not None else None
    if sample is None:
        yield Check("robot state", False, "none", "a state", f"look at {names.state}")
        return
    state = arm_state(sample.message, config.ros, config.arm_id)
    yield from _fit(state)
    yield _tool(state, config)
    yield _joints(state, config)
    status = core.status()
    yield _place(state, config, status.width)
    if config.gripper is not None:
        age = status.ages.get("gripper", np.inf)
        cure = f"is {names.gripper_states} published? start the gripper node, or set gripper: null"
        yield Check("gripper state", age <= HAND_AGE, f"{age:.2f} s old", f"{HAND_AGE:g} s or less", cure)
    for name, topic in names.cameras.items():
        yield _picture(core.client, name, topic, config.cameras[name].size)


def _fit(state: ArmState) -> Iterable[Check]:
    mode = state.mode
    name = MODES[mode] if 0 <= mode < len(MODES) else "unknown"
    cure = {
        3: "let go of the guiding button",
        4: "see why it stopped, then recover",
        5: "release the stop device",
    }.get(mode, "unlock the arm and switch it to execution in Desk")
    yield Check("robot mode", mode in USABLE, f"{mode} ({name})", "1 (idle) or 2 (move)", cure)
    errors = ", ".join(state.errors)
    yield Check("robot errors", not errors, errors or "none", "none", "find the cause, then recover")
    if mode == 2:
        cure = "use a real-time kernel, a wired link, and nothing else on the robot's computer"
        found = f"{state.success:.2f}"
        yield Check("command success rate", state.success >= SUCCESS, found, f"{SUCCESS:g} or more", cure)


def _tool(state: ArmState, config: FrankaBridgeConfig) -> Check:
    wanted, there = Pose.of_matrix(config.kinematics().tool), Pose.of_matrix(state.tool)
    shift = float(np.linalg.norm(there.position - wanted.position))
    turn = float(np.linalg.norm(difference(wanted.quaternion, there.quaternion)))
    found = f"{1e3 * shift:.2f} mm and {np.degrees(turn):.2f} deg off the configured tool"
    cure = "Desk changes the end effector silently: set it there, or set tool to the robot's F_T_EE"
    passed = shift <= SHIFT and turn <= TURN
    return Check("tool (F_T_EE)", passed, found, f"{1e3 * SHIFT:g} mm, {np.degrees(TURN):g} deg", cure)


def _joints(state: ArmState, config: FrankaBridgeConfig) -> Check:
    hardware, margin = config.hardware(), config.safety().joint_stop
    room = np.minimum(state.q - np.array(hardware.q_min), np.array(hardware.q_max) - state.q)
    worst = int(np.argmin(room))
    found = f"joint {worst + 1} is {room[worst]:.3f} rad from its end"
    return Check("joints", bool(room[worst] > margin), found, f"more than {margin:g} rad", "guide the arm away by hand")


def _place(state: ArmState, config: FrankaBridgeConfig, width: float | None) -> Check:
    (x, y, z), (a, b, c, d) = state.pose.position.tolist(), state.pose.quaternion.tolist()
    excess = Workspace(config.safety()).excess((x, y, z), (a, b, c, d), width if width is not None else 0.08)
    found = f"x {x:.3f}, y {y:.3f}, z {z:.3f} m" + f", {1e3 * excess:.0f} mm outside" * (excess > 0)
    return Check("tool place", excess <= 0, found, "inside the workspace", "guide the arm into it by hand, fingers too")


def _picture(client: RosbridgeClient, name: str, topic: str, size: tuple[int, int]) -> Check:
    slot = client.inbox.slots.get(topic)
    sample = slot.newest() if slot is not None else None
    message = sample.message if sample is not None else {}
    problem = picture_problem(message["format"], bytes(message["data"]), size) if message else "no picture came"
    found = problem or f"JPEG of {size[0]} x {size[1]}"
    cure = f"set cameras.{name}.size, or the camera's own resolution and transport"
    return Check(f"pictures of {name}", problem is None, found, f"JPEG of {size[0]} x {size[1]}", cure)


# -- whether a policy fits ---------------------------------------------------------------------------------------------


def policy_checks(
    differences: Sequence[Difference], latency: float, dt: float, actions: int, lead: float = 0.0
) -> list[Check]:
    """Two items: every feature as the checkpoint has it (``control.checks.feature_differences``), and answers in time.

    ``latency``: 95th percentile of warm-up calls, s; ``dt``: action period, s; ``actions``: that a chunk holds, the one
    of the observation's own instant included; ``lead``: seconds before its date by which the driver needs an action.
    """
    shown = "; ".join(map(str, differences))
    cure = "configure the robot as the data were recorded, or train on data of this robot"
    same = Check("policy features", not differences, shown or "all equal", "those of the checkpoint", cure)
    left = actions - int(np.ceil((latency + lead) / dt - 1e-9))
    ahead = f" and {1e3 * lead:.0f} ms ahead" if lead else ""
    found = f"p95 {1e3 * latency:.0f} ms{ahead} leaves {left} of {actions} actions of {1e3 * dt:g} ms"
    cure = "fewer sampling steps, longer chunks, or a faster machine"
    return [same, Check("policy latency", left >= STEPS_LEFT, found, f"{STEPS_LEFT} or more left", cure)]
