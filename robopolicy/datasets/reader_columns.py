"""Turns the parquet files of a dataset into contiguous NumPy columns.

Source: LeRobot's data files of all versions (fixed-size lists of the recorder, variable lists of the converter, nested
lists for arrays).  Nothing here needs the schema metadata that either writer adds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from robopolicy.core.errors import DatasetError
from robopolicy.datasets.reader_types import Feature
from robopolicy.datasets.reader_v3 import open_parquet

# Arrow's names of primitive types and NumPy's.
_DTYPES = {
    **{name: name for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")},
    **{"halffloat": "float16", "float": "float32", "double": "float64"},
}

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class DataFile:
    """Footer of one parquet file: ``first`` is the number of rows in the files before it."""

    path: Path
    first: int
    group_rows: tuple[int, ...]
    columns: tuple[str, ...]
    episode_index: np.ndarray | None

    @property
    def rows(self) -> int:
        return sum(self.group_rows)

    def groups_of(self, start: int, stop: int) -> list[int]:
        """Row groups that hold any of the file's rows ``start..stop``."""
        edges = np.concatenate([[0], np.cumsum(self.group_rows)])
        return [g for g in range(len(self.group_rows)) if edges[g] < stop and edges[g + 1] > start]

    def group_start(self, group: int) -> int:
        """First row (in the file) of a row group."""
        return sum(self.group_rows[:group])


def in_threads(function: Callable[[S], T], items: Sequence[S]) -> list[T]:
    """``[function(i) for i in items]`` on a few threads (parquet reading waits for disk and releases the GIL)."""
    if len(items) < 4:
        return [function(i) for i in items]
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        return list(pool.map(function, items))


def scan(files: Sequence[Path]) -> list[DataFile]:
    """Footers and ``episode_index`` columns of ``files``, in order."""

    def one(path: Path) -> DataFile:
        with open_parquet(path) as file:
            names = tuple(file.schema_arrow.names)
            ids = None
            if "episode_index" in names:
                ids = numbers(_one_array(file.read(columns=["episode_index"])["episode_index"])).astype(np.int64)
            groups = tuple(file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups))
        return DataFile(path, 0, groups, names, ids)

    scanned, first = [], 0
    for file in in_threads(one, files):
        scanned.append(DataFile(file.path, first, file.group_rows, file.columns, file.episode_index))
        first += file.rows
    return scanned


def load_columns(files: Sequence[DataFile], features: Sequence[Feature], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Columns ``features`` at the physical ``rows`` (numbered through all files), contiguous, by feature key.

    Floats become float32, integers int64, booleans bool; strings an object array.  Only the row groups that hold a
    wanted row are read.
    """

    def one(file: DataFile) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
        wanted = np.flatnonzero((rows >= file.first) & (rows < file.first + file.rows))
        if not wanted.size:
            return None
        local = rows[wanted] - file.first
        return wanted, _read_local(file, features, local)

    pieces = [p for p in in_threads(one, list(files)) if p is not None]
    columns: dict[str, np.ndarray] = {}
    for feature in features:
        parts = [values[feature.key] for _, values in pieces]
        if len(pieces) == 1:
            columns[feature.key] = np.ascontiguousarray(parts[0])
            continue
        out = np.empty((len(rows), *parts[0].shape[1:]), parts[0].dtype)
        for (wanted, _), part in zip(pieces, parts, strict=True):
            out[wanted] = part
        columns[feature.key] = out
    return columns


def _read_local(file: DataFile, features: Sequence[Feature], local: np.ndarray) -> dict[str, np.ndarray]:
    groups = file.groups_of(int(local.min()), int(local.max()) + 1)
    starts = {g: file.group_start(g) for g in groups}
    hit = [g for g in groups if np.any((local >= starts[g]) & (local < starts[g] + file.group_rows[g]))]
    with open_parquet(file.path) as parquet:
        try:
            table = parquet.read_row_groups(hit, columns=[f.source for f in features])
        except (pa.ArrowInvalid, OSError) as e:
            raise DatasetError(f"{file.path}: damaged row group ({str(e).splitlines()[0]}); restore the file") from e
    held = np.concatenate([np.arange(starts[g], starts[g] + file.group_rows[g]) for g in hit])
    at = np.searchsorted(held, local)
    whole = len(at) == len(held) and bool(np.all(at == np.arange(len(at))))
    values = {f.key: to_numpy(table[f.source], f, file.path) for f in features}
    return values if whole else {k: v[at] for k, v in values.items()}


def to_numpy(column: pa.ChunkedArray, feature: Feature, path: Path) -> np.ndarray:
    """One arrow column as an array ``(n, *shape)``; scalars ``(n,)`` except observations and actions, ``(n, 1)``.

    Raises ``DatasetError`` naming key and file on null values or rows of another length than ``feature.shape``.
    """
    array = _one_array(column)
    n = len(array)
    if array.null_count:
        raise DatasetError(f"{path}: {array.null_count} empty values in column '{feature.source}'")
    if feature.storage == "string":
        return np.array(array.to_pylist(), dtype=object)
    sizes: list[int] = []
    while pa.types.is_nested(array.type):
        array, size = _unnest(array, feature, path)
        sizes.append(size)
    if array.null_count:
        raise DatasetError(f"{path}: {array.null_count} empty values in column '{feature.source}'")
    values = numbers(array)
    shape = tuple(sizes) or (1,)
    if shape != feature.shape and int(np.prod(shape)) != int(np.prod(feature.shape)):
        raise DatasetError(
            f"{path}: column '{feature.source}' has values of shape {shape}, info.json says {feature.shape}"
        )
    return np.ascontiguousarray(values.astype(_dtype(values.dtype), copy=False)).reshape(n, *column_shape(feature))


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    array = (
        column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks) if column.num_chunks else None
    )
    if array is None:
        return pa.array([], column.type)
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def numbers(array: pa.Array) -> np.ndarray:
    """Values ``(n,)`` of a primitive arrow array without nulls; a view, except of booleans.

    Arrow's own ``to_numpy`` imports pandas, which takes longer than opening a dataset.
    """
    if pa.types.is_boolean(array.type):
        return numbers(array.cast(pa.uint8())).astype(np.bool_)
    dtype = _DTYPES.get(str(array.type))
    if dtype is None:
        raise DatasetError(f"columns of type {array.type} cannot be read as numbers")
    if not len(array):
        return np.zeros(0, dtype)
    return np.frombuffer(array.buffers()[1], dtype=dtype)[array.offset : array.offset + len(array)]


def column_shape(feature: Feature) -> tuple[int, ...]:
    """Shape of one row of a column: ``()`` for bookkeeping scalars, else the feature's shape."""
    keeps_axis = feature.key.startswith(("observation", "action", "goal"))
    return () if feature.shape == (1,) and not keeps_axis else feature.shape


def _unnest(array: pa.Array, feature: Feature, path: Path) -> tuple[pa.Array, int]:
    if not (
        pa.types.is_fixed_size_list(array.type) or pa.types.is_list(array.type) or pa.types.is_large_list(array.type)
    ):
        raise DatasetError(
            f"{path}: column '{feature.source}' has type {array.type}, expected numbers or lists of them"
        )
    lengths = pc.list_value_length(array)
    low, high = pc.min(lengths).as_py(), pc.max(lengths).as_py()
    if low != high:
        wrong = int(np.flatnonzero(numbers(lengths) != feature.shape[0])[0])
        raise DatasetError(
            f"{path}: column '{feature.source}' has {low} to {high} values a row, expected {feature.shape}; "
            f"the first wrong row is {wrong} of those read"
        )
    return array.flatten(), int(high or 0)


def _dtype(found: np.dtype) -> type:
    if found.kind == "f":
        return np.float32
    if found.kind in "iu":
        return np.int64
    if found.kind == "b":
        return np.bool_
    raise DatasetError(f"columns of dtype {found} cannot be read")
