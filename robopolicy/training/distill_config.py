"""The configuration of a distillation, made from its teacher: same data and split, same encoder, same units."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robopolicy.core.configs import dump_config
from robopolicy.core.errors import ConfigError
from robopolicy.training.config import DatasetConfig, TrainConfig
from robopolicy.training.config_load import config_from_dict, read_yaml
from robopolicy.training.overrides import merge, parse_value
from robopolicy.training.run_dir import CONFIG, resume_config

STEPS = 2000
LR = 3e-4
# Validations, and checkpoints, of one distillation, unless asked otherwise.
LOOKS = 5


def distill_config(teacher: Path, run: Path | None, overrides: Mapping[str, str]) -> TrainConfig:
    """Configuration of a run that distils the policy in folder ``teacher``, itself of training run ``run`` or of none.

    ``overrides`` are dotted names with texts, as typed.  Raises ``ConfigError`` for teachers of other kinds, and where
    no data are named and no run knows them.
    """
    from robopolicy.policies.registry import policy_config
    from robopolicy.training.distill import student_config

    known = run is not None and (run / CONFIG).is_file()
    theirs = resume_config(run) if known and run is not None else None
    student = student_config(policy_config(read_yaml(teacher / "config.yaml"), str(teacher / "config.yaml")))
    steps = parse_value(overrides.get("steps", str(STEPS)))
    every = max(1, steps // LOOKS) if isinstance(steps, int) else STEPS
    data: dict[str, Any] = {
        "dataset": dump_config(_dataset(theirs, overrides)),
        "policy": dump_config(student),
        "env": None if theirs is None or theirs.env is None else dump_config(theirs.env),
        "steps": STEPS,
        "optimizer": {"lr": LR, "warmup_steps": every // 4, "grad_clip": 1.0},
        "validation": {"every": every},
        "checkpoint": {"every": every},
        "distill": {"teacher": str(teacher.resolve())},
    }
    origins = {"": f"the teacher {teacher}"} | {name: f"command line --{name}" for name in overrides}
    return config_from_dict(merge(data, overrides), origins)


def _dataset(theirs: TrainConfig | None, overrides: Mapping[str, str]) -> DatasetConfig:
    """The teacher's data and split, with the path of the command line where one was given."""
    named = overrides.get("dataset.path")
    if theirs is not None:
        return theirs.dataset if named is None else dataclasses.replace(theirs.dataset, path=named)
    if named is None:
        raise ConfigError("name the demonstrations: --dataset PATH (the policy does not lie in a run that knows)")
    return DatasetConfig(path=named)
