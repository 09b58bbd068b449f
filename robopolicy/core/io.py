"""Files and directories that are either wholly there or not there: write aside, fsync, rename, hash.

Every artefact that is a directory carries a manifest with sizes and SHA-256 sums, written last; readers
accept a directory only if the manifest is there and everything in it agrees.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from robopolicy.core.errors import CheckpointError

MANIFEST = "manifest.json"
PARTIAL = ".partial-"

# Tests replace this to kill the process at a named point; in production it does nothing.
fault_point: Callable[[str], None] = lambda name: None


def fsync_path(path: Path) -> None:
    """Flush a file or directory to disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Replace ``path`` with ``data``: a reader sees the old content or the new, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{PARTIAL}{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        with open(aside, "wb") as f:
            f.write(data.encode() if isinstance(data, str) else data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_manifest(directory: Path, kind: str) -> None:
    """Hash every file below ``directory`` into its manifest (written last, atomically)."""
    files = {
        p.relative_to(directory).as_posix(): {"size": p.stat().st_size, "sha256": sha256_file(p)}
        for p in sorted(directory.rglob("*"))
        if p.is_file() and p.name != MANIFEST
    }
    for name in files:
        fsync_path(directory / name)
    # The manifest carries its own digest, so that a flipped byte in it is found too.
    body = {"format": 1, "kind": kind, "files": files}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    write_atomic(directory / MANIFEST, json.dumps({**body, "self_sha256": digest}, indent=1, sort_keys=True))


def is_complete(directory: Path) -> bool:
    """Whether the directory was finished (its manifest exists); says nothing about damage since."""
    return (directory / MANIFEST).is_file()


def verify_manifest(directory: str | Path, kind: str | None = None) -> dict[str, dict[str, object]]:
    """Check a directory against its manifest and return the file table.

    Raises ``CheckpointError`` naming the file when anything is missing, extra, of another size or of another hash.
    """
    directory = Path(directory)
    path = directory / MANIFEST
    if not path.is_file():
        hint = "it was never finished" if directory.is_dir() else "there is no such directory"
        raise CheckpointError(f"{directory}: no {MANIFEST}; {hint}")
    raw = path.read_bytes()
    try:
        manifest = json.loads(raw)
        body = {k: manifest[k] for k in ("format", "kind", "files")}
        own = manifest["self_sha256"]
    except (ValueError, KeyError, TypeError) as e:
        raise CheckpointError(f"{path}: damaged manifest ({e}); restore the directory from a copy") from e
    canonical = json.dumps({**body, "self_sha256": own}, indent=1, sort_keys=True).encode()
    if hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest() != own or canonical != raw:
        raise CheckpointError(f"{path}: damaged manifest (own digest differs); restore the directory from a copy")
    if kind is not None and body["kind"] != kind:
        raise CheckpointError(f"{directory}: expected a {kind}, found a {body['kind']}")
    _compare_files(directory, body["files"])
    files: dict[str, dict[str, object]] = body["files"]
    return files


def _compare_files(directory: Path, files: dict[str, dict[str, object]]) -> None:
    found = {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file() and p.name != MANIFEST}
    if missing := sorted(set(files) - found):
        raise CheckpointError(f"{directory}: missing {', '.join(missing)}")
    if extra := sorted(found - set(files)):
        raise CheckpointError(f"{directory}: files that are not in the manifest: {', '.join(extra)}")
    for name, entry in files.items():
        path = directory / name
        if path.stat().st_size != entry["size"]:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes, expected {entry['size']}; truncated or edited")
        if sha256_file(path) != entry["sha256"]:
            raise CheckpointError(f"{path}: content differs from its recorded hash; restore it from a copy")


@contextlib.contextmanager
def atomic_directory(target: str | Path, kind: str) -> Iterator[Path]:
    """Build a directory aside; on success it gets a manifest and appears under ``target`` in one rename.

    An existing ``target`` is replaced, and stays readable until the very rename.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f"{PARTIAL}{target.name}-{uuid.uuid4().hex[:8]}")
    aside.mkdir()
    try:
        yield aside
        fault_point("before_manifest")
        write_manifest(aside, kind)
        fsync_path(aside)
        fault_point("before_rename")
        if target.exists():
            old = target.with_name(f"{PARTIAL}{target.name}-old-{uuid.uuid4().hex[:8]}")
            os.rename(target, old)
            os.rename(aside, target)
            shutil.rmtree(old)
        else:
            os.rename(aside, target)
        fsync_path(target.parent)
        fault_point("after_rename")
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def sweep_partial(directory: str | Path) -> list[str]:
    """Clean up after interrupted writes in ``directory``; return the leftovers' names.

    A directory that was set aside to be replaced, and whose replacement never came, is put back.
    """
    directory, leftovers = Path(directory), []
    for path in directory.glob(f"{PARTIAL}*"):
        leftovers.append(path.name)
        name, aside, _ = path.name.removeprefix(PARTIAL).rpartition("-old-")
        if aside and not (directory / name).exists():
            os.rename(path, directory / name)
        else:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return sorted(leftovers)
