"""Replay buffers: arrays over all steps, end to end, and the rows at which episodes end.

The layout says nothing of rate, units or keys: a recipe does (``convert_recipe``), or plain rules by name.  The
formats that hold such arrays differ in nothing else (``convert_zarr``, ``convert_npz``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from robopolicy.core.errors import ConfigError, DatasetError, did_you_mean
from robopolicy.core.specs import ACTION, ActionSpace, FeatureKind, FeatureSpec, ObservationSpec
from robopolicy.datasets.convert_recipe import Column, Recipe, matching_recipe
from robopolicy.datasets.convert_source import SourceEpisode, as_float32, as_images


class BufferSource:
    """A replay buffer as a ``Source``; ``fps`` and ``task`` override the recipe's.

    A format adds its name, the folder of its arrays as errors should show it, and how to ``_open`` a file.
    """

    format: ClassVar[str]
    folder: ClassVar[str]
    exact_images = False

    def __init__(
        self, path: Path, recipe: Recipe | None = None, fps: float | None = None, task: str | None = None
    ) -> None:
        self.path = path
        self._data, ends = self._open(path)
        self._ends = np.asarray(ends[:], np.int64)
        self._check_ends()
        shapes = {k: tuple(a.shape[1:]) for k, a in self._data.items()}
        recipe = recipe or matching_recipe(shapes, self.format) or default_recipe(shapes)
        self._recipe = recipe
        for column in (*recipe.features.values(), recipe.action):
            if column.source not in shapes:
                raise ConfigError(
                    f"{path}: no array '{self.folder}{column.source}'" + did_you_mean(column.source, shapes)
                )
        rate = fps or recipe.fps
        if rate is None:
            raise ConfigError(f"{path}: {self.format} replay buffers do not say their rate; give --fps (PushT: 10)")
        self.fps = float(rate)
        self.robot_type = recipe.robot_type
        self.task = task or recipe.task or path.name.split(".")[0].replace("_", " ")
        self.num_episodes = len(self._ends)
        self.extras: dict[str, Any] = {"next.done": "bool"}
        self.origin: Mapping[str, Any] = {"format": self.format, "file": path.name, "arrays": sorted(shapes)}
        self.observation_spec = ObservationSpec(
            tuple(_feature(key, column, shapes[column.source]) for key, column in recipe.features.items())
        )
        width = _width(recipe.action, shapes[recipe.action.source])
        action = recipe.action
        self.action_space = ActionSpace(width, action.names, low=recipe.low, high=recipe.high, unit=action.unit)

    def _open(self, path: Path) -> tuple[dict[str, Any], Any]:
        """Arrays by name, each (N, ...) and sliceable, and the row after each episode's last one."""
        raise NotImplementedError

    def _check_ends(self) -> None:
        total = {k: a.shape[0] for k, a in self._data.items()}
        if not len(self._ends) or (np.diff(np.concatenate([[0], self._ends])) <= 0).any():
            raise DatasetError(f"{self.path}: episode_ends do not ascend from above 0; restore the file")
        if wrong := {k: n for k, n in total.items() if n != self._ends[-1]}:
            raise DatasetError(f"{self.path}: episode_ends stop at {self._ends[-1]}, but lengths are {wrong}")

    def episodes(self) -> Iterator[SourceEpisode]:
        """All episodes, read slice by slice."""
        start = 0
        for number, stop in enumerate(self._ends.tolist()):
            where = f"{self.path}: episode {number}"
            obs = {
                key: self._take(column, start, stop, where, self.observation_spec[key].kind is FeatureKind.IMAGE)
                for key, column in self._recipe.features.items()
            }
            action = self._take(self._recipe.action, start, stop, where, False)
            done = np.arange(start, stop) == stop - 1
            yield SourceEpisode(str(number), obs, action, [self.task] * (stop - start), {"next.done": done})
            start = stop

    def _take(self, column: Column, start: int, stop: int, where: str, image: bool) -> np.ndarray:
        values = np.asarray(self._data[column.source][start:stop])
        if image:
            return as_images(values, f"{where}, {self.folder}{column.source}")
        flat = as_float32(values, f"{where}, {self.folder}{column.source}")
        return flat if column.columns is None else np.ascontiguousarray(flat[:, list(column.columns)])


def default_recipe(shapes: Mapping[str, tuple[int, ...]]) -> Recipe:
    """Keys by name and shape: ``action``, (H, W, 3) cameras, ``state`` or ``obs`` the state, others by their name."""
    if ACTION not in shapes:
        raise ConfigError(f"no array 'action' among {sorted(shapes)}; say with --recipe which array it is")
    features: dict[str, Column] = {}
    for name, shape in sorted(shapes.items()):
        if name == ACTION:
            continue
        if len(shape) == 3 and shape[-1] == 3:
            key = "observation.image" if name in ("img", "image") else f"observation.images.{name}"
        elif name in ("state", "obs", "low_dim", "agent_pos"):
            key = "observation.state"
        else:
            key = f"observation.{name}"
        if key in features:
            raise ConfigError(f"arrays '{features[key].source}' and '{name}' are both '{key}'; decide with --recipe")
        features[key] = Column(name)
    return Recipe(features, Column(ACTION))


def _width(column: Column, shape: tuple[int, ...]) -> int:
    return len(column.columns) if column.columns is not None else int(np.prod(shape))


def _feature(key: str, column: Column, shape: tuple[int, ...]) -> FeatureSpec:
    if len(shape) == 3 and shape[-1] == 3:
        return FeatureSpec(key, (3, shape[0], shape[1]), FeatureKind.IMAGE)
    return FeatureSpec(key, (_width(column, shape),), FeatureKind.STATE, column.names, column.unit)
