"""What the arm and its hand can do: the maker's published limits, read from ``real_robot/limits/*.yaml``.

Source: each file names its own.  What this project lets the arm do is in ``limits``, far below.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from robopolicy.core.configs import build_config, config_dataclass
from robopolicy.core.errors import ConfigError, did_you_mean
from robopolicy.resources import resource

Seven = tuple[float, float, float, float, float, float, float]
Six = tuple[float, float, float, float, float, float]
Three = tuple[float, float, float]
FOLDER = "real_robot/limits"


@config_dataclass
class SpeedLaw:
    """Joint speed limits that shrink towards the ends of the range (FR3)."""

    q_min: Seven
    """Hard lower ends, rad."""
    q_max: Seven
    """Hard upper ends, rad."""
    qd_max: Seven
    """Largest speeds, rad/s."""
    k: Seven
    """Slope under the root, rad/s2."""
    c: Seven
    """Speed taken off the root, rad/s."""


@config_dataclass
class RobotLimits:
    """Hardware limits of one arm and its hand."""

    name: str
    """panda or fr3."""
    q_min: Seven
    """Lower joint angles, rad."""
    q_max: Seven
    """Upper joint angles, rad."""
    qd_max: Seven
    """Joint speeds, rad/s."""
    qdd_max: Seven
    """Joint accelerations, rad/s2."""
    qddd_max: Seven
    """Joint jerks, rad/s3."""
    torque_max: Seven
    """Joint torques, Nm."""
    torque_rate_max: float
    """Change of torque, Nm/s."""
    translation: Three
    """Speed, acceleration and jerk of the tool: m/s, m/s2, m/s3."""
    rotation: Three
    """The same for rotation: rad/s, rad/s2, rad/s3."""
    elbow: Three
    """The same for the elbow: rad/s, rad/s2, rad/s3."""
    collision_torque: Seven
    """External joint torque that trips the reflex, Nm."""
    collision_force: Six
    """External force (N) and moment (Nm) at the tool that trips the reflex."""
    gripper_width: float
    """Largest distance between the fingers, m."""
    gripper_speed: float
    """Largest speed of the fingers, m/s."""
    gripper_force: float
    """Largest lasting force, N."""
    speed_law: SpeedLaw | None = None
    """Set where joint speeds depend on the position."""

    def __post_init__(self) -> None:
        for low, high, q in zip(self.q_min, self.q_max, range(1, 8), strict=True):
            if not low < high:
                raise ConfigError(f"{self.name}: joint {q}: expected q_min < q_max, got {low} and {high}")

    def joint_speeds(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest joint speed ``(..., 7)`` in rad/s at angles ``q (..., 7)``: minus and plus ``qd_max``, or
        less where the arm has a ``speed_law``."""
        at = np.asarray(q, np.float64)
        if self.speed_law is None:
            top = np.broadcast_to(np.array(self.qd_max), at.shape)
            return -top, top
        law = self.speed_law
        k, c = np.array(law.k), np.array(law.c)

        def speed(room: np.ndarray) -> np.ndarray:
            return np.minimum(law.qd_max, np.maximum(0.0, -c + np.sqrt(np.maximum(0.0, k * room))))

        return -speed(at - np.array(law.q_min)), speed(np.array(law.q_max) - at)


def robot_limits(name: str = "panda") -> RobotLimits:
    """Hardware limits ``panda`` or ``fr3``, or those in a YAML file of the same keys."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        known = ("fr3", "panda")
        if name not in known:
            raise ConfigError(f"no limits for an arm called '{name}'" + did_you_mean(name, known))
        path = resource(f"{FOLDER}/{name}.yaml")
    return build_config(RobotLimits, read_yaml(path), str(path))


def read_yaml(path: Path) -> Mapping[str, Any]:
    """The mapping in a YAML file of limits; raises ``ConfigError`` naming the file."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise ConfigError(f"{path}: cannot be read as YAML ({str(e).splitlines()[0]})") from None
    if not isinstance(data, Mapping):
        raise ConfigError(f"{path}: expected a mapping of limits, got {type(data).__name__}")
    return data
