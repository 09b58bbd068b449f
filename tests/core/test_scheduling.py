"""Threads do not stay real-time because a video encoder made them so."""

from __future__ import annotations

import os
import sys
import threading

import numpy as np
import pytest

from robopolicy.core.scheduling import kept_scheduling, make_ordinary, real_time_threads
from robopolicy.datasets.video_writer import VideoWriter, probe_encoder
from robopolicy.testing.tiny_video import encode

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="scheduling classes of Linux")


@pytest.fixture
def real_time():
    """What raises the calling thread, where that is allowed; the thread is ordinary again at the end."""
    ours = threading.get_native_id()

    def rise(task: int = 0, policy: int = os.SCHED_RR) -> None:
        os.sched_setscheduler(task, policy, os.sched_param(1))

    try:
        rise()
    except PermissionError:
        pytest.skip("no right to real-time scheduling here")
    make_ordinary({ours})
    yield rise
    make_ordinary({ours})


def test_threads_raised_in_the_block_come_back(real_time):
    ours = threading.get_native_id()
    assert ours not in real_time_threads()
    with kept_scheduling():
        real_time()
        assert ours in real_time_threads()
    assert ours not in real_time_threads()
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_a_thread_that_was_real_time_before_stays(real_time):
    real_time(policy=os.SCHED_FIFO)
    with kept_scheduling():
        pass
    assert os.sched_getscheduler(0) == os.SCHED_FIFO


def test_threads_raised_by_an_exception_s_block_come_back(real_time):
    with pytest.raises(ZeroDivisionError), kept_scheduling():
        raise ZeroDivisionError(real_time())
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


@pytest.mark.parametrize("encoder", ["libx264", "libsvtav1"])
def test_writing_a_video_leaves_no_real_time_thread(tmp_path, encoder):
    before = real_time_threads()
    writer = VideoWriter(tmp_path / "a.mp4", 64, 64, 10.0, probe_encoder(encoder))
    for _ in range(3):
        writer.add(np.zeros((3, 64, 64), np.uint8))
        assert real_time_threads() <= before
    writer.close()
    assert real_time_threads() <= before


def test_the_test_videos_too(tmp_path):
    before = real_time_threads()
    encode(tmp_path / "a.mp4", np.zeros((3, 64, 64, 3), np.uint8), 10, "libsvtav1")
    assert real_time_threads() <= before
