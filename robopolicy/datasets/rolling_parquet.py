"""Parquet files that grow by whole row groups, each growth one atomic replacement of one small file.

A parquet file without its footer is unreadable, so the newest file is rewritten aside with one more row group
and renamed over the old one; when it has reached ``limit_bytes`` the next file begins.  At every instant every
file on disk is complete.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from robopolicy.core.io import write_atomic
from robopolicy.datasets.layout_v3 import CHUNKS_SIZE, chunk_and_file, ordinal, parquet_bytes


class RollingParquet:
    """A sequence of parquet files under ``root`` named by ``template`` (``chunk_index``, ``file_index``).

    ``one_group`` merges all rows of a file into one row group, which is right for wide tables with a row an episode
    (each row group costs a footer entry a column).
    """

    def __init__(self, root: Path, template: str, limit_bytes: int, one_group: bool = False) -> None:
        self.root = root
        self.template = template
        self.limit_bytes = limit_bytes
        self.one_group = one_group
        self._ordinal = max(0, len(self.files()) - 1)
        self._last: tuple[Path, int, list[pa.Table]] | None = None  # the file last written, its size and row groups

    def path(self, number: int) -> Path:
        """Path of the ``number``-th file."""
        chunk, file = chunk_and_file(number)
        return self.root / self.template.format(chunk_index=chunk, file_index=file)

    def files(self) -> list[Path]:
        """Files on disk in numeric order (``chunk-1000`` sorts before ``chunk-101`` as text)."""
        found = self.root.glob(self.template.split("/chunk-")[0] + "/chunk-*/file-*.parquet")
        return [self.path(n) for n in sorted(ordinal(p) for p in found)]

    def place_of_next(self) -> tuple[int, int]:
        """(chunk, file) where the next ``append`` will land."""
        path = self.path(self._ordinal)
        full = path.exists() and path.stat().st_size >= self.limit_bytes
        return chunk_and_file(self._ordinal + int(full))

    def append(self, table: pa.Table) -> None:
        """Add the rows of ``table``, atomically."""
        chunk, file = self.place_of_next()
        self._ordinal = chunk * CHUNKS_SIZE + file
        path = self.path(self._ordinal)
        self._write(path, [*self._groups_of(path), table])

    def _groups_of(self, path: Path) -> list[pa.Table]:
        """Row groups of a file: those in memory if this object wrote it last, which saves reading them each time."""
        if self._last is not None and path.exists() and self._last[:2] == (path, path.stat().st_size):
            return self._last[2]
        return _row_groups(path)

    def drop_from(self, column: str, first: int) -> None:
        """Remove all rows with ``column >= first`` (what an interrupted run left behind)."""
        for path in reversed(self.files()):
            groups = _row_groups(path)
            kept = [g.filter(pc.less(g[column], first)) for g in groups]
            kept = [g for g in kept if g.num_rows]
            if not kept:
                path.unlink()
            elif sum(g.num_rows for g in kept) != sum(g.num_rows for g in groups):
                self._write(path, kept)
        self._ordinal = max(0, len(self.files()) - 1)

    def _write(self, path: Path, groups: list[pa.Table]) -> None:
        schema = groups[-1].schema
        if self.one_group:
            groups = [pa.concat_tables([g.cast(schema) for g in groups]).combine_chunks()]
        content = parquet_bytes(groups, schema)
        write_atomic(path, content)
        self._last = (path, len(content), groups)

    def read(self, columns: list[str] | None = None) -> list[pa.Table]:
        """All row groups in order, only ``columns`` of them."""
        return [g for path in self.files() for g in _row_groups(path, columns)]


def _row_groups(path: Path, columns: list[str] | None = None) -> list[pa.Table]:
    if not path.exists():
        return []
    with pq.ParquetFile(path) as f:
        return [f.read_row_group(i, columns=columns) for i in range(f.num_row_groups)]
