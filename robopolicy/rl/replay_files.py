"""Files of a replay: growing columns of fixed-size rows that are read through memory maps, and the list of episodes.

A column is nothing but its rows, one after the other; the list (JSON, a line an episode) says how many of them count.
Rows are written and flushed to disk before the line that counts them, so a process may be killed at any moment: what
lies beyond the last whole line never happened, and the next episode is written over it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from robopolicy.core import io
from robopolicy.core.errors import DatasetError
from robopolicy.core.improver import ReplayLayout
from robopolicy.core.io import fsync_path
from robopolicy.core.specs import GOAL, FeatureKind, FeatureSpec, to_dict, without_goal
from robopolicy.rl.transitions import LATENT

FORMAT = 1
STEP_REWARDS, STEP_SUCCESSES, ACTION = "step_rewards", "step_successes", "action"


@dataclass(frozen=True)
class EpisodeRecord:
    """One line of the list: where an episode lies and how it went.

    Its observations are rows ``row .. row + transitions``, the last of them that of the end.  ``steps``: environment
    steps that are learned from; ``env_steps``: those that were executed.
    """

    index: int
    round: int
    seed: int
    row: int
    transitions: int
    steps: int
    env_steps: int
    success: bool
    terminated: bool
    truncated: bool

    @property
    def end(self) -> int:
        """Rows that are used once it is there."""
        return self.row + self.transitions + 1


class EpisodeList:
    """The list of episodes in ``path``; reading it never writes."""

    def __init__(self, path: Path) -> None:
        """Raises ``DatasetError`` for a line that is not one, unless it is the last and was being written."""
        self._path = path
        self.records: list[EpisodeRecord] = []
        self._bytes = 0
        if not path.exists():
            return
        for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
            if not line.endswith(b"\n"):
                break
            self.records.append(self._read(line, number))
            self._bytes += len(line)

    def _read(self, line: bytes, number: int) -> EpisodeRecord:
        try:
            record = EpisodeRecord(**json.loads(line))
        except (ValueError, TypeError) as e:
            raise DatasetError(f"{self._path}, line {number}: not an episode ({e}); restore the replay") from e
        if record.row != self.rows:
            raise DatasetError(
                f"{self._path}, line {number}: the episode begins at row {record.row}, expected {self.rows}; the list "
                "was edited, restore the replay"
            )
        return record

    @property
    def rows(self) -> int:
        """Rows of the columns that count."""
        return self.records[-1].end if self.records else 0

    def append(self, record: EpisodeRecord) -> None:
        """Enter an episode whose rows are on disk; from here on it counts."""
        line = json.dumps(asdict(record)).encode() + b"\n"
        _write_at(self._path, self._bytes, line)
        self._bytes += len(line)
        self.records.append(record)


class Column:
    """Rows of ``shape`` and ``dtype`` in the file ``path``."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str) -> None:
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        self._mapped: np.ndarray | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def check(self, rows: int) -> None:
        """Raise ``DatasetError`` unless the file holds ``rows`` rows; what lies beyond them does not matter."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < rows * self.row_bytes:
            raise DatasetError(
                f"{self.path}: {size} bytes, expected {rows * self.row_bytes} for {rows} rows; the file was damaged, "
                "restore the replay from a copy or begin a new run"
            )

    def write(self, row: int, values: np.ndarray) -> None:
        """Put ``values`` ``(N, *shape)`` at rows ``row ..`` and flush them to disk; what lay beyond is dropped."""
        data = np.ascontiguousarray(values, self.dtype)
        _write_at(self.path, row * self.row_bytes, data.data)

    def rows(self, count: int) -> np.ndarray:
        """The first ``count`` rows (or more), read from disk where they are touched."""
        if self._mapped is None or len(self._mapped) < count:
            if not count:
                return np.empty((0, *self.shape), self.dtype)
            mapped = np.memmap(self.path, self.dtype, "r", shape=(count, *self.shape))
            self._mapped = mapped.view(np.ndarray)
        return self._mapped


def _write_at(path: Path, offset: int, data: Any) -> None:
    """Write ``data`` at ``offset``, end the file behind it, and flush."""
    new = not path.exists()
    with open(path, "w+b" if new else "r+b") as f:
        f.seek(offset)
        f.write(data)
        f.truncate()
        f.flush()
        io.fault_point(f"replay_{path.name}")
        os.fsync(f.fileno())
    if new:
        fsync_path(path.parent)


def row_shape(feature: FeatureSpec, n_obs_steps: int) -> tuple[int, ...]:
    """What one observation of ``feature`` is in a batch: ``(n_obs_steps, ...)``, of a goal ``(1, ...)``."""
    return (1 if feature.key.startswith(GOAL) else n_obs_steps, *feature.shape)


def row_dtype(feature: FeatureSpec) -> str:
    """Pictures are stored as they come, uint8; everything else is float32."""
    return "|u1" if without_goal(feature).kind is FeatureKind.IMAGE else "<f4"


def make_columns(root: Path, layout: ReplayLayout) -> dict[str, Column]:
    """The columns of a replay by name: the observation keys, actions, latents, rewards and success flags."""
    columns = {
        f.key: Column(root / f"{quote(f.key, safe='')}.bin", row_shape(f, layout.n_obs_steps), row_dtype(f))
        for f in layout.features
    }
    numbers: dict[str, tuple[tuple[int, ...], str]] = {
        ACTION: ((layout.k, layout.action_dim), "<f4"),
        STEP_REWARDS: ((layout.k,), "<f4"),
        STEP_SUCCESSES: ((layout.k,), "|b1"),
    }
    if layout.latent_shape is not None:
        numbers[LATENT] = (tuple(layout.latent_shape), "<f4")
    return columns | {name: Column(root / f"{name}.bin", shape, dtype) for name, (shape, dtype) in numbers.items()}


def layout_to_dict(layout: ReplayLayout) -> dict[str, Any]:
    """As JSON."""
    told = {f.name: to_dict(getattr(layout, f.name)) for f in fields(layout) if f.name != "features"}
    return {"format": FORMAT, "features": [to_dict(f) for f in layout.features], **told}


def layout_difference(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """The first thing in which two layouts (as from ``layout_to_dict``) differ, in words; None for none."""
    for name, theirs in stored.items():
        if name != "features" and theirs != wanted.get(name):
            return f"{name} is {theirs} there and {wanted.get(name)} here"
    ours = {f["key"]: f for f in wanted["features"]}
    found = {f["key"]: f for f in stored["features"]}
    if extra := sorted(set(found) ^ set(ours)):
        where = "is stored there and not wanted here" if extra[0] in found else "is wanted here and not stored there"
        return f"'{extra[0]}' {where}"
    for key, theirs in found.items():
        for what in ("shape", "kind"):
            if theirs[what] != ours[key][what]:
                return f"{what} of '{key}' is {theirs[what]} there and {ours[key][what]} here"
    return None
