"""What a control loop was built from, and the loop built from it again."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from robopolicy.core.configs import build_config, dump_config
from robopolicy.core.errors import DatasetError
from robopolicy.real_robot.control.loop import ControlLoop
from robopolicy.real_robot.control.plan import ARM_LATENCY, GRIPPER_LATENCY, Plan
from robopolicy.real_robot.control.states import StateMachine
from robopolicy.real_robot.driver.config import FrankaBridgeConfig
from robopolicy.real_robot.kinematics import Kinematics
from robopolicy.real_robot.limits import RobotLimits, SafetyLimits, Timeouts, robot_limits
from robopolicy.real_robot.safety.filter import SafetyFilter


def _panda() -> RobotLimits:
    return robot_limits("panda")


@dataclass(frozen=True, eq=False)
class LoopSettings:
    """Everything that a ``ControlLoop`` depends on besides what arrives: limits, time-outs, arm, tool, latencies (s).

    Of the filter's stages none is ever missing; a loop that lacks one is for tests and is not logged.
    """

    limits: SafetyLimits = field(default_factory=SafetyLimits)
    timeouts: Timeouts = field(default_factory=Timeouts)
    robot: RobotLimits = field(default_factory=_panda)
    kinematics: Kinematics = field(default_factory=Kinematics)
    latency: float = ARM_LATENCY
    gripper_latency: float = GRIPPER_LATENCY

    def build(self, recovery: Callable[[], None] = lambda: None) -> ControlLoop:
        """A loop that has not ticked yet; ``recovery`` as for ``StateMachine``."""
        safety = SafetyFilter(self.limits, self.timeouts, self.kinematics, self.robot)
        plan = Plan(self.limits, self.latency, self.gripper_latency)
        return ControlLoop(safety, plan, StateMachine(self.timeouts, recovery))

    def plain(self) -> dict[str, Any]:
        """JSON-ready; ``from_plain`` makes equal settings of it."""
        return {
            "limits": dump_config(self.limits),
            "timeouts": dump_config(self.timeouts),
            "robot": dump_config(self.robot),
            "tool": np.asarray(self.kinematics.tool).tolist(),
            "latency": float(self.latency),
            "gripper_latency": float(self.gripper_latency),
        }

    @staticmethod
    def from_plain(data: Mapping[str, Any], where: str = "") -> LoopSettings:
        """Inverse of ``plain``; raises ``ConfigError`` or ``DatasetError`` naming ``where``."""
        try:
            return LoopSettings(
                build_config(SafetyLimits, data["limits"], where),
                build_config(Timeouts, data["timeouts"], where),
                build_config(RobotLimits, data["robot"], where),
                Kinematics(np.array(data["tool"], np.float64)),
                float(data["latency"]),
                float(data["gripper_latency"]),
            )
        except (KeyError, TypeError, ValueError) as e:
            raise DatasetError(f"{where}: settings of the control loop are missing or broken ({e})") from e


def loop_settings(config: FrankaBridgeConfig) -> LoopSettings:
    """Those of the loop that a driver with this configuration builds."""
    return LoopSettings(
        config.safety(),
        config.times,
        config.hardware(),
        config.kinematics(),
        config.arm_latency,
        config.gripper_latency,
    )


def versions() -> dict[str, str]:
    """What the numbers may depend on."""
    found = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system()}
    for name in ("robopolicy", "numpy", "mujoco", "websockets"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
