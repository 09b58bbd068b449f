"""From what a user names (a folder or a hub id) to a folder on disk.  A local path never leads to the network."""

from __future__ import annotations

import os
import re
from pathlib import Path

from robopolicy.core.errors import DatasetError

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")


def lerobot_home() -> Path:
    """Where lerobot keeps recorded and downloaded sets (``HF_LEROBOT_HOME``, else its default)."""
    home = os.environ.get("HF_HOME", Path("~/.cache/huggingface"))
    return Path(os.environ.get("HF_LEROBOT_HOME", Path(home) / "lerobot")).expanduser()


def resolve_root(source: str | Path, revision: str | None = None) -> Path:
    """Folder of the dataset ``source``.

    A ``Path``, or text that exists or looks like a path, is local: if it is not there, ``DatasetError``, no download.
    Text of the form ``owner/name`` is taken from lerobot's home folder, else downloaded from the hub.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    text = str(source)
    # "data/pusht" beside an existing folder "data" is a mistyped path, not somebody's account.
    looks_local = isinstance(source, Path) or not _HUB_ID.match(text) or Path(text.split("/")[0]).exists()
    if looks_local:
        hint = "; it is a file, expected the dataset's folder" if path.exists() else ""
        raise DatasetError(f"{source}: no such dataset folder{hint}")
    recorded = lerobot_home() / text
    if (recorded / "meta" / "info.json").is_file():
        return recorded
    return _download(text, revision)


def _download(repo_id: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as e:
        raise DatasetError(f"{repo_id}: no such folder, and the hub needs 'pip install huggingface_hub'") from e
    try:
        return Path(snapshot_download(repo_id, repo_type="dataset", revision=revision))
    except (OSError, ValueError) as e:
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise DatasetError(f"{repo_id}: no such folder here, and not to be had from the hub ({reason})") from e
