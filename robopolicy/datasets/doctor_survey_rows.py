"""Gathers the data rows for the doctor: numbers of every readable file, and how its columns differ from info.json."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa

from robopolicy.core.errors import DatasetError
from robopolicy.datasets.doctor_types import RESTORE, Rows, Survey
from robopolicy.datasets.reader_columns import to_numpy
from robopolicy.datasets.reader_types import Feature
from robopolicy.datasets.reader_v3 import open_parquet, sorted_files

LARGE_ROW = 4096  # depth maps and the like are not loaded as numbers


def gather_rows(found: Survey) -> Rows:
    """All readable rows of all data files; files and columns that cannot be read become findings."""
    wanted = {
        f.source: f for f in found.info.features.values() if f.storage == "column" and np.prod(f.shape) <= LARGE_ROW
    }
    names: list[str] = []
    parts: list[dict[str, np.ndarray]] = []
    sizes: list[int] = []
    for path in sorted_files(found.root / "data", "parquet"):
        if (piece := _file_rows(found, path, wanted)) is not None:
            names.append(path.relative_to(found.root).as_posix())
            parts.append(piece[1])
            sizes.append(piece[0])
    file = np.repeat(np.arange(len(names)), sizes)
    common = [k for k in (parts[0] if parts else {}) if all(k in p for p in parts)]
    return Rows(names, file, {k: np.concatenate([p[k] for p in parts]) for k in common})


def _file_rows(found: Survey, path: Path, wanted: dict[str, Feature]) -> tuple[int, dict[str, np.ndarray]] | None:
    """Number of rows and numeric columns of one data file; columns that do not fit info.json become findings."""
    try:
        with open_parquet(path) as file:
            names = file.schema_arrow.names
            _compare_columns(found, path, names)
            _compare_dtypes(found, path, file.schema_arrow)
            table = file.read(columns=[n for n in names if n in wanted])
    except (DatasetError, pa.ArrowException, OSError) as e:
        found.add("parquet-unreadable", "error", str(e).splitlines()[0].removeprefix(f"{path}: "), RESTORE, file=path)
        return None
    columns = {}
    for name in table.column_names:
        try:
            columns[wanted[name].key] = to_numpy(table[name], wanted[name], path)
        except DatasetError as e:
            message = str(e).removeprefix(f"{path}: ")
            found.add("column-shape", "error", message, RESTORE, _episode_in(found, path), path)
    if "episode_index" not in columns:
        columns["episode_index"] = np.full(table.num_rows, -1 if (i := _episode_in(found, path)) is None else i)
    return table.num_rows, columns


def _compare_columns(found: Survey, path: Path, names: list[str]) -> None:
    features = found.info.raw["features"]
    stated = {k for k, f in features.items() if f.get("dtype") != "video"}
    if extra := sorted(set(names) - set(features)):
        text = f"columns not in info.json: {some_names(extra)}; LeRobot refuses the dataset"
        found.add("column-undeclared", "error", text, "declare them in meta/info.json, or rewrite the file", file=path)
    if missing := sorted(stated - set(names)):
        text = f"no column {some_names(missing)}, which info.json declares"
        found.add("column-missing", "error", text, RESTORE, _episode_in(found, path), path)


def _compare_dtypes(found: Survey, path: Path, schema: pa.Schema) -> None:
    """Element types of the columns against info.json, told once a dataset."""
    if any(f.code == "column-dtype" for f in found.findings):
        return
    for feature in found.info.features.values():
        if feature.storage != "column" or feature.source not in schema.names:
            continue
        kind = schema.field(feature.source).type
        while pa.types.is_nested(kind) and hasattr(kind, "value_type"):
            kind = kind.value_type
        try:
            stated = pa.from_numpy_dtype(feature.dtype)
        except (TypeError, ValueError, NotImplementedError, pa.ArrowException):
            stated = None
        if stated != kind:
            text = f"column '{feature.source}' holds {kind}, info.json says {feature.dtype}"
            found.add("column-dtype", "warning", text, "correct the dtype in meta/info.json", None, path)


def some_names(names: list[str]) -> str:
    """Quoted and comma-separated."""
    return ", ".join(f"'{n}'" for n in names)


def _episode_in(found: Survey, path: Path) -> int | None:
    """Episode a v2 file belongs to by its name."""
    number = re.search(r"episode_(\d+)", path.name)
    return int(number.group(1)) if number and found.info.major == 2 else None
