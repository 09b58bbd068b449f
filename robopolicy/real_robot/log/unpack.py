"""From a row of ``ticks.bin`` back to what the loop was given: the inverse of ``format.pack``."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from robopolicy.real_robot.control.loop import Inputs
from robopolicy.real_robot.control.watchdogs import Health
from robopolicy.real_robot.frames import Pose
from robopolicy.real_robot.log.format import Has
from robopolicy.real_robot.safety.types import Measured, Setpoint

Text = Callable[[int], str | None]
"""From a number to its text."""


def inputs_of(row: np.void, text: Text) -> Inputs:
    """What the loop was given at the tick of this row."""
    has = Has(int(row["has"]))
    ages = row["health_age"].tolist()
    texts = [text(i) for i in row["health_text"].tolist()]
    mode, rivals = row["health_count"].tolist()
    words = json.loads(texts[0]) if texts[0] is not None else ()
    words = words if isinstance(words, dict) else {"errors": words}
    health = Health(
        link=Has.LINK in has,
        preflight=Has.PREFLIGHT in has,
        state_age=ages[0],
        state_rate=float(row["health_state_rate"]),
        loopback_age=ages[1] if Has.LOOPBACK_AGE in has else None,
        camera_age=ages[2] if Has.CAMERA_AGE in has else None,
        operator_age=ages[3] if Has.OPERATOR_AGE in has else None,
        late=float(row["health_late"]),
        mode=mode,
        errors=tuple(words["errors"]),
        clock=texts[1],
        starved=float(row["health_starved"]),
        policy=texts[2],
        rivals=rivals,
        gripper=texts[3],
        gripper_fault=Has.GRIPPER_FAULT in has,
        filter_hold=texts[4],
        filter_fault=Has.FILTER_FAULT in has,
        guard=words.get("guard"),
    )
    teleop = setpoint_of(row, "teleop")
    return Inputs(
        measured_of(row),
        health,
        float(row["loopback_at"]) if Has.LOOPBACK_AT in has else None,
        float(row["operator_at"]) if Has.OPERATOR_AT in has else None,
        (teleop, float(row["teleop_made"])) if teleop is not None else None,
    )


def measured_of(row: np.void) -> Measured:
    """The state of this row."""
    joints = row["measured_q"].copy() if int(row["has"]) & Has.JOINTS else np.zeros(0)
    return Measured(
        float(row["measured_at"]),
        row["measured_position"].copy(),
        row["measured_quaternion"].copy(),
        row["measured_twist"].copy(),
        joints,
        row["measured_force"].copy(),
        float(row["measured_width"]),
    )


def setpoint_of(row: np.void, prefix: str) -> Setpoint | None:
    """The human's (``"teleop"``) or the filter's (``"wish"``) setpoint of this row, if there was one."""
    has, name = Has(int(row["has"])), prefix.upper()
    if Has[name] not in has:
        return None
    left, turn_left = row[f"{prefix}_left"].tolist()
    action = row[f"{prefix}_action"]
    number, steps, epoch = row[f"{prefix}_number"].tolist()
    return Setpoint(
        row[f"{prefix}_position"].copy(),
        row[f"{prefix}_quaternion"].copy(),
        float(row[f"{prefix}_width"]) if Has[f"{name}_GRIPPER"] in has else None,
        row[f"{prefix}_rate"].copy(),
        left,
        turn_left,
        Pose(action[:3], action[3:]) if Has[f"{name}_ACTION"] in has else None,
        number,
        steps,
        epoch,
    )
