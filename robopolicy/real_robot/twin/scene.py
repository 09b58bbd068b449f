"""What the twin's arm stands in: an empty table, or an embedded task's scene with its objects and its success test.

The arm is the one of the simulations (``sim/scenes/panda.xml``, primitives on the published frames).  A scene is made
ready for torque control here: motors instead of joint servos, a physics step of one millisecond, and, unlike in the
simulations, an arm whose links bump into the table and the objects.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from robopolicy.core.errors import ConfigError
from robopolicy.sim.panda_model import FINGERS, HOME, JOINTS, TORQUE_MAX, WIDTH_MAX, scene
from robopolicy.sim.protocol import StepResult
from robopolicy.sim.registry import make_env
from robopolicy.sim.render import Cameras
from robopolicy.sim.tasks.base import PandaTask

TICK = 0.001  # s, physics and controller
# Nms/rad left in a joint.  The robot's torque loop closes on the link side and makes up for most of the friction; the
# simulations' joint servos keep 1.0.
JOINT_DAMPING = 0.1
LINKS = 4  # contact bit of the arm's links, which touch the surroundings but not each other
EMPTY = '<mujoco model="twin"><include file="table.xml"/><include file="panda.xml"/></mujoco>'


class EmptyTable:
    """A table and the arm in its start pose, nothing else."""

    fps = 20.0
    task = "Nothing to do."

    def __init__(self) -> None:
        parts = {name: scene(name.removesuffix(".xml")).read_bytes() for name in ("table.xml", "panda.xml")}
        self.model = mujoco.MjModel.from_xml_string(EMPTY, parts)
        self.data = mujoco.MjData(self.model)
        self.cameras = Cameras(self.model, self.data)
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Start pose and open hand, whatever the seed."""
        mujoco.mj_resetData(self.model, self.data)
        for name, angle in zip(JOINTS, HOME, strict=True):
            self.data.joint(name).qpos[0] = angle
        for name in FINGERS:
            self.data.joint(name).qpos[0] = WIDTH_MAX / 2
        mujoco.mj_forward(self.model, self.data)

    def objects(self) -> tuple[tuple[str, ...], list[float]]:
        """There are none."""
        return (), []

    def judge(self) -> StepResult:
        """Nothing is ever solved here."""
        return StepResult(0.0, False, False, False, {"max_reward": 0.0})

    def close(self) -> None:
        """Free the GL context."""
        self.cameras.close()


Scene = EmptyTable | PandaTask


def make_scene(task: str | None, options: dict[str, Any] | None = None) -> Scene:
    """An embedded Panda task by name with its ``options``, or the empty table; ready for torque control.

    Raises ``ConfigError`` for an environment that is no embedded task with one Panda arm.
    """
    if task is None:
        if options:
            raise ConfigError(f"the empty table has no options, got {', '.join(options)}; name a task")
        chosen: Scene = EmptyTable()
    else:
        env = make_env(task, **(options or {}))
        if not isinstance(env, PandaTask):
            env.close()
            raise ConfigError(f"the twin loads the one-armed tasks panda_lift, panda_push...; '{task}' is none of them")
        chosen = env
    drive_by_torque(chosen.model)
    return chosen


def drive_by_torque(model: mujoco.MjModel) -> None:
    """Turn the servos of arm and hand into motors, set the step to a millisecond, let the links touch things."""
    model.opt.timestep = TICK
    for name in (*JOINTS, "gripper"):
        motor = model.actuator(name).id
        model.actuator_gaintype[motor] = mujoco.mjtGain.mjGAIN_FIXED.value
        model.actuator_biastype[motor] = mujoco.mjtBias.mjBIAS_NONE.value
        model.actuator_gainprm[motor], model.actuator_biasprm[motor] = 0.0, 0.0
        model.actuator_gainprm[motor, 0] = 1.0
        model.actuator_ctrllimited[motor] = model.actuator_forcelimited[motor] = 0
    for name, torque in zip(JOINTS, TORQUE_MAX, strict=True):
        motor = model.actuator(name).id
        model.actuator_forcelimited[motor] = 1
        model.actuator_forcerange[motor] = (-torque, torque)
        model.dof_damping[model.joint(name).dofadr[0]] = JOINT_DAMPING
    _let_links_touch(model)


def _let_links_touch(model: mujoco.MjModel) -> None:
    bodies = arm_bodies(model)
    for geom in range(model.ngeom):
        ours = int(model.geom_bodyid[geom]) in bodies
        if ours and not model.geom_contype[geom] and not model.geom_conaffinity[geom]:
            model.geom_contype[geom] = LINKS
        elif not ours and model.geom_contype[geom]:
            model.geom_conaffinity[geom] |= LINKS
    for body in range(model.nbody):  # what the broad phase looks at
        geoms = np.flatnonzero(model.geom_bodyid == body)
        model.body_contype[body] = np.bitwise_or.reduce(model.geom_contype[geoms], initial=0)
        model.body_conaffinity[body] = np.bitwise_or.reduce(model.geom_conaffinity[geoms], initial=0)


def arm_bodies(model: mujoco.MjModel) -> set[int]:
    """Numbers of the bodies that move with joint 1: links, hand, fingers (the base stands in the table's way)."""
    first, found = model.body("link1").id, set()
    for body in range(model.nbody):
        parent = body
        while parent not in (0, first):
            parent = int(model.body_parentid[parent])
        if parent == first:
            found.add(body)
    return found
