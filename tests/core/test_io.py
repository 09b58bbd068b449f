"""Atomic files and directories: whole or absent, and every damage is found."""

from __future__ import annotations

import os

import numpy as np
import pytest

from robopolicy.core import io
from robopolicy.core.errors import CheckpointError


def build(target, content=b"x" * 100):
    with io.atomic_directory(target, "policy") as d:
        (d / "a.bin").write_bytes(content)
        (d / "sub").mkdir()
        (d / "sub" / "b.txt").write_text("hello")
    return target


def test_failure_leaves_the_old_directory_and_no_litter(tmp_path):
    target = build(tmp_path / "ckpt")

    def fail() -> None:
        with io.atomic_directory(target, "policy") as d:
            (d / "a.bin").write_bytes(b"new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (target / "a.bin").read_bytes() == b"x" * 100
    assert os.listdir(tmp_path) == ["ckpt"]
    io.verify_manifest(target, "policy")


def test_every_flipped_byte_is_found(tmp_path):
    target = build(tmp_path / "ckpt")
    rng = np.random.default_rng(0)
    files = [p for p in target.rglob("*") if p.is_file()]
    for _ in range(200):
        path = files[rng.integers(len(files))]
        good = path.read_bytes()
        bad = bytearray(good)
        bad[rng.integers(len(bad))] ^= int(rng.integers(1, 256))
        path.write_bytes(bad)
        with pytest.raises(CheckpointError):
            io.verify_manifest(target, "policy")
        path.write_bytes(good)
    io.verify_manifest(target, "policy")


def test_missing_extra_truncated_and_foreign_are_named(tmp_path):
    target = build(tmp_path / "ckpt")
    with pytest.raises(CheckpointError, match="expected a run, found a policy"):
        io.verify_manifest(target, "run")
    (target / "extra").write_text("?")
    with pytest.raises(CheckpointError, match="extra"):
        io.verify_manifest(target)
    (target / "extra").unlink()
    (target / "a.bin").write_bytes(b"x" * 99)
    with pytest.raises(CheckpointError, match=r"a\.bin: 99 bytes, expected 100"):
        io.verify_manifest(target)
    (target / "a.bin").unlink()
    with pytest.raises(CheckpointError, match=r"missing a\.bin"):
        io.verify_manifest(target)
    (target / io.MANIFEST).unlink()
    with pytest.raises(CheckpointError, match="never finished"):
        io.verify_manifest(target)
    with pytest.raises(CheckpointError, match="no such directory"):
        io.verify_manifest(tmp_path / "nowhere")


def test_sweep_removes_only_leftovers(tmp_path):
    build(tmp_path / "ckpt")
    (tmp_path / ".partial-ckpt-123").mkdir()
    (tmp_path / ".partial-file-1").write_text("half")
    assert io.sweep_partial(tmp_path) == [".partial-ckpt-123", ".partial-file-1"]
    assert os.listdir(tmp_path) == ["ckpt"]


def test_sweep_puts_back_what_was_set_aside_for_a_replacement_that_never_came(tmp_path):
    build(tmp_path / ".partial-ckpt-old-12ab")
    io.sweep_partial(tmp_path)
    io.verify_manifest(tmp_path / "ckpt", "policy")


def test_write_atomic_keeps_the_old_content_on_failure(tmp_path, monkeypatch):
    path = tmp_path / "f.json"
    io.write_atomic(path, "old")

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(io.os, "replace", no_space)
    with pytest.raises(OSError, match="No space"):
        io.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["f.json"]
