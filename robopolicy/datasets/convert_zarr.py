"""Reads Diffusion Policy replay buffers: zarr (folder or zip), ``data/<array>`` (N, ...) and ``meta/episode_ends``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robopolicy.core.errors import DatasetError
from robopolicy.datasets.convert_buffer import BufferSource


class ZarrSource(BufferSource):
    """A zarr replay buffer as a ``Source``."""

    format = "zarr"
    folder = "data/"

    def _open(self, path: Path) -> tuple[dict[str, Any], Any]:
        """Arrays of ``data/`` and ``meta/episode_ends``; the group may lie one folder down in a zip."""
        import zarr

        try:
            store = (
                zarr.storage.ZipStore(path, mode="r")
                if path.is_file()
                else zarr.storage.LocalStore(path, read_only=True)
            )
            group: Any = zarr.open_group(store, mode="r")
            if "data" not in group:
                group = next((g for _, g in group.groups() if "data" in g), group)
            return dict(group["data"].arrays()), group["meta/episode_ends"]
        except (OSError, KeyError, ValueError) as e:
            raise DatasetError(
                f"{path}: not a replay buffer ({type(e).__name__}: {e}); "
                "expected zarr groups data/ and meta/episode_ends"
            ) from e
