"""Names, places and table formats of a LeRobot v3.0 dataset, for those who write one (format notes, section 1)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from robopolicy.datasets.reader_info import DEFAULT_COLUMNS, V3_DATA, V3_VIDEO

CODEBASE_VERSION = "v3.0"
CHUNKS_SIZE = 1000
INFO = "meta/info.json"
STATS = "meta/stats.json"
TASKS = "meta/tasks.parquet"
DATA_PATH = V3_DATA
VIDEO_PATH = V3_VIDEO
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"

# The five columns every dataset carries besides its own features, as info.json lists them.
DEFAULT_FEATURES: dict[str, dict[str, Any]] = {
    key: {"dtype": dtype, "shape": [1], "names": None} for key, dtype in DEFAULT_COLUMNS.items()
}


def chunk_and_file(ordinal: int, chunks_size: int = CHUNKS_SIZE) -> tuple[int, int]:
    """Place of the ``ordinal``-th file of a kind: (chunk folder, file number in it)."""
    return divmod(ordinal, chunks_size)


def ordinal(path: Path, chunks_size: int = CHUNKS_SIZE) -> int:
    """Inverse of ``chunk_and_file`` for a ``.../chunk-CCC/file-FFF.ext`` path."""
    return int(path.parent.name.removeprefix("chunk-")) * chunks_size + int(path.stem.removeprefix("file-"))


def arrow_type(feature: Mapping[str, Any]) -> pa.DataType:
    """Parquet column type of a feature of ``info.json`` (scalars plain, vectors fixed-size, arrays nested lists)."""
    if feature["dtype"] == "image":
        return pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    dtype = pa.string() if feature["dtype"] == "string" else pa.from_numpy_dtype(feature["dtype"])
    shape = tuple(feature["shape"])
    if shape in ((), (1,)):
        return dtype
    if len(shape) == 1:
        return pa.list_(dtype, shape[0])
    for _ in shape:
        dtype = pa.list_(dtype)
    return dtype


def parquet_bytes(groups: Iterable[pa.Table], schema: pa.Schema) -> bytes:
    """A whole parquet file, one row group a table, compressed with snappy as LeRobot's are."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression="snappy") as writer:
        for group in groups:
            writer.write_table(group.cast(schema), row_group_size=max(1, group.num_rows))
    return sink.getvalue().to_pybytes()


def tasks_bytes(tasks: Iterable[str]) -> bytes:
    """``tasks.parquet``: sentences as a pandas index named ``task``, rows in ``task_index`` order.

    LeRobot looks a task up by row position in the pandas frame, so the pandas metadata is needed; it is written
    here by hand, which spares a dependency on pandas.
    """
    sentences = list(tasks)
    columns = [
        {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"},
        {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object"},
    ]
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [{**c, "metadata": None} for c in columns],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    numbers = pa.array(range(len(sentences)), pa.int64())
    table = pa.table({"task_index": numbers, "task": pa.array(sentences, pa.string())})
    table = table.replace_schema_metadata({"pandas": json.dumps(pandas)})
    return parquet_bytes([table], table.schema)
