"""Two distributions of one line each, by whose names LeRobot finds our robot and our policies.

Source: LeRobot 0.4.4 imports every installed distribution whose name begins with ``lerobot_robot_`` or
``lerobot_policy_`` (``utils/import_utils.py``); the wheel and installation formats of the Python packaging guides.
Our own wheel has one top-level name, so these are wheels of their own; pip lists and uninstalls them as any other.
"""

from __future__ import annotations

import base64
import hashlib
import sysconfig
import zipfile
from pathlib import Path

from robopolicy import __version__
from robopolicy.core.errors import ConfigError

PLUGINS = {
    "lerobot_robot_robopolicy": "from robopolicy.lerobot_plugin import config_franka  # noqa: F401\n",
    "lerobot_policy_robopolicy": "from robopolicy.lerobot_plugin import configuration_robopolicy  # noqa: F401\n",
}
WHEN = (2020, 1, 1, 0, 0, 0)


def contents(name: str) -> dict[str, str]:
    """Files of one distribution, its RECORD last."""
    info = f"{name}-{__version__}.dist-info"
    summary = f"Summary: robopolicy's {name.split('_')[1]} for LeRobot\n"
    files = {
        f"{name}.py": PLUGINS[name],
        # LeRobot imports the name as it stands here, so it keeps its underscores.
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {__version__}\n{summary}"
        f"Requires-Dist: robopolicy\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: robopolicy\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    return {**files, f"{info}/RECORD": _record(files, f"{info}/RECORD")}


def _record(files: dict[str, str], own: str) -> str:
    lines = []
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(text.encode())}\n")
    return "".join(lines) + f"{own},,\n"


def write_wheels(folder: Path) -> list[Path]:
    """Both wheels, for ``pip install``."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name in PLUGINS:
        path = folder / f"{name}-{__version__}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as z:
            for file, text in contents(name).items():
                z.writestr(zipfile.ZipInfo(file, WHEN), text, zipfile.ZIP_DEFLATED)
        made.append(path)
    return made


def install(site: Path | None = None) -> Path:
    """What pip does with these wheels, where there is no pip: into ``site``, this interpreter's unless given."""
    site = site or Path(sysconfig.get_path("purelib"))
    uninstall(site)
    try:
        for name in PLUGINS:
            files = contents(name)
            info = next(f for f in files if f.endswith("/RECORD")).split("/")[0]
            named = {f: text for f, text in files.items() if not f.endswith("RECORD")}
            named[f"{info}/INSTALLER"] = "robopolicy\n"
            for file, text in {**named, f"{info}/RECORD": _record(named, f"{info}/RECORD")}.items():
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                (site / file).write_text(text)
    except OSError as e:
        raise ConfigError(f"cannot write to {site}: {e}; robopolicy lerobot wheels DIR, then pip install") from None
    return site


def uninstall(site: Path | None = None) -> int:
    """Remove what ``install`` wrote; how many distributions that were."""
    site = site or Path(sysconfig.get_path("purelib"))
    found = 0
    for name in PLUGINS:
        for info in site.glob(f"{name}-*.dist-info"):
            found += 1
            for line in (info / "RECORD").read_text().splitlines():
                (site / line.split(",")[0]).unlink(missing_ok=True)
            info.rmdir()
    return found
