"""The frame cache: same frames, decoded once, never half there, never stale, one writer at a time."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from robopolicy.core.errors import DatasetError
from robopolicy.core.io import PARTIAL
from robopolicy.datasets import cache_entry
from robopolicy.datasets.cache import FrameCache
from robopolicy.datasets.reader import Reader
from robopolicy.testing.datasets import make_tiny_dataset

CAMERA = "observation.images.cam0"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_tiny_dataset(tmp_path_factory.mktemp("c") / "set", "v3.0", 3, (150, 80, 90), size=(24, 32))


@pytest.fixture
def decodes(monkeypatch):
    """Counts the decoded blocks."""
    seen = []
    original = Reader.decode
    monkeypatch.setattr(Reader, "decode", lambda self, *a: seen.append(a[1]) or original(self, *a))
    return seen


def test_frames_equal_decoded_ones_and_are_decoded_once(root, tmp_path, decodes):
    reader = Reader(root)
    expected = reader.frames(CAMERA, np.arange(320), (12, 16))
    decodes.clear()
    first = FrameCache(reader, CAMERA, (12, 16), tmp_path)
    assert len(decodes) == 2
    assert first.frames.shape == (320, 3, 12, 16)
    np.testing.assert_array_equal(first.frames, expected)
    again = FrameCache(Reader(root), CAMERA, (12, 16), tmp_path, verify=True)
    assert len(decodes) == 2
    assert again.path == first.path
    np.testing.assert_array_equal(again.frames, expected)
    with pytest.raises(ValueError, match="read-only"):
        again.frames[0] = 0


def test_entries_are_named_by_content(root, tmp_path):
    def name(source, size=(12, 16), episodes=None):
        return cache_entry.entry_name(Reader(source, episodes), CAMERA, size, tmp_path)

    moved = shutil.copytree(root, tmp_path / "moved")
    assert name(moved) == name(root)
    others = {name(root), name(root, (16, 16)), name(root, episodes=[0, 1]), name(root, episodes=[1])}
    assert len(others) == 4
    video = next(moved.rglob("*.mp4"))
    other = make_tiny_dataset(tmp_path / "other", "v3.0", 3, (150, 80, 90), size=(24, 32), seed=1)
    shutil.copy(other / video.relative_to(moved), video)
    assert name(moved) != name(root)


def test_damage_is_found_and_mended(root, tmp_path, caplog):
    reader = Reader(root)
    entry = FrameCache(reader, CAMERA, None, tmp_path)
    expected = entry.frames.copy()
    data = entry.path / cache_entry.FRAMES
    del entry
    for damage in (flip_byte, truncate, lose_meta):
        damage(data)
        caplog.clear()
        np.testing.assert_array_equal(FrameCache(reader, CAMERA, None, tmp_path).frames, expected)
        assert ("damaged frame cache" in caplog.text) or damage is lose_meta


def flip_byte(path):
    with open(path, "r+b") as f:
        f.seek(path.stat().st_size // 2)
        byte = f.read(1)[0]
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte ^ 16]))


def truncate(path):
    os.truncate(path, path.stat().st_size - 1000)


def lose_meta(path):
    (path.parent / "manifest.json").unlink()


OPEN_AND_SUM = """
import sys, numpy as np
from robopolicy.datasets.cache import FrameCache
from robopolicy.datasets.reader import Reader
entry = FrameCache(Reader(sys.argv[1]), sys.argv[2], (12, 16), sys.argv[3], progress=False)
print(int(entry.frames.astype(np.int64).sum()))
"""


def test_concurrent_processes_share_one_entry(root, tmp_path):
    command = [sys.executable, "-c", OPEN_AND_SUM, str(root), CAMERA, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    sums = {p.communicate(timeout=120)[0].strip() for p in processes}
    assert [p.returncode for p in processes] == [0, 0, 0]
    expected = Reader(root).frames(CAMERA, np.arange(320), (12, 16)).astype(np.int64).sum()
    assert sums == {str(expected)}
    entries = [p for p in (tmp_path / "frames").iterdir() if p.is_dir()]
    assert len(entries) == 1


def test_an_interrupted_build_leaves_nothing_usable(root, tmp_path, monkeypatch):
    reader = Reader(root)
    calls = []
    original = Reader.decode

    def fail_on_second(self, *args):
        calls.append(1)
        if len(calls) > 1:
            raise DatasetError("video went away")
        return original(self, *args)

    monkeypatch.setattr(Reader, "decode", fail_on_second)
    with pytest.raises(DatasetError, match="went away"):
        FrameCache(reader, CAMERA, (12, 16), tmp_path)
    assert [p for p in (tmp_path / "frames").iterdir() if p.is_dir()] == []
    monkeypatch.undo()
    name = cache_entry.entry_name(reader, CAMERA, (12, 16), tmp_path)
    leftover = tmp_path / "frames" / f"{PARTIAL}{name}-killed"  # what kill -9 in the middle would leave
    leftover.mkdir()
    (leftover / cache_entry.FRAMES).write_bytes(b"0" * 100)
    entry = FrameCache(reader, CAMERA, (12, 16), tmp_path)
    assert not leftover.exists()
    assert entry.frames.shape[0] == 320


def test_in_memory_writes_nothing(root, tmp_path, monkeypatch):
    monkeypatch.setenv("ROBOPOLICY_CACHE", str(tmp_path / "never"))
    reader = Reader(root, episodes=[1])
    entry = FrameCache(reader, CAMERA, (12, 16), in_memory=True)
    np.testing.assert_array_equal(entry.frames, reader.frames(CAMERA, np.arange(80), (12, 16)))
    assert entry.path is None
    assert not (tmp_path / "never").exists()


def test_no_room_and_no_right_to_write_are_explained(root, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DatasetError, match=r"need 0\.0 GB, 0\.0 GB are free; choose smaller images"):
        FrameCache(Reader(root), CAMERA, None, tmp_path / "full")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DatasetError, match="cannot be written"):
        FrameCache(Reader(root), CAMERA, None, blocked)


def test_disk_full_while_writing_leaves_no_entry(root, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DatasetError, match="No space left"):
        FrameCache(Reader(root), CAMERA, None, tmp_path)
    assert [p for p in (tmp_path / "frames").iterdir() if p.is_dir()] == []


def test_pictures_in_tables_are_cached_too(tmp_path):
    root = make_tiny_dataset(tmp_path / "set", "v3.0", 3, 10, size=(20, 20), images="image")
    reader = Reader(root)
    entry = FrameCache(reader, CAMERA, None, tmp_path / "cache")
    np.testing.assert_array_equal(entry.frames, reader.frames(CAMERA, np.arange(30)))
