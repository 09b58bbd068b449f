"""Finds the data folders (configs, cards, scenes...) in a checkout or inside an installed wheel."""

from __future__ import annotations

from pathlib import Path

from robopolicy.core.errors import ConfigError

FOLDERS = ("policies", "sim", "real_robot", "datasets", "configs")


def resource_root() -> Path:
    """The folder that holds ``configs/`` and friends: the checkout when there is one, else ``robopolicy/_share``."""
    package = Path(__file__).resolve().parent
    checkout = package.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "configs").is_dir():
        return checkout
    return package / "_share"


def resource(name: str) -> Path:
    """Path of a shipped file such as ``"configs/pusht_state/diffusion.yaml"``."""
    path = resource_root() / name
    if not path.exists():
        raise ConfigError(f"no shipped file '{name}' under {resource_root()}; reinstall robopolicy if it is damaged")
    return path
