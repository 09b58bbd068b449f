"""Reads OGBench's files: one .npz with arrays (N, ...) over all steps and ``terminals``, true at episodes' last steps.

``episode_ends``, where the file has it, goes before ``terminals``.  The arrays are loaded whole.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.core.errors import DatasetError
from robopolicy.datasets.convert_buffer import BufferSource

ENDS, TERMINALS = "episode_ends", "terminals"


class NpzSource(BufferSource):
    """A .npz replay buffer as a ``Source``."""

    format = "npz"
    folder = ""

    def _open(self, path: Path) -> tuple[dict[str, Any], Any]:
        """Arrays, and the ends of the episodes."""
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, zipfile.BadZipFile) as e:
            raise DatasetError(f"{path}: not a readable .npz file ({type(e).__name__}: {e})") from e
        ends, terminals = arrays.pop(ENDS, None), arrays.pop(TERMINALS, None)
        if ends is None and terminals is None:
            raise DatasetError(f"{path}: no '{ENDS}' and no '{TERMINALS}': where episodes end is unknown")
        return arrays, np.flatnonzero(terminals) + 1 if ends is None else ends
