"""ROS 1 message classes made from this project's field table, where no ROS distribution brings them.

Source: genpy's own generator, fed with the text that ``message_text`` writes; so its checksums tell whether our table
is that of the real packages.  For tests on Debian's ROS 1, which has no ``franka_msgs``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from robopolicy.core.errors import ConfigError
from robopolicy.real_robot.wire.schema import known_types, message_text
from robopolicy.real_robot.wire.schema_table import ACTIONS

MADE = ("franka_msgs", "franka_gripper", "control_msgs")
KNOWN = (*MADE, "std_msgs", "geometry_msgs", "sensor_msgs", "actionlib_msgs")
ROS2_ONLY = ("franka_msgs/FrankaRobotState", "franka_msgs/CollisionIndicators", "franka_msgs/Elbow")


def make_ros1_messages(folder: Path) -> Path:
    """Write importable packages of ``MADE`` to ``folder`` (put it on ``sys.path``); raises ``ConfigError``."""
    try:
        from genpy.generator import MsgGenerator
    except ImportError as e:
        raise ConfigError(f"genpy is not installed ({e}): apt-get install python3-genpy") from None
    sources = folder / "msg"
    files: dict[str, list[str]] = {}
    ros2_actions = {f"{name}{part}" for name in ACTIONS if name.startswith("franka_msgs/") for part in ("", "Action")}
    for name in known_types():
        package, _, short = name.partition("/")
        if package not in KNOWN or name in ROS2_ONLY or (name in ros2_actions and "ErrorRecovery" not in name):
            continue
        path = sources / package / f"{short}.msg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(message_text(name, "ros1"))
        files.setdefault(package, []).append(str(path))
    search = {package: [str(sources / package)] for package in files}
    for package in MADE:
        out = folder / package / "msg"
        if MsgGenerator().generate_messages(package, files[package], str(out), search):
            raise ConfigError(f"genpy could not make {package}")
        names = sorted(Path(f).stem for f in files[package])
        (out / "__init__.py").write_text("".join(f"from ._{n} import *\n" for n in names))
        (out.parent / "__init__.py").write_text("")
    return folder


if __name__ == "__main__":
    make_ros1_messages(Path(sys.argv[1]))
