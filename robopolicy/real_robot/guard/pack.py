"""The guard as one file that any Python from 3.8 runs, with nothing installed but ROS."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from robopolicy.core.errors import ConfigError

PARTS = (
    "__init__.py",
    "core/__init__.py",
    "core/errors.py",
    "real_robot/__init__.py",
    "real_robot/interface.py",
    *(
        f"real_robot/guard/{name}.py"
        for name in (
            *("__init__", "lease", "config", "checks", "core", "shell"),
            *("options", "main", "rospy_node", "rclpy_node"),
        )
    ),
)
ENTRY = "import sys\n\nfrom robopolicy.real_robot.guard.main import main\n\nsys.exit(main())\n"
WHEN = (2020, 1, 1, 0, 0, 0)  # the same parts make the same file


def pack(path: Path) -> Path:
    """Write the program to ``path`` (``.pyz``); raises ``ConfigError`` if that cannot be done."""
    root = Path(__file__).resolve().parents[2]
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("wb") as f:
            f.write(b"#!/usr/bin/env python3\n")
            with zipfile.ZipFile(f, "w") as z:
                entries = {f"robopolicy/{name}": (root / name).read_bytes() for name in PARTS}
                for name, data in {**entries, "__main__.py": ENTRY.encode()}.items():
                    z.writestr(zipfile.ZipInfo(name, WHEN), data, zipfile.ZIP_DEFLATED)
            f.flush()
            os.fsync(f.fileno())
        temporary.chmod(0o755)
        temporary.replace(path)
    except OSError as e:
        raise ConfigError(f"cannot write {path}: {e}") from None
    return path
