"""The environment that a nesting, a run or a checkpoint belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robopolicy.nesting import LEROBOT, Place, is_nesting, nesting_in, read_nesting
from robopolicy.wrappers.config import ComposedConfig, LeRobotConfig, NestingConfig, nesting_config


def nesting_env(path: str | Path) -> Any:
    """The environment of a nesting as a name or mapping: its own, else that of its first policy's run; or None."""
    return _env_of(*read_nesting(path))


def _env_of(config: NestingConfig, place: Place) -> Any:
    if isinstance(config, LeRobotConfig):
        return None
    if config.env is not None:
        return config.env
    first = config.policies[0] if isinstance(config, ComposedConfig) else config.policy
    if isinstance(first, Mapping):
        return _env_of(nesting_config(first, place.where), place)
    if first.startswith(LEROBOT):
        return None
    path = nesting_in(place.path(first))
    if is_nesting(path):
        return _env_of(*read_nesting(path, place))
    return run_env(path)


def run_env(path: str | Path) -> Any:
    """``env`` of the configuration of the run that a run, checkpoint or policy directory belongs to; None without."""
    run = run_directory(path)
    if run is None:
        return None
    from robopolicy.training.config_load import read_yaml

    return read_yaml(run / "config.yaml").get("env")


def run_directory(path: str | Path) -> Path | None:
    """The run that ``path`` is, or lies in as ``RUN/checkpoints/STEP[/policy]``; None where there is none."""
    resolved = Path(path).resolve()
    for candidate in (resolved, *resolved.parents[1:3]):
        if (candidate / "config.yaml").is_file() and (candidate / "checkpoints").is_dir():
            return candidate
    return None
