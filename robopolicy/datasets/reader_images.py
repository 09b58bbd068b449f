"""Reads camera features stored inside parquet: encoded pictures (PNG, JPEG) or plain nested lists of bytes."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from robopolicy.core.errors import DatasetError
from robopolicy.datasets.reader_columns import DataFile
from robopolicy.datasets.reader_v3 import open_parquet


def decode_picture(data: bytes, where: str) -> np.ndarray:
    """RGB ``(H, W, 3)`` uint8 of an encoded picture; ``DatasetError`` names ``where`` when it is damaged."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as e:
        raise DatasetError(f"{where}: damaged picture ({e}); restore the file") from e


class TableImages:
    """Pictures of camera columns by physical row; the last ``max_groups`` row groups stay in memory, encoded."""

    def __init__(self, root: Path, files: Sequence[DataFile], max_groups: int = 8) -> None:
        self.root = root
        self.files = list(files)
        self.max_groups = max_groups
        self._firsts = np.array([f.first for f in files], dtype=np.int64)
        self._groups: OrderedDict[tuple[int, int, str], pa.Array] = OrderedDict()

    def read(self, source: str, rows: np.ndarray) -> Iterator[np.ndarray]:
        """RGB images ``(H, W, 3)`` uint8 of column ``source`` at the physical ``rows`` ``(n,)``."""
        for row in rows:
            number = int(np.searchsorted(self._firsts, row, side="right")) - 1
            file = self.files[number]
            local = int(row) - file.first
            group = file.groups_of(local, local + 1)[0]
            cell = self._column(number, group, source)[local - file.group_start(group)].as_py()
            yield self._decode(cell, f"{file.path}: column '{source}', row {local}")

    def _column(self, number: int, group: int, source: str) -> pa.Array:
        key = (number, group, source)
        column = self._groups.get(key)
        if column is None:
            with open_parquet(self.files[number].path) as parquet:
                column = parquet.read_row_group(group, columns=[source])[source].combine_chunks()
            while len(self._groups) >= self.max_groups:
                self._groups.popitem(last=False)
            self._groups[key] = column
        self._groups.move_to_end(key)
        return column

    def _decode(self, cell: Any, where: str) -> np.ndarray:
        if isinstance(cell, dict):
            data = cell.get("bytes")
            if data is None and cell.get("path"):
                return self._from_file(str(cell["path"]), where)
            cell = data
        if cell is None:
            raise DatasetError(f"{where}: empty picture")
        if isinstance(cell, bytes):
            return decode_picture(cell, where)
        image = np.asarray(cell, dtype=np.uint8)
        if image.ndim != 3:
            raise DatasetError(f"{where}: expected a picture or an array (H, W, 3), got shape {image.shape}")
        return np.ascontiguousarray(image.transpose(1, 2, 0)) if image.shape[0] == 3 else image

    def _from_file(self, name: str, where: str) -> np.ndarray:
        path = (self.root / name).resolve()
        # A table must not be able to make the reader open files elsewhere on the machine.
        if not path.is_relative_to(self.root.resolve()) or not path.is_file():
            raise DatasetError(f"{where}: no picture in the table and no file '{name}' in the dataset")
        return decode_picture(path.read_bytes(), where)
