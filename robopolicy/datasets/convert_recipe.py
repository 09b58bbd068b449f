"""Conversion recipes: small YAML files that say which source array becomes which key (``datasets/recipes/``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from robopolicy.core.errors import ConfigError, did_you_mean
from robopolicy.resources import resource

FEATURE_KEYS = {"from", "columns", "names", "unit"}
RECIPE_KEYS = {"format", "arrays", "fps", "robot_type", "task", "features", "action"}


@dataclass(frozen=True)
class Column:
    """One feature: array ``source``, optionally only some of its (flattened) ``columns``."""

    source: str
    columns: tuple[int, ...] | None = None
    names: tuple[str, ...] | None = None
    unit: str = ""


@dataclass(frozen=True)
class Recipe:
    """How arrays become features; ``arrays`` are the step shapes by which it recognises its data."""

    features: Mapping[str, Column]
    action: Column
    fps: float | None = None
    robot_type: str | None = None
    task: str | None = None
    arrays: Mapping[str, tuple[int, ...]] | None = None
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None


def load_recipe(name: str) -> Recipe:
    """Recipe from a YAML file or by the name of a shipped one; raises ``ConfigError`` naming a wrong key."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else resource(f"datasets/recipes/{name}.yaml")
    try:
        raw = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as e:
        raise ConfigError(f"{path}: not a readable recipe ({e})") from e
    if not isinstance(raw, dict) or "features" not in raw or "action" not in raw:
        raise ConfigError(f"{path}: a recipe needs 'features' and 'action'")
    for key in raw:
        if key not in RECIPE_KEYS:
            raise ConfigError(f"{path}: unknown key '{key}'" + did_you_mean(key, RECIPE_KEYS))
    action = dict(raw["action"])
    low, high = action.pop("low", None), action.pop("high", None)
    arrays = raw.get("arrays")
    return Recipe(
        features={key: _column(path, key, entry) for key, entry in raw["features"].items()},
        action=_column(path, "action", action),
        fps=raw.get("fps"),
        robot_type=raw.get("robot_type"),
        task=raw.get("task"),
        arrays={k: tuple(v) for k, v in arrays.items()} if arrays else None,
        low=tuple(map(float, low)) if low else None,
        high=tuple(map(float, high)) if high else None,
    )


def _column(path: Path, key: str, entry: Any) -> Column:
    if not isinstance(entry, dict) or "from" not in entry:
        raise ConfigError(f"{path}: '{key}' needs 'from: <array>'")
    for name in entry:
        if name not in FEATURE_KEYS:
            raise ConfigError(f"{path}: '{key}' has the unknown key '{name}'" + did_you_mean(name, FEATURE_KEYS))
    columns, names = entry.get("columns"), entry.get("names")
    return Column(
        source=str(entry["from"]),
        columns=tuple(columns) if columns is not None else None,
        names=tuple(names) if names is not None else None,
        unit=str(entry.get("unit", "")),
    )


def matching_recipe(shapes: Mapping[str, tuple[int, ...]], format: str) -> Recipe | None:
    """The shipped recipe for ``format`` whose ``arrays`` are all there with these step shapes, if any."""
    for path in sorted(resource("datasets/recipes").glob(f"*_{format}.yaml")):
        recipe = load_recipe(str(path))
        if recipe.arrays and all(shapes.get(k) == v for k, v in recipe.arrays.items()):
            return recipe
    return None
