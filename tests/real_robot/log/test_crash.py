"""What is left of a log whose writer was killed, whose disk is full, slow, or whose bytes were cut."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from robopolicy.core.errors import DatasetError
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.log.format import HEADER, ROW
from robopolicy.real_robot.log.reader import read_log
from robopolicy.real_robot.log.replay import replay
from robopolicy.real_robot.log.writer import append_to


def test_a_killed_writer_leaves_a_log_that_replays(tmp_path):
    pytest.importorskip("mujoco")
    folder = tmp_path / "log"
    script = Path(__file__).parent / "conftest.py"
    run = subprocess.Popen([sys.executable, str(script), str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        while int(run.stdout.readline()) < 180:
            pass
        done = int(run.stdout.readline())
        time.sleep(0.5)  # the writer's period is 0.1 s
    finally:
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        run.stdout.close()
    log = read_log(folder)
    assert not log.whole
    assert "no end" in log.why
    assert len(log.rows) >= done
    result = replay(folder)
    assert result.identical, result.difference
    assert result.ticks == len(log.rows)
    assert result.setpoints > 100


def test_a_log_cut_at_any_byte_is_read_up_to_the_cut(rig):
    r = rig()
    r.call("start")
    r.submit(r.line((0.02, 0, 0)))
    r.tick(30)
    r.log.close()
    path = r.log.folder / "ticks.bin"
    whole = path.read_bytes()
    for cut in (0, 5, HEADER.size, HEADER.size + 1, HEADER.size + 7 * ROW.itemsize - 1, len(whole) - 1):
        path.write_bytes(whole[:cut])
        log = read_log(r.log.folder)
        assert len(log.rows) == max(0, cut - HEADER.size) // ROW.itemsize
        assert not log.whole
        assert "damaged" in log.why
    damaged = bytearray(whole)
    damaged[HEADER.size + 9 * ROW.itemsize + 100] ^= 1
    path.write_bytes(damaged)
    log = read_log(r.log.folder)
    assert len(log.rows) == 9
    assert replay(r.log.folder).identical


def test_rows_whose_chunk_or_text_is_missing_are_not_believed(rig):
    r = rig()
    r.call("start")
    r.tick(3)
    before = len(r.records)
    r.submit(r.line((0.02, 0, 0)))
    r.tick(30)
    r.log.close()
    path = r.log.folder / "chunks.jsonl"
    path.write_bytes(path.read_bytes()[:-1])  # the newline: a line that was not finished
    log = read_log(r.log.folder)
    assert len(log.rows) == before
    assert replay(r.log.folder).identical


class Full:
    """A file on a disk with room for so many bytes."""

    def __init__(self, path, room):
        self.file, self.room = append_to(path), room

    def write(self, data):
        if self.room <= 0:
            raise OSError(28, "No space left on device")
        count = self.file.write(data[: self.room])
        self.room -= count
        return count

    def fileno(self):
        return self.file.fileno()

    def close(self):
        self.file.close()


def drive(r):
    r.call("start")
    for k in range(4):
        r.submit(r.line((0.02 * (-1) ** k, 0, 0)))
        r.tick(30)
    return r


def wait_for(true, seconds=20):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    assert true()


def test_F39_a_full_disk_ends_the_recording_and_not_the_run(rig):
    r = rig(open_file=lambda path: Full(path, 20_000))
    drive(r)
    wait_for(lambda: r.log.ended)
    r.tick(5)
    assert r.machine.state is State.RUNNING
    assert r.records[-1].publish is not None
    assert "No space left" in r.log.ended
    assert r.log.recording.startswith("ended: the log could not be written")
    r.log.close()
    log = read_log(r.log.folder)
    assert not log.whole
    assert log.why.startswith("recording ended early: ")
    assert 0 < len(log.rows) <= 20_000 // ROW.itemsize
    assert replay(r.log.folder).identical


def test_F39_setpoints_are_the_same_with_and_without_a_disk(tmp_path, rig):
    sent = []
    for open_file in (append_to, lambda path: Full(path, 0)):
        r = drive(rig(open_file=open_file))
        sent.append(np.array([x.publish.position for x in r.records if x.publish is not None]).tobytes())
        r.log.close()
        r.log.folder.rename(tmp_path / f"log{len(sent)}")
    assert sent[0] == sent[1]


def test_F39_a_slow_disk_ends_the_recording_and_never_holds_up_a_tick(rig):
    stuck = threading.Event()

    class Slow(Full):
        def write(self, data):
            stuck.wait(60)
            return super().write(data)

    r = rig(open_file=lambda path: Slow(path, 1 << 30), limit=50_000)
    calls = []
    ticked = r.log.ticked

    def timed(*given):
        start = time.thread_time()
        ticked(*given)
        calls.append(time.thread_time() - start)

    r.log.ticked = timed
    begun = time.monotonic()
    drive(r)
    assert time.monotonic() - begun < 30  # not the 60 s that a write takes
    assert r.machine.state is State.RUNNING
    assert "too slow" in r.log.ended
    assert np.median(calls) < 1e-3
    stuck.set()
    r.log.close()
    log = read_log(r.log.folder)
    assert not log.whole
    assert "too slow" in log.why


def test_what_cannot_be_packed_ends_the_recording_only(rig):
    r = rig()
    r.log.ticked(None, None)
    assert "AttributeError" in r.log.ended
    r.tick(3)


def test_a_folder_with_something_in_it_is_refused(tmp_path, rig):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "x").write_text("")
    with pytest.raises(DatasetError, match="not empty"):
        rig()
