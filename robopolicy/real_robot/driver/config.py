"""Settings of a driver: where the bridge is, what the robot is called there, what it looks with, and what it may do.

Source: our own design; names and topics are those of ``interface``.  Presets of usual set-ups are in
``real_robot/presets/*.yaml``: ``bridge_config("twin")``.  Read by the command line, so only light imports.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from robopolicy.core.configs import build_config, config_dataclass
from robopolicy.core.errors import ConfigError, did_you_mean
from robopolicy.real_robot.control.observations import GRIPPER_LATENCY as READING_LATENCY
from robopolicy.real_robot.control.plan import ARM_LATENCY, GRIPPER_LATENCY
from robopolicy.real_robot.driver.gripper_config import GripperConfig
from robopolicy.real_robot.guard.lease import TOPIC_TARGET
from robopolicy.real_robot.hardware import RobotLimits, read_yaml, robot_limits
from robopolicy.real_robot.interface import Interface, interface
from robopolicy.real_robot.kinematics import PANDA, Kinematics
from robopolicy.real_robot.limits import SafetyLimits, Timeouts, safety_limits
from robopolicy.real_robot.wire.client_config import ClientConfig, check_url
from robopolicy.resources import resource, resource_root

FOLDER = "real_robot/presets"
Numbers = tuple[float, ...]
PATIENCE = 30.0  # s that a link may take in lock-step, where the robot's time stands still meanwhile
LONGEST_LATENCY = 1.0  # s


@config_dataclass
class CameraConfig:
    """One camera."""

    topic: str | None = None
    """Topic of its JPEG pictures (``sensor_msgs/CompressedImage``); the usual name unless given."""
    size: tuple[int, int] = (480, 640)
    """Height and width that its pictures must have."""
    fps: float = 30.0
    """Pictures a second that it should deliver."""
    latency: float = 0.1
    """Seconds from the exposure to the arrival; counts only where its pictures carry no stamp."""

    def __post_init__(self) -> None:
        if self.topic is not None and not self.topic.startswith("/"):
            raise ConfigError(f"topic '{self.topic}': expected a name that begins with /")
        if min(self.size) < 8 or max(self.size) > 4096:
            raise ConfigError(f"size: expected (height, width) of 8 to 4096 pixels, got {self.size}")
        if not 0.5 <= self.fps <= 240:
            raise ConfigError(f"fps: expected 0.5 to 240 pictures a second, got {self.fps:g}")
        if not 0 <= self.latency <= LONGEST_LATENCY:
            raise ConfigError(f"latency: expected 0 to {LONGEST_LATENCY:g} s, got {self.latency:g}")


@config_dataclass
class FrankaBridgeConfig:
    """One robot behind a bridge, as this driver uses it."""

    url: str = "ws://127.0.0.1:9090"
    """Address of rosbridge or of this project's gateway; loopback, or a host in ``allowed_hosts``."""
    allowed_hosts: tuple[str, ...] = ()
    """Hosts other than this machine that may be connected to."""
    token_file: Path | None = None
    """File with the gateway's token."""
    ros: Literal["ros1", "ros2"] = "ros1"
    """ROS version behind the bridge; one that speaks the other is refused at connect."""
    controller: str | None = None
    """franka_ros, serl, crisp, or the command topic itself; franka_ros on ROS 1 and crisp on ROS 2 unless given."""
    guard: bool = False
    """Whether a guard stands before the controller on the robot's side (``robopolicy guard``): targets go to it, each
    with a lease."""
    arm_id: str = "panda"
    """First part of frame and joint names."""
    robot: str = "panda"
    """Hardware limits: panda, fr3, or a YAML file."""
    state_topic: str | None = None
    """Topic of the arm's state; the usual name unless given."""
    state_rate: float = 100.0
    """States a second that are expected; below 50 the time-outs of the state are a little longer."""
    state_throttle_ms: int = 0
    """Least time between two states that the bridge is asked to keep; for robots that publish at 1 kHz."""
    tool: Numbers | None = None
    """Flange to tool (``F_T_EE``), sixteen numbers column by column as the robot's state shows them, m; the Franka Hand
    unless given. Preflight refuses a robot that is set up otherwise."""
    cameras: dict[str, CameraConfig] = field(default_factory=dict)
    """Name -> camera."""
    anchor: str | None = None
    """Camera at whose time observations are taken; the first one unless given."""
    objects: str | None = None
    """Topic of a tracker of objects (``sensor_msgs/JointState``: names and positions), for policies without cameras."""
    gripper: GripperConfig | None = GripperConfig()
    """The hand; null for an arm without one."""
    gripper_reading: float = READING_LATENCY
    """Seconds by which the hand's reading is older than its stamp."""
    arm_latency: float = ARM_LATENCY
    """Seconds by which the arm follows its target; actions are sent so much earlier (``robot calibrate``)."""
    gripper_latency: float = GRIPPER_LATENCY
    """The same for the hand."""
    limits: str = "default"
    """Safety limits: default, first-run, or a YAML file."""
    timeouts: Timeouts | None = None
    """How long anything may take; those that fit ``state_rate`` unless given."""
    dead_man: bool = False
    """Whether the operator's heartbeat is needed to arm and to move."""
    seed: int = 0
    """Of the reconnect delays' jitter."""

    def __post_init__(self) -> None:
        check_url(self.url, self.allowed_hosts)
        for name, low, high in (
            *(("arm_latency", 0, LONGEST_LATENCY), ("gripper_latency", 0, LONGEST_LATENCY)),
            *(("gripper_reading", 0, LONGEST_LATENCY), ("state_rate", 10, 1000), ("state_throttle_ms", 0, 40)),
        ):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name}: expected {low:g} to {high:g}, got {getattr(self, name):g}")
        for name in ("state_topic", "objects"):
            topic = getattr(self, name)
            if topic is not None and not topic.startswith("/"):
                raise ConfigError(f"{name} '{topic}': expected a topic that begins with /")
        if self.anchor is not None and self.anchor not in self.cameras:
            raise ConfigError(f"anchor: there is no camera '{self.anchor}'" + did_you_mean(self.anchor, self.cameras))
        if self.tool is not None and (len(self.tool) != 16 or not all(map(math.isfinite, self.tool))):
            raise ConfigError("tool: expected sixteen finite numbers (F_T_EE, column by column)")
        # Whatever is wrong with names, tool and limits is told now, not when the robot waits.
        self.interface(), self.kinematics(), self.safety(), self.hardware()

    # -- what it stands for --------------------------------------------------------------------------------------------

    def interface(self) -> Interface:
        """Names on ROS; its cameras are in the order of observations, the anchor first."""
        usual = interface(self.ros, self.controller, self.arm_id, self.camera_names)
        topics = {name: self.cameras[name].topic or usual.cameras[name] for name in self.camera_names}
        command = TOPIC_TARGET if self.guard else usual.command
        return dataclasses.replace(usual, command=command, cameras=topics, state=self.state_topic or usual.state)

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Cameras, the anchor first."""
        return tuple(sorted(self.cameras, key=lambda name: name != self.anchor))

    def kinematics(self) -> Kinematics:
        """The arm with this tool; raises ``ConfigError`` if that is no rigid transform."""
        if self.tool is None:
            return PANDA
        return Kinematics(np.array(self.tool, np.float64).reshape(4, 4).T)

    def safety(self) -> SafetyLimits:
        """What the arm may do."""
        return safety_limits(self.limits)

    def hardware(self) -> RobotLimits:
        """What it could."""
        return robot_limits(self.robot)

    @property
    def times(self) -> Timeouts:
        """Time-outs in force."""
        return self.timeouts or Timeouts.for_state_rate(self.state_rate)

    def client(self, lock_step: bool = False) -> ClientConfig:
        """Settings of the link; ``lock_step``: with patience in everything that counts real time."""
        t = self.times
        waits: dict[str, Any] = {
            "ping_interval": t.ping_interval,
            "ping_timeout": t.ping_timeout,
            "service_timeout": t.service,
        }
        if lock_step:
            waits |= dict.fromkeys(("ping_timeout", "service_timeout", "handshake_timeout"), PATIENCE)
        return ClientConfig(
            url=self.url,
            allowed_hosts=self.allowed_hosts,
            token_file=self.token_file,
            flavour=self.ros,
            loopback_soft=t.loopback_soft,
            loopback_hard=t.loopback_hard,
            seed=self.seed,
            **waits,
        )


def presets() -> tuple[str, ...]:
    """Names of the shipped settings."""
    return tuple(sorted(path.stem for path in (resource_root() / FOLDER).glob("*.yaml")))


def bridge_config(name: str = "twin", **changes: Any) -> FrankaBridgeConfig:
    """Settings from a preset or a YAML file, with ``changes`` (by key) on top.

    Files that a YAML file names (limits, token) lie beside it.  Raises ``ConfigError`` that names file and key.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if name not in presets():
            raise ConfigError(f"no robot preset called '{name}'" + did_you_mean(name, presets()))
        path = resource(f"{FOLDER}/{name}.yaml")
    data = dict(read_yaml(path))
    for key in ("limits", "robot", "token_file"):
        value = data.get(key)
        if isinstance(value, str) and (key == "token_file" or value.endswith((".yaml", ".yml"))):
            data[key] = str(path.parent / value)
    return build_config(FrankaBridgeConfig, data | changes, str(path))
