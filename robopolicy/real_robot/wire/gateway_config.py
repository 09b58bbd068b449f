"""Settings of the gateway, and what it refuses to start with."""

from __future__ import annotations

import ipaddress
import stat
from pathlib import Path
from typing import Literal

from robopolicy.core.configs import config_dataclass
from robopolicy.core.errors import ConfigError
from robopolicy.real_robot.wire.protocol import INBOUND_LIMIT, MIB

QuirkName = Literal["none", "rosbridge1", "rosbridge2"]
COMMAND_TOPICS = (
    "/cartesian_impedance_example_controller/equilibrium_pose",
    "/cartesian_impedance_controller/equilibrium_pose",
    "/target_pose",
    "/target_joint",
    "/robopolicy/target_pose",
    "/robopolicy/lease",
)
# What a driver of a Franka touches; everything else on a robot's graph stays out of reach.
FRANKA_TOPICS = (
    *COMMAND_TOPICS,
    "/robopolicy/*",
    "/franka_state_controller/*",
    "/franka_robot_state_broadcaster/*",
    "/franka_control/error_recovery/*",
    "/franka_gripper/*",
    "/joint_states",
    "/cam_*",
    "/camera*",
)
# With a robot-side guard nobody but the guard needs the controller's topic.
GUARDED_TOPICS = tuple(t for t in FRANKA_TOPICS if t not in COMMAND_TOPICS)
FRANKA_SERVICES = ("/rosapi/*", "/franka_control/*", "/franka_gripper/*", "/robopolicy/*")
TOKEN_LENGTH = 16


@config_dataclass
class GatewayConfig:
    """Where the gateway listens, whom it lets in and what they may touch."""

    host: str = "127.0.0.1"
    """Address to bind; anything but loopback needs ``allow_remote`` and a ``token_file``."""
    port: int = 9090
    """Port to bind; 0 takes any free one."""
    allow_remote: bool = False
    """Whether other machines may connect."""
    token_file: Path | None = None
    """File with the token that clients must show as ``Authorization: Bearer <token>``."""
    allow_origins: tuple[str, ...] = ()
    """Web pages (origins) that may connect; a browser on this machine is refused by default."""
    quirks: QuirkName = "none"
    """Behave like rosbridge_suite of ROS 1 or ROS 2, faults included, to test a driver against it."""
    allow_topics: tuple[str, ...] = ("*",)
    """Patterns of topics that clients may advertise and hear."""
    allow_services: tuple[str, ...] = ("*",)
    """Patterns of services and actions that clients may call."""
    command_topics: tuple[str, ...] = COMMAND_TOPICS
    """Topics that have one writer at a time."""
    writer_silence: float = 0.5
    """Seconds of silence after which the writer of a command topic loses it."""
    max_clients: int = 8
    """Connections at one time."""
    inbound_limit: int = INBOUND_LIMIT
    """Bytes of one frame that a client may send; beyond it the connection is closed with code 1009."""
    max_message_size: int = 0
    """Characters above which outgoing text is split into ``fragment`` frames; 0 never splits."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port: must be in 0..65535, got {self.port}")
        if not 1 <= self.max_clients <= 64:
            raise ConfigError(f"max_clients: must be in 1..64, got {self.max_clients}")
        if not 1024 <= self.inbound_limit <= 64 * MIB:
            raise ConfigError(f"inbound_limit: must be between 1 KiB and 64 MiB, got {self.inbound_limit}")
        if not 0.05 <= self.writer_silence <= 10:
            raise ConfigError(f"writer_silence: must be in 0.05..10 s, got {self.writer_silence}")
        if self.max_message_size < 0 or 0 < self.max_message_size < 256:
            raise ConfigError(f"max_message_size: 0 or at least 256, got {self.max_message_size}")
        if not is_loopback(self.host):
            if not self.allow_remote:
                raise ConfigError(
                    f"host {self.host} lets other machines in: add --allow-remote and --token-file, or use 127.0.0.1"
                )
            if self.token_file is None:
                raise ConfigError(f"host {self.host} without --token-file: anybody on the network could move the robot")
            if self.quirks != "none":
                raise ConfigError("quirks imitate a server without access control: loopback only")


def is_loopback(host: str) -> bool:
    """Whether an address or name means this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_token(path: Path) -> str:
    """The token in a file; raises ``ConfigError`` if it is missing, short, or readable by others."""
    try:
        mode, token = path.stat().st_mode, path.read_text().strip()
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"token file {path}: {e}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"token file {path}: others can read it; chmod 600 {path}")
    if len(token) < TOKEN_LENGTH or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"token file {path}: needs {TOKEN_LENGTH} or more characters in one word, "
            f'e.g. python3 -c "import secrets; print(secrets.token_urlsafe())" > {path}'
        )
    return token
