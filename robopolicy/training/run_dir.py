"""A run directory: config.yaml, metrics.jsonl, tensorboard/, checkpoints/, eval/, videos/, report.html."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from robopolicy.core.errors import ConfigError
from robopolicy.training.config import TrainConfig
from robopolicy.training.config_load import config_from_dict, config_to_dict, find_preset, read_yaml, save_config
from robopolicy.training.overrides import merge

CONFIG = "config.yaml"
# What may change between a run and its continuation; everything else is part of the numbers it computes
# (grad_accumulation changes them by rounding only).
CHANGEABLE = (
    "log",
    "checkpoint",
    "validation",
    "eval",
    "guard",
    "device",
    "prefetch",
    "run_dir",
    "env",
    "grad_accumulation",
)


def default_run_dir(preset: str) -> Path:
    """``runs/<task>-<policy>-<time>`` for ``configs/<task>/<policy>.yaml``."""
    path = Path(preset)
    name = path.stem if path.parent.name in ("", "configs") else f"{path.parent.name}-{path.stem}"
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def create_run(run: Path, config: Any, verb: str = "train") -> None:
    """Make the directory and write the configuration; an existing run (of ``verb``) is never overwritten."""
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise ConfigError(
            f"{run} exists already; continue it with robopolicy {verb} --resume {run}, or choose another --run_dir"
        )
    try:
        (run / "checkpoints").mkdir(parents=True)
        save_config(config, run / CONFIG)
    except OSError as e:
        raise ConfigError(f"cannot write the run directory {run}: {e}") from e


def resume_config(
    run: Path,
    overrides: dict[str, str] | None = None,
    parse: Callable[..., Any] = config_from_dict,
    changeable: Collection[str] = CHANGEABLE,
) -> TrainConfig:
    """Configuration of an existing run; ``overrides`` may only touch what does not change its numbers.

    ``parse`` makes it from plain data and their origins, where it is another class than ``TrainConfig``, and
    ``changeable`` names its sections that may be touched.
    """
    file = run / CONFIG
    if not file.is_file():
        raise ConfigError(f"{run} is no run directory: it has no {CONFIG}")
    for name in overrides or {}:
        if name.split(".")[0] not in changeable:
            raise ConfigError(
                f"--{name} cannot change on --resume: the run would no longer equal an uninterrupted one "
                f"(may change: {', '.join(changeable)})"
            )
    data = merge(read_yaml(find_preset(file)), overrides or {})
    config: TrainConfig = parse(data, {"": str(file)} | {n: f"command line --{n}" for n in overrides or {}})
    return config


def check_same_run(
    run: Path,
    config: Any,
    parse: Callable[..., Any] = config_from_dict,
    changeable: Collection[str] = CHANGEABLE,
) -> None:
    """Refuse to continue ``run`` with another configuration."""
    ours, theirs = config_to_dict(config), config_to_dict(resume_config(run, parse=parse))
    changed = [k for k in ours if k not in changeable and ours[k] != theirs.get(k)]
    if changed:
        raise ConfigError(f"{run} was started with other values of: {', '.join(changed)}; start a new run for these")
